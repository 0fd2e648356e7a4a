package db_test

import (
	"flag"
	"os"
	"testing"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

func TestMain(m *testing.M) {
	// what is parallel here waits for time limits, and not for a processor; -parallel wins
	_ = flag.Set("test.parallel", "6")
	os.Exit(vaulttest.Main(m))
}
