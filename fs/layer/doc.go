// Package layer is a layer whose contents arrive on demand: it fetches what is missing from the layer's blob, verifies
// it, and puts it into the layer store.
//
// Its words: a chunk is the unit that has a digest; a stream is the piece of the blob that decompresses by itself (a gzip
// member, a zstd frame) and holds one chunk or several; a range is what one request asks the blob for: neighbouring
// streams. A flight is a range under way: from the moment its chunks are spoken for until each of them is in the store
// or has failed. A chunk is in one flight at most, so it is fetched once however many readers wait for it.
//
// All flights of a node go through one Scheduler, in three priorities: demand (a reader waits), prefetch (a container
// will be started when it is there, or a sequential reader is about to come to it) and background (the rest). Within one, images
// take turns. It bounds how many ranges are under way, how much memory they hold, and how many jobs decode at once. A reader that
// comes to wait for a chunk in flight raises what has not begun of that flight to demand. Who fetches by itself (package plain) has its ranges
// admitted there too, and reserves its memory, which counts like theirs.
//
// A flight reads its range in one goroutine and cuts it into jobs, some streams each, that others decode, hash and store, on all
// cores: neither does the network wait for a decoder, nor a lone range for one core. It holds three jobs at most. A stream too
// long for that is decoded as it comes, in one read buffer; then the network waits, through TCP. Each chunk's readers are
// answered when that chunk is stored, not when the range ends.
//
// How far to go is measured, not set: a demand range brings besides what the link brings in one round trip; who reads a layer
// front to back gets a window ahead that doubles as long as that goes on (follow.go); background has as many ranges under way
// as make it faster (pilot.go). While something more urgent is under way, ranges of less priority are not read on.
//
// A range that waits for a silent registry lends its place to others, and has to be admitted again for what comes then (lend.go). So a
// registry that hangs holds nobody up but its own readers.
//
// What streams have besides chunks, the layer's skeleton, is kept as it is decoded (pieces.go). Once a layer is complete, Prove computes
// its diffID of that and of the data file, without decoding anything again. What the skeleton lacks, that of chunks which were copied from other
// layers, it guesses of the TOC (guess.go), and fetches where that was wrong.
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
