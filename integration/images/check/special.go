package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// nobody has no rights of its own.
const nobody = 65534

// programs runs a program whose bytes nothing has read, and a script with it as interpreter.
func programs(dir string) (string, error) {
	id, err := output(0, filepath.Join(dir, "exec/program"), "id")
	if err != nil {
		return "", err
	}
	script, err := output(0, filepath.Join(dir, "exec/script"))
	if err != nil {
		return "", err
	}
	if id != "0 0" || script != "the second line" {
		err = fmt.Errorf("the program says %q, the script %q", id, script)
	}
	return id + ", " + script, err
}

// privileges runs programs that have more of them than the user who does: one by its mode, one by security.capability.
func privileges(dir string) (string, error) {
	plain, err := output(nobody, filepath.Join(dir, "exec/program"), "id")
	if err != nil {
		return "", err
	}
	setuid, err := output(nobody, filepath.Join(dir, "setuid/program"), "id")
	if err != nil {
		return "", err
	}
	if plain != "65534 65534" || setuid != "65534 0" {
		return "", fmt.Errorf("users are %q, with setuid %q", plain, setuid)
	}
	if _, err := output(nobody, filepath.Join(dir, "exec/program"), "raw"); err == nil {
		return "", errors.New("anybody may open a raw socket, so that the capability proves nothing")
	}
	if _, err := output(nobody, filepath.Join(dir, "capable/program"), "raw"); err != nil {
		return "", fmt.Errorf("with security.capability: %w", err)
	}
	return setuid, nil
}

// output runs a program as a user and returns what it prints, without the end of the line.
func output(uid uint32, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...) //nolint:noctx // main ends what waits too long
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// devices uses two that every container may: their numbers are the image's, what they do is the kernel's.
func devices(dir string) (string, error) {
	null, err := os.OpenFile(filepath.Join(dir, "devices/null"), os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()
	if _, err := null.WriteString("anything"); err != nil {
		return "", err
	}
	if n, err := null.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return "", errors.Join(fmt.Errorf("null has %d bytes", n), err)
	}
	zero, err := os.Open(filepath.Join(dir, "devices/zero"))
	if err != nil {
		return "", err
	}
	defer zero.Close()
	p := bytes.Repeat([]byte{1}, 100)
	if _, err := io.ReadFull(zero, p); err != nil || !bytes.Equal(p, make([]byte, len(p))) {
		return "", errors.Join(fmt.Errorf("zero has %x", p), err)
	}
	return "null and zero", nil
}

// fifo reads what another process writes.
func fifo(dir string) (string, error) {
	name, want := filepath.Join(dir, "fifo"), "through the fifo"
	cmd := exec.Command(filepath.Join(dir, "exec/program"), "say", name, want) //nolint:noctx // main ends what waits too long
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	got, err := os.ReadFile(name)
	if err = errors.Join(err, cmd.Wait()); err == nil && string(got) != want {
		err = fmt.Errorf("got %q, want %q", got, want)
	}
	return string(got), err
}

// socket makes one, which no layer can have, in a folder of the image, and connects to it.
func socket(dir string) (_ string, err error) {
	name := filepath.Join(dir, "folder/socket")
	l, err := net.Listen("unix", name) //nolint:noctx // main ends what waits too long
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return "", errors.Join(fmt.Errorf("%s has mode %o", name, st.Mode), err)
	}
	c, err := net.Dial("unix", name) //nolint:noctx // main ends what waits too long
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write([]byte("to the socket")); err != nil {
		return "", err
	}
	other, err := l.Accept()
	if err != nil {
		return "", err
	}
	defer other.Close()
	p := make([]byte, 100)
	n, err := other.Read(p)
	return string(p[:n]), err
}
