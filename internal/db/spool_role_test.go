package db_test

import (
	"encoding/hex"
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
func next(at db.SpoolPosition, node string, boot uuid.UUID, t *testing.T) db.ShippedReads {
	t.Helper()
	r := db.ShippedRead{Event: []byte(oneRead)}
	last, err := hex.DecodeString(at.Last)
	must(t, err)
	copy(r.Previous[:], last)
	return db.ShippedReads{Node: node, Boot: boot, First: max(at.Next, 1), Records: []db.ShippedRead{r}}
}

// A spool is continued by the role that began it: another role with the same rights, which knows the node, the boot and
// the last hash, cannot continue it, read its position or lock its row.
func TestASpoolIsItsRoles(t *testing.T) {
	store := vaulttest.New(t)
	daemon, thief := mustWriter(t, db.Options{URL: store.URL(vaulttest.Daemon)}),
		mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
	boot := uuid.New()
	at, err := daemon.ShipReads(t.Context(), next(db.SpoolPosition{}, "db1", boot, t))
	must(t, err)

	ahead := next(at, "db1", boot, t)
	ahead.First += 5 // answered without an error to the daemon itself, with the row locked
	lost := ahead
	lost.Lost = true
	for what, batch := range map[string]db.ShippedReads{
		"goes on": next(at, "db1", boot, t), "asks": {Node: "db1", Boot: boot}, "is ahead": ahead, "loses": lost,
	} {
		_, err := thief.ShipReads(t.Context(), batch)
		want := fmt.Sprintf(`role "operator" cannot go on with the spool of node "db1" (boot %s), `+
			`which role "vaultd" began: connect as that role, or GRANT vaultd TO operator`, boot)
		if !errors.Is(err, db.ErrRefused) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("a thief %s: got %v, want that it is refused with %q", what, err, want)
		}
	}
	at, err = daemon.ShipReads(t.Context(), next(at, "db1", boot, t))
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
	s.writer.Close()
	s.writer = mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
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
			writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Daemon)})
			boot := uuid.New()
			at, err := writer.ShipReads(t.Context(), next(db.SpoolPosition{}, "db1", boot, t))
			must(t, err)
			store.MustExec(t, c.change)
			_, err = writer.ShipReads(t.Context(), next(at, "db1", boot, t))
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

// Names of nodes that differ only in characters that are not shown do not keep migrate from its work, and each spool
// keeps its own position.
func TestMigrateKeepsSpoolsApart(t *testing.T) {
	store := vaulttest.New(t)
	takeBack(t, store, 9)
	const boot = `11111111-1111-1111-1111-111111111111`
	for i, node := range []string{`n\x01`, `n\x02`, `n?`, `m\x1b`, `m`} {
		store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.audit_spools (node, boot, next_seq) VALUES (E'%s', '%s', %d)`, node,
			boot, i+1))
	}
	_, err := db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	got := store.MustQuery(t, `SELECT string_agg(regexp_replace(node, '[0-9a-f]{32}', 'md5') || '=' || next_seq, ' '
		ORDER BY next_seq) FROM vault.audit_spools`)
	if want := "n??md5=1 n??md5=2 n?=3 m?=4 m=5"; got != want {
		t.Errorf("got the spools %q, want %q", got, want)
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
		writer := mustWriter(t, db.Options{URL: store.URL(role)})
		_, err := writer.ShipReads(t.Context(), next(db.SpoolPosition{}, "new", uuid.New(), t))
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

// 40 MiB in one event took the server 15 seconds: an event and a batch have bounds, and larger ones are refused before
// they are parsed.
func TestAHugeEventIsRefused(t *testing.T) {
	store := vaulttest.New(t)
	ship := func(count, bytes int) error { // the server makes them, so that its log need not hold them
		return runSession(t, store.URL(vaulttest.Daemon), []string{fmt.Sprintf(`SELECT vault.ship_reads('n',
			gen_random_uuid(), 1, false,
			array_fill(decode(repeat('00', 32), 'hex'), ARRAY[%[1]d]), array_fill(repeat(' ', %[2]d - 2) || '{}',
			ARRAY[%[1]d]))`, count, bytes)})
	}
	for want, err := range map[string]error{
		"an event of p_events has 41943040 bytes: it must have 2 to 16384": ship(1, 40<<20),
		"an event of p_events has 16385 bytes: it must have 2 to 16384":    ship(1, spool.MaxEvent+1),
		"the bytes of p_events is 16793600: it must be 2 to 16777216":      ship(1025, spool.MaxEvent),
		"a batch has at most 10000 records":                                ship(10001, 2),
	} {
		if code, text := sqlState(err); code != "22023" || !strings.Contains(text, want) {
			t.Errorf("got %s %q, want 22023 %q", code, text, want)
		}
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.audit_spools`); got != "0" {
		t.Errorf("got %s spools, want none", got)
	}
	must(t, ship(1, spool.MaxEvent))
}
