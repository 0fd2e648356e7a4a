// Package leaks fails tests that leave goroutines behind. goleak alone waits less than half a second for them to end:
// on a loaded machine that is too short for the end of a connection, whose other side is another process.
package leaks

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// limit is how long goroutines may take to end; a bound, not a measurement.
const limit = time.Minute

// Find waits until no goroutine is left but those of the options, and returns an error that has the others' stacks.
func Find(options ...goleak.Option) error {
	return find(limit, options...)
}

func find(limit time.Duration, options ...goleak.Option) error {
	for deadline := time.Now().Add(limit); ; {
		if err := goleak.Find(options...); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// None fails the test if goroutines are left.
func None(t testing.TB, options ...goleak.Option) {
	t.Helper()
	if err := Find(options...); err != nil {
		t.Error(err)
	}
}

// Main is for a TestMain: it runs the tests, fails if they pass and leave goroutines behind, and ends the program.
func Main(m interface{ Run() int }, options ...goleak.Option) {
	code := m.Run()
	if code == 0 {
		if err := Find(options...); err != nil {
			fmt.Fprintln(os.Stderr, "the tests pass, and leave goroutines behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}
