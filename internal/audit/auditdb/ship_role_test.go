package auditdb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

const oneRead = `{"action":"read","outcome":"ok","at":"2026-01-01T00:00:00Z"}`

// next is the batch of one record that continues a spool.
func next(at spool.Position, node string, boot uuid.UUID) spool.Batch {
	return spool.Batch{Node: node, Boot: boot, First: max(at.Next, 1),
		Records: []spool.Record{{Previous: at.Last, Event: []byte(oneRead)}}}
}

// A spool is continued by the role that began it: another role with the same rights, which knows the node, the boot and
// the last hash, cannot continue it, read its position or lock its row.
func TestASpoolIsItsRoles(t *testing.T) {
	store := vaulttest.New(t)
	daemon, thief := mustLog(t, store.URL(vaulttest.Daemon)), mustLog(t, store.URL(vaulttest.Operator))
	boot := uuid.New()
	at, err := daemon.Ship(t.Context(), next(spool.Position{}, "db1", boot))
	must(t, err)

	ahead := next(at, "db1", boot)
	ahead.First += 5 // answered without an error to the daemon itself, with the row locked
	lost := ahead
	lost.Lost = true
	for what, batch := range map[string]spool.Batch{
		"goes on": next(at, "db1", boot), "asks": {Node: "db1", Boot: boot}, "is ahead": ahead, "loses": lost,
	} {
		_, err := thief.Ship(t.Context(), batch)
		want := fmt.Sprintf(`role "operator" cannot go on with the spool of node "db1" (boot %s), `+
			`which role "vaultd" began: connect as that role, or GRANT vaultd TO operator`, boot)
		if !errors.Is(err, db.ErrRefused) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("a thief %s: got %v, want that it is refused with %q", what, err, want)
		}
	}
	at, err = daemon.Ship(t.Context(), next(at, "db1", boot))
	must(t, err)
	if at.Next != 3 || at.Gaps != 0 {
		t.Errorf("got the position %+v, want the daemon's own two records", at)
	}
}

// The daemon's role changes: the new one gets an error that says what is wrong, and continues after a GRANT, which can
// then be revoked.
func TestASpoolPassesToANewRole(t *testing.T) {
	store := vaulttest.New(t)
	s := newShipping(t, store.URL(vaulttest.Daemon))
	s.append(1, 2)
	s.run(drained)
	s.log = mustLog(t, store.URL(vaulttest.Operator))
	s.append(3)
	state := s.run(func(_ spool.Stats, p spool.Shipping) bool { return p.Failing != nil })
	if state.Failing == nil || !strings.Contains(state.Failing.Error(), "GRANT vaultd TO operator") {
		t.Errorf("got %v, want the way forward", state.Failing)
	}
	store.MustExec(t, `GRANT vaultd TO operator`)
	s.run(drained)
	store.MustExec(t, `REVOKE vaultd FROM operator`)
	s.append(4)
	s.run(drained)
	if got := store.MustQuery(t, `SELECT count(*) || ' ' || max((SELECT detail->>'from_role' || '>' || (detail->>'to_role')
		FROM vault.audit_log WHERE detail ? 'to_role'))
		FROM vault.audit_log WHERE action = 'read'`); got != "4 vaultd>operator" {
		t.Errorf("got %q, want four reads and the change on record", got)
	}
}

// A role is identified by its oid in the cluster that assigned it, else by its name.
func TestWhoseASpoolIs(t *testing.T) {
	for what, c := range map[string]struct {
		change string
		refuse bool
	}{
		"the same": {`SELECT`, false},
		"of before roles were kept": {`UPDATE vault.audit_spools SET role_name = NULL, role_oid = NULL, system_id = NULL`,
			false},
		"renamed":                {`UPDATE vault.audit_spools SET role_name = 'before'`, false},
		"dropped and made again": {`UPDATE vault.audit_spools SET role_oid = 4000000001`, false},
		"restored, another has the oid": {`UPDATE vault.audit_spools SET system_id = 1, role_oid = 'app1'::regrole`,
			false},
		"dropped, another goes on": {`UPDATE vault.audit_spools SET role_oid = 4000000001, role_name = 'gone'`,
			true},
		"restored, this one has another's oid": {`UPDATE vault.audit_spools SET system_id = 1, role_name = 'app1'`, true},
		"the name was given to another role":   {`UPDATE vault.audit_spools SET role_oid = 'app1'::regrole`, true},
	} {
		t.Run(what, func(t *testing.T) {
			store := vaulttest.New(t)
			log := mustLog(t, store.URL(vaulttest.Daemon))
			boot := uuid.New()
			at, err := log.Ship(t.Context(), next(spool.Position{}, "db1", boot))
			must(t, err)
			store.MustExec(t, c.change)
			_, err = log.Ship(t.Context(), next(at, "db1", boot))
			if errors.Is(err, db.ErrRefused) != c.refuse || !c.refuse && err != nil {
				t.Errorf("got %v, want it refused: %v", err, c.refuse)
			}
			if want := "vaultd t t"; !c.refuse {
				if got := store.MustQuery(t, `SELECT concat_ws(' ', role_name, role_oid = role_name::text::regrole,
					system_id = (SELECT system_identifier FROM pg_control_system()))
					FROM vault.audit_spools`); got != want {
					t.Errorf("got the spool's role %q, want %q", got, want)
				}
			}
		})
	}
}

// A role has a limit of spools. The one not shipped for the longest time is deleted for a new one, but none of today.
func TestARoleHasANumberOfSpools(t *testing.T) {
	store := vaulttest.New(t)
	fill := func(role, age string) {
		store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.audit_spools (node, boot, next_seq, role_name, role_oid, system_id,
			shipped_at)
			SELECT 'n' || i, gen_random_uuid(), 1, '%[1]s', '%[1]s'::regrole,
				(SELECT system_identifier FROM pg_control_system()), now() - interval '%[2]s' - i * interval '1 s'
			FROM generate_series(1, 10000) AS i`, role, age))
	}
	fill(vaulttest.Daemon, "1 hour")
	fill(vaulttest.AppRole, "2 days")
	begin := func(role string) error {
		log := mustLog(t, store.URL(role))
		_, err := log.Ship(t.Context(), next(spool.Position{}, "new", uuid.New()))
		return err
	}
	if err := begin(vaulttest.Daemon); !errors.Is(err, db.ErrUnavailable) ||
		!strings.Contains(fmt.Sprint(err), `role "vaultd" has 10000 spools`) {
		t.Errorf("got %v, want that the role has too many", err)
	}
	must(t, begin(vaulttest.Operator)) // others are not held up by it
	must(t, begin(vaulttest.AppRole))
	if got := store.MustQuery(t,
		`SELECT count(*) || ' ' || count(*) FILTER (WHERE node = 'n10000') FROM vault.audit_spools
			WHERE role_name = 'app1'`); got != "10000 0" {
		t.Errorf("got %q, want as many as before, without the oldest", got)
	}
}
