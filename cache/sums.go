package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/cespare/xxhash/v2"
	"github.com/opencontainers/go-digest"
)

// sums is a kind of digests of chunks.
type sums string

const (
	// sha256Sums come from a blob's TOC: they say what bytes from the network have to be.
	sha256Sums sums = ""
	// xxhashSums are taken of a layer that was checked as a whole: they say what the disk has lost, and guard against nobody. They
	// fill the first eight bytes of a chunk's digest.
	xxhashSums sums = "xxhash64"
)

func (s sums) known() bool { return s == sha256Sums || s == xxhashSums }

func (s sums) new() hash.Hash {
	if s == xxhashSums {
		return xxhash.New()
	}
	return sha256.New()
}

// sum is the digest of what h was given.
func (s sums) sum(h hash.Hash) (d [32]byte) {
	h.Sum(d[:0])
	return d
}

func (s sums) of(p []byte) (d [32]byte) {
	if s == xxhashSums {
		binary.BigEndian.PutUint64(d[:], xxhash.Sum64(p))
		return d
	}
	return sha256.Sum256(p)
}

// digest is d as messages name it.
func (s sums) digest(d [32]byte) digest.Digest {
	if s == xxhashSums {
		return digest.NewDigestFromBytes(digest.Algorithm(s), d[:8])
	}
	return digest.NewDigestFromBytes(digest.SHA256, d[:])
}
