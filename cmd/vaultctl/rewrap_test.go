package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/db"
)

// A million data keys whose KMS key is away are counted, not kept.
func TestRewrapKeepsSoManyFailures(t *testing.T) {
	r := &rewrapping{}
	for version := range 2500 {
		r.fail(db.WrappedKey{Name: "app/x", Version: version + 1}, errors.New("its KMS key is not available"))
	}
	if len(r.Failed) != listedFailures || r.Failed[0].Version != 1 || r.failures() != 2500 {
		t.Errorf("got %d listed, the first of version %d, and %d failures, want 1000, 1 and 2500", len(r.Failed),
			r.Failed[0].Version, r.failures())
	}
	if err := r.outcome(nil); err == nil || !strings.Contains(err.Error(), "2500 data keys could not be rewrapped") {
		t.Errorf("got %v, want all of them counted", err)
	}
}
