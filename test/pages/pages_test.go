// Package pages_test runs the documents: every shell block of README.md and docs/. It takes Debian's PostgreSQL 15, for
// its client programs, whichever version the other tests run on.
package pages_test

import (
	"testing"

	"github.com/hyperiondb/vault/internal/scripttest"
)

func TestPages(t *testing.T) { scripttest.RunPages(t, "../..") }
