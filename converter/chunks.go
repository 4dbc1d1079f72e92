package converter

const (
	// smallChunk is the chunk size of layers for which none is given. Programs read little of the large files that they map: of PyTorch's 537 MB
	// 99. Measured, chunks of 4 MiB that have some of that are 160 MB compressed, of 1 MiB 132, of 256 KiB 95, of 64 KiB 63; the layers
	// grow by 0.6 % with 256 KiB. A prefetch list's ranges are cut out besides, and then it is 71.
	smallChunk = 256 << 10

	// manyChunks is how many a layer may have of that size: each is some 100 bytes of the TOC, which has to come before a container starts.
	manyChunks = 16384
	largeChunk = 4 << 20 // estargz's own
)

// chunkSize is that of a layer with so many bytes of contents, for which none is given.
func chunkSize(content int64) int64 {
	size := int64(smallChunk)
	for size < largeChunk && content/size > manyChunks {
		size *= 2
	}
	return size
}
