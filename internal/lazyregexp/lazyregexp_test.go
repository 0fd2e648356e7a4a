package lazyregexp_test

import (
	"testing"

	"github.com/hyperiondb/vault/internal/lazyregexp"
)

func TestNew(t *testing.T) {
	digits := lazyregexp.New(`^[0-9]+$`)
	if !digits().MatchString("12") || digits().MatchString("1x") {
		t.Error("not the compiled expression")
	}
}

func TestAWrongExpressionFailsEveryTest(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a wrong expression is found at its first use only")
		}
	}()
	lazyregexp.New(`(`)
}
