package main

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// exchange is a request and its expected answer.
type exchange struct {
	request []byte
	body    []byte // nil: any
	part    []byte // occurs in the body; nil: anything does
}

// load is the result of a slice of requests.
type load struct {
	requests int           // answered before the slice ended
	took     time.Duration // the slice
	latency  *hdrhistogram.Histogram
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(time.Microsecond), int64(time.Minute), 3)
}

// memory of a process, in MB.
type memory struct {
	Resident float64 `json:"resident_mb"`
	Peak     float64 `json:"peak_mb"`
}
