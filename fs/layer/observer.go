package layer

import "time"

// Result is how a read ended.
type Result string

const (
	Hit    Result = "hit"  // all of it was in the store
	Miss   Result = "miss" // some of it had to be fetched, and was
	Failed Result = "error"
)

// Observer is told what happens. Each field may be nil; none may block or call the Layer.
type Observer struct {
	Read          func(Result)        // after each ReadAt
	ReadWait      func(time.Duration) // what a read waited for missing chunks, whether it got them or not
	VerifyFailure func(host string)   // the host sent bytes that are not the chunk's
	Fetched       func(Range)         // after each range
	Copied        func(bytes int64)   // after each chunk that came from another layer of the store, with its uncompressed bytes
	Error         func(error)         // Fill met an error: it goes on, and will try again
}

// Range is one range that was fetched, successfully or not. Its four times are all of the time it took.
type Range struct {
	Priority   Priority      // that it was started with
	Blob       int64         // compressed bytes that came
	Chunks     int           // that were stored
	Bytes      int64         // uncompressed, of the chunks stored
	Wait       time.Duration // for its turn
	Network    time.Duration // waiting for bytes of the blob
	Decompress time.Duration // including the wait for a core
	Disk       time.Duration // hashing and storing
	Err        error         // why a chunk is still missing; nil if none is
}

func (o Observer) read(r Result) {
	if o.Read != nil {
		o.Read(r)
	}
}

func (o Observer) readWait(d time.Duration) {
	if o.ReadWait != nil {
		o.ReadWait(d)
	}
}

func (o Observer) verifyFailure(host string) {
	if o.VerifyFailure != nil {
		o.VerifyFailure(host)
	}
}

func (o Observer) fetched(r Range) {
	if o.Fetched != nil {
		o.Fetched(r)
	}
}

func (o Observer) copied(bytes int64) {
	if o.Copied != nil {
		o.Copied(bytes)
	}
}

func (o Observer) error(err error) {
	if o.Error != nil {
		o.Error(err)
	}
}
