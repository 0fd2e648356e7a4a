package rowcache

import (
	"testing"

	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }
