package leaks

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestAGoroutineThatEndsLaterIsNoLeak(t *testing.T) {
	before := goleak.IgnoreCurrent()
	end := make(chan struct{})
	go stays(end)
	if goleak.Find(before) == nil {
		t.Error("goleak does not see the goroutine: this tests nothing")
	}
	time.AfterFunc(time.Second, func() { close(end) }) // after more than goleak waits by itself
	None(t, before)
}

func TestAGoroutineThatStaysIsALeak(t *testing.T) {
	before := goleak.IgnoreCurrent()
	end := make(chan struct{})
	defer close(end)
	go stays(end)
	if err := find(time.Millisecond, before); err == nil || !strings.Contains(err.Error(), "leaks.stays") {
		t.Errorf("got %v, want the stack of the goroutine", err)
	}
}

func stays(end chan struct{}) { <-end }
