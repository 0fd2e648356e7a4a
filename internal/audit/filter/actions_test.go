package filter_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/hyperiondb/vault/internal/audit/filter"
	vaultsql "github.com/hyperiondb/vault/sql"
)

// TestActionsAreComplete: a filter by an action that is missing in the list is told that there is none.
func TestActionsAreComplete(t *testing.T) {
	action := regexp.MustCompile(`'((?:app|token|grant|rotation|audit)\.[a-z_]+)'`)
	seen := map[string]bool{}
	for _, file := range vaultsql.Definitions() {
		for _, found := range action.FindAllStringSubmatch(file.Text, -1) {
			seen[found[1]] = true
		}
	}
	if len(seen) < 10 {
		t.Fatalf("got %d actions in the schema's source", len(seen))
	}
	for a := range seen {
		if !slices.Contains(filter.Actions(), a) {
			t.Errorf("%q is missing", a)
		}
	}
}
