package vaulttest_test

import (
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

func TestBadPlan(t *testing.T) {
	for plan, want := range map[string]string{
		"Index Scan using a on b  (cost=0.14..8.16 rows=1 width=8)":                                "",
		"Index Scan using a on b  (cost=0.14..8.16 rows=1 width=8)\nJIT:\n  Functions: 3":          "compiled",
		"Limit  (cost=0..8.16 rows=1)\n  ->  Seq Scan on b  (cost=10000000000.00..10000000001.05)": "forbidden",
	} {
		if got := vaulttest.BadPlan(plan); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", plan, got, want)
		}
	}
}
