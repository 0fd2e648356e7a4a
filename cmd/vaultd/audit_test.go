package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// A failure of a moment is nothing that an operator has to see; one of minutes is a notice with its reason.
func TestAFailureOfMinutesIsNoticed(t *testing.T) {
	why := errors.New("the primary is away")
	for name, since := range map[string]time.Time{"it works": {}, "a moment": time.Now().Add(-waitAlarm + time.Minute)} {
		if err := late("no reads are shipped", since, why); err != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
	since := time.Now().Add(-waitAlarm)
	err := late("no reads are shipped", since, why)
	if err == nil || !strings.Contains(err.Error(), since.UTC().Format(time.RFC3339)) || !strings.Contains(err.Error(),
		why.Error()) {
		t.Errorf("got %v, want since when, and why", err)
	}
}
