package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const pageBytes = 4096

// model loads a file of weights as servers of models do.
func model(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "read":
		total := checksum{}
		if err := total.file(args[1]); err != nil {
			return err
		}
		return total.print()
	case len(args) == 4 && args[0] == "map":
		seed, err := strconv.ParseUint(args[2], 10, 64)
		if err != nil {
			return fmt.Errorf("model map: seed: %w", err)
		}
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return fmt.Errorf("model map: pages: %w", err)
		}
		return modelMap(args[1], seed, n)
	}
	return errors.New("model: want read FILE, or map FILE SEED N")
}

// modelMap reads n whole pages, some perhaps twice, in the order in which a generator of random numbers names them.
func modelMap(name string, seed uint64, n int) error {
	content, err := mapped(name)
	if err != nil {
		return fmt.Errorf("model map: %w", err)
	}
	pages := len(content) / pageBytes
	if pages == 0 {
		return fmt.Errorf("model map: %s has no whole page", name)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	total := checksum{}
	for range n {
		at := r.IntN(pages) * pageBytes
		total.Write(content[at : at+pageBytes]) //nolint:errcheck // it has none to return
	}
	return total.print()
}

// mapped is a file's content in memory, until the program ends.
func mapped(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", name, err)
	}
	return p, nil
}
