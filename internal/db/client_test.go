package db_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// A change that is made for a client has the client's address, and where the session itself came from: when it is made
// and when it is refused. An address that the database's owner sets for all sessions is not taken.
func TestAChangeHasItsClientsAddress(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	store.MustExec(t, fmt.Sprintf(`ALTER DATABASE %s SET vault.client = '198.51.100.1'`, store.Database))
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
	rows := func(name string) string {
		return store.MustQuery(t, fmt.Sprintf(`SELECT string_agg(concat_ws(' ', action, outcome, host(client),
			detail ->> 'via'), ', ' ORDER BY id) FROM vault.audit_log WHERE secret = '%s'`, name))
	}
	put := func(c db.Credential, name string) error {
		_, err := writer.PutVersion(t.Context(), c, uuid.New(), "put", name, sealedPlaceholder(name), false, db.Settings{})
		return err
	}
	for address, want := range map[string]string{
		"10.0.0.7":    "put ok 10.0.0.7 local, delete ok 10.0.0.7 local",
		"2001:db8::1": "put ok 2001:db8::1 local, delete ok 2001:db8::1 local",
		"":            "put ok, delete ok",
	} {
		c, name := credential(t), "app/x"+uuid.NewString()
		if address != "" {
			c.Client = netip.MustParseAddr(address)
		}
		must(t, put(c, name))
		_, err := writer.DeleteSecret(t.Context(), c, uuid.New(), name, time.Hour)
		must(t, err)
		if got := rows(name); got != want {
			t.Errorf("client %q: got %q, want %q", address, got, want)
		}
	}

	wrong := credential(t)
	wrong.TokenID, wrong.Client = uuid.New(), netip.MustParseAddr("10.0.0.7")
	if err := put(wrong, "app/refused"); !errors.Is(err, db.ErrRefused) {
		t.Errorf("an unknown token: got %v", err)
	}
	if got, want := rows("app/refused"), "put denied 10.0.0.7 local"; got != want {
		t.Errorf("a refused change: got %q, want %q", got, want)
	}
	// The next change on the same connection has none of it.
	must(t, put(credential(t), "app/after"))
	if got, want := rows("app/after"), "put ok"; got != want {
		t.Errorf("the change after it: got %q, want %q", got, want)
	}
}

// A refused change is on record also if the log was locked for longer than one attempt to write the row waits.
func TestARefusalWaitsForTheLog(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
	pruning, err := mustConnect(t, store.URL(vaulttest.Superuser)).Begin(t.Context())
	must(t, err)
	_, err = pruning.Exec(t.Context(), `LOCK TABLE vault.audit_log IN ACCESS EXCLUSIVE MODE`)
	must(t, err)

	refused := make(chan error, 1)
	wrong := credential(t)
	wrong.TokenID = uuid.New()
	go func() {
		_, err := writer.PutVersion(t.Context(), wrong, uuid.New(), "put", "app/x", sealedPlaceholder("app/x"), false,
			db.Settings{})
		refused <- err
	}()
	const attempt = `FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
		AND query ~ 'record_refusal'`
	until(t, store, `SELECT count(*) = 1 `+attempt)
	first := store.MustQuery(t, `SELECT max(query_start) `+attempt)
	until(t, store, `SELECT count(*) = 1 `+attempt+` AND query_start > '`+first+`'`)
	must(t, pruning.Rollback(t.Context()))
	if err := <-refused; !errors.Is(err, db.ErrRefused) {
		t.Errorf("got %v, want %v", err, db.ErrRefused)
	}
	const denied = `SELECT count(*) FROM vault.audit_log WHERE secret = 'app/x' AND outcome = 'denied'`
	if n := store.MustQuery(t, denied); n != "1" {
		t.Errorf("there are %s rows of the refusal, want 1", n)
	}
}

// A session that reports an address itself is seen: the row says where it came from. A text that is no address is
// refused.
func TestAReportedAddressIsSeen(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	conn, err := pgx.Connect(t.Context(), store.URL(vaulttest.Operator))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	read := func(client string) error {
		_, err := conn.Exec(t.Context(), `SELECT set_config('vault.client', '`+client+`', false)`)
		must(t, err)
		_, err = conn.Exec(t.Context(), `SELECT vault.record_read('read', 'app/x', 1, 'ok', gen_random_uuid(), '{}')`)
		return err
	}
	must(t, read("10.9.9.9"))
	must(t, read(""))
	want := "10.9.9.9 local, "
	if got := store.MustQuery(t, `SELECT string_agg(concat_ws(' ', host(client), detail ->> 'via'), ', ' ORDER BY id)
		FROM vault.audit_log WHERE secret = 'app/x'`); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var refused *pgconn.PgError
	if err := read("10.9.9.9, 10.0.0.1"); !errors.As(err, &refused) || refused.Code != "22P02" {
		t.Errorf("no address: got %v", err)
	}
}
