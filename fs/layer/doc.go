// Package layer is a layer whose contents arrive on demand: it fetches what is missing from the layer's blob, verifies
// it, and puts it into the layer store.
//
// Its words: a chunk is the unit that has a digest; a stream is the piece of the blob that decompresses by itself (a gzip
// member, a zstd frame) and holds one chunk or several; a range is what one request asks the blob for: neighbouring
// streams. A flight is a range under way: from the moment its chunks are spoken for until each of them is in the store
// or has failed. A chunk is in one flight at most, so it is fetched once however many readers wait for it.
//
// All flights of a node go through one Scheduler, in three priorities: demand (a reader waits), prefetch (a container
// will be started when it is there) and background (the rest). It bounds how many ranges are under way, how much memory
// they hold, and how many of them decode at once.
//
// A flight reads its range as a stream and decodes as the bytes come: what it holds in memory is one decoded chunk and a
// small read buffer, however long the range is. The network waits, through TCP, when decoding is the slower of the two.
// Decoding is parallel across ranges. Each chunk's readers are answered when that chunk is stored, not when the range
// ends.
//
// A TOC in memory is many times as large as in its blob, so there is a limit for those too, and what a burst of work has taken
// is given back to the system when the node has come to rest. Of chunk tables, which are mapped, no more is resident than what was
// looked at last.
//
// # Concurrency
//
// Everything exported may be used by many goroutines at once. A flight lives under its Layer, not under the reader that
// started it: the reader may leave, others stay. It ends early when the last reader that waits for it leaves, and when
// the Layer is closed. Close waits for everything that the Layer started and for all calls under way.
package layer
