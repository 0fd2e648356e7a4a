package db_test

import (
	"flag"
	"os"
	"testing"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

func TestMain(m *testing.M) {
	// parallel tests here wait for time limits, not for a processor; -parallel overrides
	_ = flag.Set("test.parallel", "6")
	os.Exit(vaulttest.Main(m))
}
