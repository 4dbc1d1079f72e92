package main

import (
	"net"
	"os"
)

// notify tells systemd the state of the service, if it asked for it by
// NOTIFY_SOCKET (sd_notify(3)). A name that begins with @ is an abstract socket.
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
