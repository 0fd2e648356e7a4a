package listen

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) {
	// net/http ends this goroutine by itself, 500 ms after the connection.
	leaks.Main(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}
