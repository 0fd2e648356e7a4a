package scripttest

import (
	"slices"
	"testing"
)

// A plan is the line that begins it and the indented lines below, and belongs to the session that logged it.
func TestPlansOfASession(t *testing.T) {
	const begin = "2026-11-30 08:01:22.401 UTC [13455] "
	mine := begin + "vaultd@vault2 LOG:  00000: duration: 0.017 ms  plan:\n" +
		"\tQuery Text: SELECT 1\n\tResult  (cost=0.00..0.01)\n"
	last := begin + "vaultd@vault2 LOG:  00000: duration: 0.017 ms  plan:\n\tResult  (cost=0.00..0.02)"
	text := begin + "vaultd@vault22 LOG:  00000: duration: 0.017 ms  plan:\n\tanother database's\n" +
		begin + "app1@vault2 LOG:  00000: duration: 0.017 ms  plan:\n\tanother role's\n" +
		begin + "vaultd@vault2 LOG:  00000: execute x: SELECT 'plan:'\n\tno plan\n" +
		mine + begin + "vaultd@vault2 LOCATION:  explain_ExecutorEnd, auto_explain.c:437\n" +
		begin + "LOG:  00000: checkpoint starting: time\n" + last
	if got, want := plansOf([]byte(text), "vaultd@vault2"), []string{mine, last}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
