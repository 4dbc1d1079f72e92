package workload

import "github.com/sluice-snapshotter/sluice/integration/images"

// A server is polled often, so that the waiting adds little to what is measured, and only as long as it lives.

func redis() Workload {
	return says(Workload{
		Name:  "redis",
		Image: debian(images.DebianOptions{Name: "bench-redis", Packages: [][]string{{"redis-tools"}, {"redis-server"}}}),
		Args: shell(`
redis-server --save '' --appendonly no >/dev/null &
until [ "$(redis-cli ping 2>/dev/null)" = PONG ]; do kill -0 $!; sleep 0.01; done
echo ready
redis-cli shutdown nosave >/dev/null
wait`),
	}, "ready")
}

// postgres serves the cluster that its package makes when it is installed.
func postgres() Workload {
	return says(Workload{
		Name: "postgres",
		Image: debian(images.DebianOptions{
			Name: "bench-postgres", Packages: [][]string{{"perl"}, {"postgresql-common"}, {"postgresql"}},
		}),
		// It refuses to be root. /run, where the package wants its files, is empty in a container.
		Args: append([]string{"/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"}, shell(`
cd /usr/lib/postgresql/*/bin
./postgres -D /etc/postgresql/*/main -c listen_addresses= -c unix_socket_directories=/tmp -c external_pid_file= -c ssl=off 2>/dev/null &
until [ "$(./psql -h /tmp -Atc 'select 42' 2>/dev/null)" = 42 ]; do kill -0 $!; sleep 0.02; done
echo ready
kill -QUIT $!
wait`)...),
	}, "ready")
}

func nginx() Workload {
	return Workload{
		Name:  "nginx",
		Ready: "HTTP/1.1 200 OK",
		Image: debian(images.DebianOptions{
			Name: "bench-nginx", Packages: [][]string{{"nginx-common"}, {"nginx"}},
			Script: `sed -i '/\[::\]/d' /etc/nginx/sites-available/default`, // not every kernel has IPv6
		}),
		Args: []string{"/bin/bash", "-ec", `
nginx -g 'daemon off;' &
until exec 3<>/dev/tcp/127.0.0.1/80; do kill -0 $!; sleep 0.01; done 2>/dev/null
printf 'GET / HTTP/1.0\r\n\r\n' >&3
IFS=$'\r' read -r status <&3
echo "$status"
while read -r line <&3 && [ "$line" != $'\r' ]; do :; done
md5sum <&3
kill $!
wait`},
	}
}
