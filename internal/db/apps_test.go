package db_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// appCredential is a list of one in SQL. The match "" leaves it out.
func appCredential(kind, match string) string {
	what := fmt.Sprintf(`"match":"%s"`, match)
	switch {
	case kind == "token" && match == "":
		what = fmt.Sprintf(`"token_sha256":"%s"`, strings.ReplaceAll(uuid.NewString()+uuid.NewString(), "-", ""))
	case match == "":
		what = `"networks":[]`
	}
	return fmt.Sprintf(`'[{"id":"%s","kind":"%s",%s}]'`, uuid.NewString(), kind, what)
}

// rule is a list of one in SQL.
func rule(pattern string) string {
	return fmt.Sprintf(`'[{"pattern":"%s","actions":["read"]}]'`, pattern)
}

func createApp(name, pattern, credentials string) string {
	if credentials == "" {
		credentials = `'[]'`
	}
	return fmt.Sprintf(`SELECT vault.create_app('%s', %s, %s, gen_random_uuid())`, name, rule(pattern), credentials)
}

// one is the first of a list in SQL.
func one(list string) string { return strings.NewReplacer(`'[`, `'`, `]'`, `'`).Replace(list) }

func addToken(name string) string {
	return fmt.Sprintf(`SELECT vault.add_app_credential('%s', %s, gen_random_uuid())`, name,
		one(appCredential("token", "")))
}

func allow(name, pattern string) string {
	return fmt.Sprintf(`SELECT vault.allow_app('%s', %s, gen_random_uuid())`, name, rule(pattern))
}

// changesOfApps are the calls that change an app.
func changesOfApps(name string) map[string]string {
	call := func(function, args string) string {
		return fmt.Sprintf(`SELECT vault.%s('%s'%s, gen_random_uuid())`, function, name, args)
	}
	return map[string]string{
		"allow it more": allow(name, "app1/x"), "give it a token": addToken(name),
		"take a rule": call("disallow_app", ", '{prod/*}'"), "disable it": call("set_app_enabled", ", false"),
		"enable it": call("set_app_enabled", ", true"), "delete it": call("delete_app", ""),
		"revoke its credentials": call("revoke_app_credential", ", NULL"),
	}
}

func attacksOnApps() (list []attack) {
	dev := vaulttest.Developer
	tables := []string{"apps", "app_rules", "app_credentials", "app_use", "access_epoch"}
	for _, role := range []string{dev, vaulttest.Operator, vaulttest.Daemon, vaulttest.AppRole, vaulttest.Stranger} {
		for _, table := range tables {
			for _, sql := range []string{`INSERT INTO vault.%s DEFAULT VALUES`, `DELETE FROM vault.%s`, `TRUNCATE vault.%s`,
				`UPDATE vault.%s SET ctid = ctid`, `SELECT * FROM vault.%s FOR UPDATE`, `LOCK TABLE vault.%s IN SHARE MODE`,
				`ALTER TABLE vault.%s DISABLE TRIGGER ALL`, `ALTER TABLE vault.%s DISABLE ROW LEVEL SECURITY`} {
				sql = fmt.Sprintf(sql, table)
				code := denied
				if strings.HasPrefix(sql, "UPDATE") {
					column := map[string]string{"apps": "name", "app_rules": "app", "app_credentials": "app",
						"app_use": "credential_id", "access_epoch": "epoch"}[table]
					sql = fmt.Sprintf(`UPDATE vault.%s SET %s = %[2]s`, table, column)
				}
				if strings.HasPrefix(sql, "LOCK") {
					sql = "BEGIN; " + sql
				}
				list = append(list, attack{role + ": " + sql, role, []string{sql}, code})
			}
		}
		for what, sql := range changesOfApps("victim") {
			list = append(list, attack{role + ": " + what + " without a token", role, []string{sql}, denied},
				attack{role + ": " + what + " by a forged setting", role, []string{"BEGIN",
					`SELECT set_config('vault.token_id', '00000000-0000-4000-8000-00000000ca0a', true)`, sql}, denied})
		}
		list = append(list, attack{role + ": make an app without a token", role, []string{createApp("mine", "*", "")},
			denied})
	}
	for _, table := range tables {
		list = append(list, attack{"a stranger reads " + table, vaulttest.Stranger, []string{`SELECT * FROM vault.` + table},
			denied})
	}
	for what, sql := range map[string]string{
		"set rules": `SELECT vault._set_rules('victim', '[]')`, "require an app": `SELECT vault._require_app('victim')`,
		"add a credential": `SELECT vault._add_credential('victim', ` + one(appCredential("token", "")) + `)`,
		"judge a pattern":  `SELECT vault.tx_may_allow('*')`, "judge an app": `SELECT vault.tx_may_change_app('victim')`,
		"show an app": `SELECT vault._app_json('victim')`, "end at once": `SELECT vault._ends_at_once()`,
		"make an epoch": `SELECT vault._access_changes()`, "compare a scope": `SELECT vault._pattern_within('*', '')`,
	} {
		list = append(list, attack{"internal: " + what, dev, []string{sql}, denied},
			attack{"internal, with a token: " + what, dev, []string{"BEGIN", "AUTHORISE", sql}, denied})
	}
	tx := func(name, code string, steps ...string) {
		list = append(list, attack{name, dev, append([]string{"BEGIN", "AUTHORISE"}, steps...), code})
	}
	tx("an app over one that is there", "VA001", createApp("victim", "app1/*", ""))
	tx("a rule that climbs", "23514", allow("victim", "prod/../*"))
	tx("a rule in the middle of a word", "23514", allow("victim", "prod*"))
	tx("a rule with two stars", "23514", allow("victim", "*/*"))
	tx("a rule that ends in a newline", "23514", allow("victim", `prod\n`))
	tx("a credential for the app of clients without one", "23514",
		createApp("anonymous", "app1/*", appCredential("token", "")))
	tx("a token with a match", "23514", createApp("mine", "app1/*", appCredential("token", "uid:0")))
	tx("a certificate without a match", "23514", createApp("mine", "app1/*", appCredential("cert", "")))
	tx("a user as a certificate", "23514", createApp("mine", "app1/*", appCredential("cert", "uid:0")))
	tx("a certificate as a user", "23514", createApp("mine", "app1/*", appCredential("unix", "cn:root")))
	tx("a match that another app has", "VA001", createApp("mine", "app1/*", appCredential("unix", "uid:7")),
		createApp("too", "app1/*", appCredential("unix", "uid:7")))
	tx("a user with networks", "23514", createApp("mine", "app1/*",
		`'[{"id":"00000000-0000-4000-8000-000000000042","kind":"unix","match":"uid:7","networks":["10.0.0.0/8"]}]'`))
	for _, network := range []string{`"10"`, `"10.0.0.1/8"`, `null`, `"::ffff:10.0.0.0/104"`, `"x"`, `7`} {
		code := "22023"
		if network == "null" {
			code = "23514"
		}
		tx("the network "+network, code, createApp("mine", "app1/*", `'[{"id":"00000000-0000-4000-8000-000000000043",`+
			`"kind":"cert","match":"cn:x","networks":[`+network+`]}]'`))
	}
	for _, end := range []string{"infinity", "-infinity", "2001-01-01", "9999-06-01", "never"} {
		tx("a credential until "+end, "22023", createApp("mine", "app1/*", `'[{"id":"00000000-0000-4000-8000-000000000044",`+
			`"kind":"cert","match":"cn:x","expires_at":"`+end+`"}]'`))
	}
	tx("a credential with a field of ours", "22023", createApp("mine", "app1/*", `'[{"id":`+
		`"00000000-0000-4000-8000-000000000045","kind":"cert","match":"cn:x","created_by":"token:root"}]'`))
	tx("the end of a rule that is not there", "VA004",
		`SELECT vault.disallow_app('victim', '{app1/*}', gen_random_uuid())`)
	tx("the end of another app's credential", "VA004", createApp("mine", "app1/*", ""),
		`SELECT vault.revoke_app_credential('mine', (SELECT id FROM vault.app_credentials WHERE app = 'victim'),
			gen_random_uuid())`)
	tx("a request id used for something else", "VA003",
		`SELECT vault.create_app('mine', '[]', '[]', '00000000-0000-4000-8000-000000000046')`,
		`SELECT vault.delete_app('mine', '00000000-0000-4000-8000-000000000046')`)
	return list
}

// scopedToken makes an admin token with a scope, and returns a session's steps with it.
func scopedToken(t *testing.T, store *vaulttest.Store, name, scope string) func(sql ...string) error {
	t.Helper()
	scoped := vault.NewToken()
	mustAdmin(t, store, fmt.Sprintf(`SELECT vault.create_token('%s', '%s', '\x%x', '%s', NULL, gen_random_uuid())`,
		scoped.ID(), name, scoped.Fingerprint(), scope))
	return func(statements ...string) error {
		conn := mustConnect(t, store.URL(vaulttest.Operator))
		must(t, runStep(t.Context(), conn, "BEGIN"))
		must(t, authorise(t.Context(), conn, scoped.Reveal()))
		for _, sql := range append(statements, "COMMIT") {
			if err := runStep(t.Context(), conn, sql); err != nil {
				return err
			}
		}
		return nil
	}
}

// A token with a scope makes apps inside of it, and gains nothing from one that has a pattern outside.
func TestScopedTokenWidensNoApp(t *testing.T) {
	store := vaulttest.New(t)
	mustAdmin(t, store, createApp("outside", "prod/*", appCredential("token", "")))
	mustAdmin(t, store, createApp("both", "staging/*", appCredential("token", "")))
	mustAdmin(t, store, allow("both", "prod/x"))
	mustAdmin(t, store, createApp("near", "staging", ""))
	mustAdmin(t, store, `SELECT vault.create_app('bare', '[]', '[]', gen_random_uuid())`)
	mustAdmin(t, store, createApp("off", "prod/*", appCredential("token", "")))
	mustAdmin(t, store, `SELECT vault.set_app_enabled('off', false, gen_random_uuid())`)
	try := scopedToken(t, store, "ci", "staging/")

	must(t, try(createApp("mine", "staging/*", appCredential("token", ""))))
	must(t, try(allow("mine", "staging/x/*"), addToken("mine")))
	for _, pattern := range []string{"*", "prod/*", "prod/x", "staging", "stagingX/*", "staging.*", "Staging/*", "s"} {
		wantCode(t, try(createApp("more", pattern, "")), denied)
		wantCode(t, try(allow("mine", pattern)), denied)
		wantCode(t, try(createApp("more", "staging/*", ""), allow("more", pattern)), denied)
	}
	for _, name := range []string{"outside", "both", "near", "bare", "off"} {
		for what, sql := range changesOfApps(name) {
			if err := try(sql); err == nil || !strings.Contains(err.Error(), denied) {
				t.Errorf("%s: %s: got %v, want SQLSTATE %s", name, what, err, denied)
			}
		}
		// deleting it and making it anew is one of the routes
		wantCode(t, try(`SELECT vault.delete_app('`+name+`', gen_random_uuid())`, createApp(name, "staging/*", "")), denied)
		wantCode(t, try(createApp(name, "staging/*", "")), "VA001")
	}
	wantCode(t, try(`SELECT vault.create_app('more', '[]', '[]', gen_random_uuid())`), denied)
	// Without its last rule, an app is for a token without a scope: what is allowed to it later is not the scope's.
	must(t, try(`SELECT vault.disallow_app('mine', '{staging/*,staging/x/*}', gen_random_uuid())`))
	wantCode(t, try(addToken("mine")), denied)
	wantCode(t, try(allow("mine", "staging/*")), denied)
	if got := store.MustQuery(t, `SELECT string_agg(app || ' ' || pattern, ', ' ORDER BY app, pattern)
		FROM vault.app_rules`); got != "both prod/x, both staging/*, near staging, off prod/*, outside prod/*" {
		t.Errorf("got the rules %q", got)
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.app_credentials`); got != "5" {
		t.Errorf("got %s credentials, want 5", got)
	}
}

// A pattern that is allowed while another transaction compares the scope is seen by it.
func TestScopeIsComparedUnderTheLock(t *testing.T) {
	store := vaulttest.New(t)
	mustAdmin(t, store, createApp("shared", "staging/*", ""))
	try := scopedToken(t, store, "ci", "staging/")
	widening := mustConnect(t, store.URL(vaulttest.Operator))
	must(t, runStep(t.Context(), widening, "BEGIN"))
	must(t, authorise(t.Context(), widening, vaulttest.Token))
	must(t, runStep(t.Context(), widening, allow("shared", "prod/*")))
	scoped := make(chan error, 1)
	go func() { scoped <- try(addToken("shared")) }()
	until(t, store, `SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()
		AND wait_event_type = 'Lock'`)
	must(t, runStep(t.Context(), widening, "COMMIT"))
	wantCode(t, <-scoped, denied)
}

func epoch(t *testing.T, store *vaulttest.Store) string {
	t.Helper()
	return store.MustQuery(t, `SELECT epoch FROM vault.access_epoch`)
}

// Each of 1,000 changes has an epoch that was not there before.
func TestEveryChangeHasAnotherEpoch(t *testing.T) {
	store := vaulttest.New(t)
	seen := map[string]bool{epoch(t, store): true}
	mustAdmin(t, store, createApp("app", "app1/*", ""))
	conn := mustConnect(t, store.URL(vaulttest.Operator))
	for i := range 250 {
		for _, sql := range []string{allow("app", fmt.Sprintf("app1/%d", i)), addToken("app"),
			fmt.Sprintf(`SELECT vault.disallow_app('app', '{app1/%d}', gen_random_uuid())`, i),
			`SELECT vault.revoke_app_credential('app', NULL, gen_random_uuid())`} {
			must(t, runStep(t.Context(), conn, "BEGIN"))
			must(t, authorise(t.Context(), conn, vaulttest.Token))
			must(t, runStep(t.Context(), conn, sql))
			must(t, runStep(t.Context(), conn, "COMMIT"))
			var now string
			must(t, conn.QueryRow(t.Context(), `SELECT epoch::text FROM vault.access_epoch`).Scan(&now))
			if seen[now] {
				t.Fatalf("change %d: %s: the epoch is one from before", i, sql)
			}
			seen[now] = true
		}
	}
	mustAdmin(t, store, addToken("app")) // something to revoke, in any order
	for what, sql := range changesOfApps("app") {
		if what == "take a rule" || what == "enable it" || what == "delete it" {
			continue
		}
		before := epoch(t, store)
		mustAdmin(t, store, sql)
		if epoch(t, store) == before {
			t.Errorf("%s: the epoch is the same", what)
		}
	}
	for _, sql := range []string{`SELECT vault.set_app_enabled('app', true, gen_random_uuid())`,
		`SELECT vault.delete_app('app', gen_random_uuid())`, createApp("app", "app1/*", "")} {
		before := epoch(t, store)
		mustAdmin(t, store, sql)
		if epoch(t, store) == before {
			t.Errorf("%s: the epoch is the same", sql)
		}
	}
	// by hand, and by a replica
	for _, sql := range []string{`UPDATE vault.app_rules SET actions = '{verify}'`,
		`SET session_replication_role = replica; DELETE FROM vault.app_rules`, `TRUNCATE vault.app_rules`} {
		before := epoch(t, store)
		store.MustExec(t, sql)
		if epoch(t, store) == before {
			t.Errorf("%s: the epoch is the same", sql)
		}
	}
}

// What changes nothing has no new epoch, and an epoch cannot be chosen.
func TestNoChangeHasNoEpoch(t *testing.T) {
	store := vaulttest.New(t)
	request := uuid.NewString()
	create := fmt.Sprintf(`SELECT vault.create_app('app', %s, %s, '%s')`, rule("app1/*"), appCredential("token", ""),
		request)
	mustAdmin(t, store, create)
	before := epoch(t, store)
	for what, steps := range map[string][]string{
		"a replay":                {create},
		"the same rule":           {allow("app", "app1/*")},
		"enabled and enabled":     {`SELECT vault.set_app_enabled('app', true, gen_random_uuid())`},
		"a secret":                {put("app1/a", 1, 24, 32, uuid.NewString())},
		"a change rolled back":    {allow("app", "app1/y"), "ROLLBACK", "BEGIN", "AUTHORISE"},
		"a savepoint rolled back": {"SAVEPOINT s", addToken("app"), "ROLLBACK TO s", "AUTHORISE"},
	} {
		steps = append(append([]string{"BEGIN", "AUTHORISE"}, steps...), "COMMIT")
		must(t, runSession(t, store.URL(vaulttest.Operator), steps))
		if epoch(t, store) != before {
			t.Errorf("%s: the epoch is another", what)
			before = epoch(t, store)
		}
	}
	store.MustExec(t, `UPDATE vault.access_epoch SET epoch = '00000000-0000-4000-8000-000000000001'`)
	if got := epoch(t, store); got == before || got == "00000000-0000-4000-8000-000000000001" {
		t.Errorf("an epoch was set by hand: %s", got)
	}
}

// A replay answers what the first request did, writes its audit row, and takes nothing else under its id.
func TestReplayOfAppChanges(t *testing.T) {
	store := vaulttest.New(t)
	request := func() string { return "'" + uuid.NewString() + "'" }
	for _, sql := range []string{
		fmt.Sprintf(`SELECT vault.create_app('app', %s, %s, %s)`, rule("app1/*"), appCredential("token", ""), request()),
		fmt.Sprintf(`SELECT vault.allow_app('app', %s, %s)`, rule("app1/x"), request()),
		fmt.Sprintf(`SELECT vault.add_app_credential('app', %s, %s)`, one(appCredential("cert", "cn:app")), request()),
		fmt.Sprintf(`SELECT vault.disallow_app('app', '{app1/x}', %s)`, request()),
		fmt.Sprintf(`SELECT vault.revoke_app_credential('app', NULL, %s)`, request()),
		fmt.Sprintf(`SELECT vault.set_app_enabled('app', false, %s)`, request()),
		fmt.Sprintf(`SELECT vault.set_app_enabled('app', true, %s)`, request()),
		fmt.Sprintf(`SELECT vault.delete_app('app', %s)`, request()),
	} {
		var first, again string
		for _, answer := range []*string{&first, &again} {
			conn := mustConnect(t, store.URL(vaulttest.Operator))
			must(t, runStep(t.Context(), conn, "BEGIN"))
			must(t, authorise(t.Context(), conn, vaulttest.Token))
			must(t, conn.QueryRow(t.Context(), sql).Scan(answer))
			must(t, runStep(t.Context(), conn, "COMMIT"))
		}
		if first != again || strings.Contains(first, "token_sha256") {
			t.Errorf("%s: first %s, then %s", sql, first, again)
		}
		other := strings.Replace(sql, "'app'", "'another'", 1)
		wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", other}), "VA003")
	}
	if got := store.MustQuery(t, `SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log
		WHERE action LIKE 'app.%'`); got != "app.create app.create.replay app.allow app.allow.replay app.token "+
		"app.token.replay app.disallow app.disallow.replay app.revoke app.revoke.replay app.disable app.disable.replay "+
		"app.enable app.enable.replay app.delete app.delete.replay" {
		t.Errorf("got the audit rows %s", got)
	}
}

// An app keeps 64 credentials: revoked ones make room, the oldest first, and live ones do not.
func TestCredentialsOfAnAppAreBounded(t *testing.T) {
	store := vaulttest.New(t)
	mustAdmin(t, store, createApp("app", "app1/*", appCredential("token", "")))
	var first string
	for i := range 63 {
		if i == 0 {
			first = store.MustQuery(t, `SELECT id FROM vault.app_credentials`)
		}
		mustAdmin(t, store, addToken("app"))
	}
	wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", addToken("app")}), "22023")
	mustAdmin(t, store, fmt.Sprintf(`SELECT vault.revoke_app_credential('app', '%s', gen_random_uuid())`, first))
	mustAdmin(t, store, addToken("app"))
	if got := store.MustQuery(t, `SELECT count(*) || ' ' || count(*) FILTER (WHERE id = '`+first+`')
		FROM vault.app_credentials`); got != "64 0" {
		t.Errorf("got %s credentials and of the first, want 64 and 0", got)
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.app_use`); got != "64" {
		t.Errorf("got %s rows of use, want 64", got)
	}
}

// A standby shows the old epoch until it has replayed the change, and the new one with the first read after that.
func TestEpochOnAStandby(t *testing.T) {
	store := vaulttest.Own(t)
	mustPut(t, store, "app1/a")
	mustAdmin(t, store, createApp("app", "app1/*", appCredential("token", "")))
	store.MustReplay(t)
	reader := mustReader(t, store.StandbyURL(vaulttest.AppRole))
	ask := func(name string) uuid.UUID {
		t.Helper()
		s, err := reader.ReadCurrent(t.Context(), name)
		must(t, err)
		return s.Epoch()
	}
	old := ask("app1/a")
	standby := store.Cluster.Standbys()[0]
	must(t, standby.Exec(t.Context(), store.Database, `SELECT pg_wal_replay_pause()`))
	conn := mustConnect(t, store.StandbyURL(vaulttest.Superuser))
	for state := ""; state != "paused"; {
		must(t, conn.QueryRow(t.Context(), `SELECT pg_get_wal_replay_pause_state()`).Scan(&state))
	}
	mustAdmin(t, store, `SELECT vault.revoke_app_credential('app', NULL, gen_random_uuid())`)
	revoked := epoch(t, store)
	for _, name := range []string{"app1/a", "app1/none"} {
		if got := ask(name); got != old || got.String() == revoked {
			t.Errorf("%s: with replay paused got epoch %s, want the old one %s", name, got, old)
		}
	}
	must(t, standby.Exec(t.Context(), store.Database, `SELECT pg_wal_replay_resume()`))
	store.MustReplay(t)
	for _, name := range []string{"app1/a", "app1/none"} {
		if got := ask(name); got.String() != revoked {
			t.Errorf("%s: after replay got epoch %s, want %s", name, got, revoked)
		}
	}
	got, err := reader.AccessEpoch(t.Context())
	must(t, err)
	if got.String() != revoked {
		t.Errorf("asked alone, got epoch %s, want %s", got, revoked)
	}
	must(t, reader.WithEpoch(t.Context(), func(_ context.Context, got uuid.UUID) error {
		if got.String() != revoked {
			t.Errorf("in a snapshot got epoch %s, want %s", got, revoked)
		}
		return nil
	}, func(s db.Snapshot) error { _, err := s.Summary(t.Context(), "app1/a", 1); return err }))
}

// Reads of apps are on record under the app's name. The last use of a credential follows them, at most once a minute,
// and no event moves it for a credential that is not there, for a refusal, or from a client that claims no app.
func TestReadsOfAppsAreOnRecord(t *testing.T) {
	store := vaulttest.New(t)
	mustAdmin(t, store, createApp("billing", "app1/*", appCredential("token", "")))
	id := store.MustQuery(t, `SELECT id FROM vault.app_credentials`)
	before := epoch(t, store)
	conn := mustConnect(t, store.URL(vaulttest.Daemon))
	boot, batch := uuid.New(), 0
	ship := func(events ...string) {
		t.Helper()
		batch++
		for i, event := range events {
			_, err := conn.Exec(t.Context(), shipOne, fmt.Sprintf("n%d-%d", batch, i), boot, event)
			must(t, err)
		}
	}
	event := func(actor, credential, outcome, at string) string {
		return fmt.Sprintf(`{"action":"read","actor":"%s","client":"192.0.2.7","secret":"app1/a","outcome":"%s",`+
			`"at":"%s","detail":{"credential":"%s","via":"token"}}`, actor, outcome, at, credential)
	}
	use := func() string {
		t.Helper()
		return store.MustQuery(t, `SELECT coalesce(to_char(last_used_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), 'never')
			|| coalesce(' ' || host(last_client), '') FROM vault.app_use`)
	}
	ship(event("client:192.0.2.7", id, "ok", "2026-01-01T00:00:00Z"),
		event("app:billing", id, "denied", "2026-01-01T00:00:00Z"),
		event("app:billing", uuid.NewString(), "ok", "2026-01-01T00:00:00Z"),
		event("app:billing", "' OR true --", "ok", "2026-01-01T00:00:00Z"),
		event("app:billing", "", "ok", "2026-01-01T00:00:00Z"))
	if got := use(); got != "never" {
		t.Errorf("got the last use %s, want never", got)
	}
	for _, c := range []struct{ at, want string }{
		{"2026-01-01T00:00:00Z", "2026-01-01 00:00:00 192.0.2.7"},
		{"2026-01-01T00:00:59Z", "2026-01-01 00:00:00 192.0.2.7"}, // within a minute
		{"2026-01-01T00:01:01Z", "2026-01-01 00:01:01 192.0.2.7"},
		{"2025-12-31T00:00:00Z", "2026-01-01 00:01:01 192.0.2.7"}, // a spool that arrives late
	} {
		ship(event("app:billing", id, "ok", c.at))
		if got := use(); got != c.want {
			t.Errorf("after a read at %s got the last use %s, want %s", c.at, got, c.want)
		}
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.audit_log WHERE actor = 'app:billing'`); got != "8" {
		t.Errorf("got %s rows of the app, want 8", got)
	}
	if epoch(t, store) != before {
		t.Error("a use has another epoch")
	}
	// A row that another transaction holds is left alone, and the batch does not wait.
	held := mustConnect(t, store.URL(vaulttest.Superuser))
	must(t, runStep(t.Context(), held, `BEGIN; SELECT FROM vault.app_use FOR UPDATE`))
	ship(event("app:billing", id, "ok", "2026-02-01T00:00:00Z"))
	must(t, runStep(t.Context(), held, "COMMIT"))
	if got := use(); got != "2026-01-01 00:01:01 192.0.2.7" {
		t.Errorf("got the last use %s of a row that was locked", got)
	}
}
