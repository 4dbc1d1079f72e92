// Package remote reads one blob of a registry as byte ranges.
//
// A [Registry] stands for all registries of a node: configuration, credentials and connections are shared by what it
// hands out. A [Blob] is one blob under one image reference; [Blob.ReadRange] is the only way to its bytes.
//
// Words:
//
//   - A host answers requests. One reference has several: the mirrors that hosts.toml names, in its order, and then the
//     origin, which is the registry that the reference itself names. Only hosts with the pull capability are asked.
//   - An endpoint is one host as one repository sees it: with a token for that repository and no other.
//   - A signed URL is where a host redirects a blob request to, on another host. It carries its own permission, so it is
//     asked without credentials and without headers of hosts.toml, and it expires. It is remembered per blob.
//   - A fault is temporary if the same host may answer better later (no answer, a reset, a stall, a body that ends early,
//     408, 429, 5xx), and permanent otherwise.
//   - A round is one try at every host that has no permanent fault. Within a round hosts are asked at once after
//     each other; between rounds there is a backoff with jitter, or what hosts ask for.
//   - A site is the address of a host or of what signed URLs lead to. When it says that it is asked too much (429, 502, 503,
//     504, or Retry-After), that holds for everybody: nobody begins a request there before its time, those with other hosts
//     ask them, and fewer are under way from then on. See pacer.go. Who is told so while others are answered has many more
//     attempts than who meets another fault. See trial.go.
//   - A lane is one connection by HTTP/2. Large ranges of one site use several. See fan.go.
//
// Nothing here is verified but manifests: the bytes of a blob are checked by whoever knows their digest. Nothing is
// logged and nothing is kept in package variables; containerd's own hosts.toml code logs what it cannot parse.
//
// Concurrency: every method of [Registry] and [Blob] may be called from any number of goroutines. A reader from
// ReadRange belongs to one goroutine; to interrupt its Read from elsewhere, cancel the context that ReadRange was given.
// No call starts work that outlives its context, except a look for credentials or a token that others may be waiting
// for; it ends by itself.
package remote
