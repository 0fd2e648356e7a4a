package accessdb_test

import (
	"os"
	"testing"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

func TestMain(m *testing.M) { os.Exit(vaulttest.Main(m)) }
