package auditdb_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// A filter in memory, of an archive, selects exactly the events that it selects in the log.
func TestAFilterMatchesAsInTheLog(t *testing.T) {
	s := mustFilled(t)
	log := mustLog(t, s.URL(vaulttest.Operator))
	var all []audit.Row
	for q := (audit.Query{Limit: 5000}); ; {
		page, err := log.Events(t.Context(), q)
		must(t, err)
		all = append(all, page.Rows...)
		if q.From = page.Next; page.Next == nil {
			break
		}
	}
	for _, c := range auditFilters {
		f := parsed(t, c.filter)
		want, _ := mustWalk(t, log, audit.Query{Filter: f, Limit: 5000})
		var got []int64
		for _, r := range all {
			client, _ := netip.ParseAddr(r.Client)
			if f.Matches(filter.Subject{At: r.At, Secret: r.Secret, Actor: r.Actor, Action: r.Action,
				Outcome: string(r.Outcome), Client: client, Node: r.Node, Request: r.RequestID, Version: r.Version}) {
				got = append(got, r.ID)
			}
		}
		if !slices.Equal(got, want) || len(all) < auditRows {
			t.Errorf("%s: got %d events of %d, want %d", c.name, len(got), len(all), len(want))
		}
	}
}
