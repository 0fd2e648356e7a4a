package auditdb_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// A filter in memory, of an archive, selects exactly the events that it selects in the log: those of the plain WHERE
// with which matchesPlainWhere compares the log.
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
	subjects := make([]filter.Subject, len(all))
	for i, r := range all {
		client, _ := netip.ParseAddr(r.Client)
		subjects[i] = filter.Subject{At: r.At, Secret: r.Secret, Actor: r.Actor, Action: r.Action,
			Outcome: string(r.Outcome), Client: client, Node: r.Node, Request: r.RequestID, Version: r.Version}
	}
	for _, c := range auditFilters {
		f := parsed(t, c.filter)
		want := plainWhere(t, s, c.sql)
		var got []int64
		for i := range all {
			if f.Matches(subjects[i]) {
				got = append(got, all[i].ID)
			}
		}
		if joined(got) != want || len(all) < auditRows {
			t.Errorf("%s: got %d events of %d, want %d", c.name, len(got), len(all), strings.Count(want, ",")+1)
		}
	}
}
