package result

import "slices"

// Measure names a figure; its unit is the end of its name.
type Measure string

// The measures. A row has those that make sense for it.
const (
	Pull  Measure = "pull_s"  // from the request to pull until the image is there
	Run   Measure = "run_s"   // from the request to create a container until it is ready
	Total Measure = "total_s" // until ready; of several containers that start at once, the last one, while Pull and Run are their means
	Local Measure = "local_s" // Run once more on the same node, when all is unpacked and in the page cache; the baseline's
	All   Measure = "all_s"   // from the request to pull until nothing more came through the link; of one repetition

	BytesReady    Measure = "ready_bytes" // at the link until ready
	RequestsReady Measure = "ready_requests"
	BytesAll      Measure = "all_bytes" // at the link in all; of one repetition
	RequestsAll   Measure = "all_requests"

	Prepare Measure = "prepare_s" // of all Prepare calls of Sluice until ready, one after another: those of the layers and the container's own

	WaitMedian Measure = "wait_p50_s"       // of readers, for contents that were not there
	WaitP95    Measure = "wait_p95_s"       // which 95 of 100 of these waits did not exceed
	Present    Measure = "present_reads"    // that found contents which had come before they were asked for, and do not count
	LinkRate   Measure = "link_bytes_per_s" // through the link meanwhile

	CPU           Measure = "cpu_s"                // of containerd and the snapshotter until ready, user and system; shims and containers are not part of it
	RSS           Measure = "rss_bytes"            // peak of the snapshotter's own processes since they started; absent where containerd has the snapshotter in itself
	ContainerdRSS Measure = "containerd_rss_bytes" // peak of containerd since it started, with the snapshotter that it may have in itself
	PageCache     Measure = "page_cache_bytes"     // growth until ready, the machine's
	Disk          Measure = "disk_bytes"           // below the node when its containers have ended
	Seconds       Measure = "time_s"               // of one operation
	Throughput    Measure = "throughput_bytes_per_s"
	Rate          Measure = "rate_per_s" // operations per second
)

// More says that a larger value is better.
func (m Measure) More() bool { return m == Throughput || m == Rate || m == LinkRate }

// Summary of the repetitions of a measure.
type Summary struct {
	N                int
	Median, Min, Max float64
}

// Summarize returns the zero Summary for no values.
func Summarize(values []float64) Summary {
	n := len(values)
	if n == 0 {
		return Summary{}
	}
	s := slices.Sorted(slices.Values(values))
	return Summary{N: n, Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1]}
}
