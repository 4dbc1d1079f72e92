package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/converter/image"
)

func tocDigestCommand() *cli.Command {
	return &cli.Command{
		Name:      "get-toc-digest",
		Usage:     "print the TOC digest of a layer in containerd's content store",
		ArgsUsage: "DIGEST",
		Flags:     containerdFlags(),
		Action:    tocDigest,
	}
}

func tocDigest(c *cli.Context) (err error) {
	argv, err := args(c, "DIGEST")
	if err != nil {
		return err
	}
	d, err := digest.Parse(argv[0])
	if err != nil {
		return usagef("get-toc-digest %q: %w", argv[0], err)
	}
	cl, err := containerdClient(c)
	if err != nil {
		return fmt.Errorf("get-toc-digest: %w", err)
	}
	defer func() { err = errors.Join(err, cl.Close()) }()
	ra, err := cl.ContentStore().ReaderAt(c.Context, ocispec.Descriptor{Digest: d})
	if err != nil {
		return fmt.Errorf("get-toc-digest: %w", err)
	}
	defer ra.Close()
	found, err := readTOCDigest(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return fmt.Errorf("get-toc-digest %s: %w", d, err)
	}
	_, err = fmt.Fprintln(c.App.Writer, found)
	return err
}

// readTOCDigest trusts the blob, which containerd has verified, to say which TOC is its own.
func readTOCDigest(blob *io.SectionReader) (digest.Digest, error) {
	r, err := estargz.Open(blob, estargz.WithDecompressors(new(zstdchunked.Decompressor)))
	if err != nil {
		return "", fmt.Errorf("%w: no TOC: %w", image.ErrUnsuitable, err)
	}
	return r.TOCDigest(), nil
}
