// Package vault_test runs the specification: every script of testdata/script.
package vault_test

import (
	"testing"

	"github.com/hyperiondb/vault/internal/scripttest"
)

func TestScripts(t *testing.T) { scripttest.Run(t, "testdata/script") }
