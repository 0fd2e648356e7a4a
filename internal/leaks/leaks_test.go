package leaks

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestAGoroutineThatEndsLaterIsNoLeak(t *testing.T) {
	before := goleak.IgnoreCurrent()
	go time.Sleep(time.Second) // longer than goleak waits by itself
	if goleak.Find(before) == nil {
		t.Error("goleak waits so long by itself: this package is of no use")
	}
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
