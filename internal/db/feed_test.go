package db_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// follower is a feed and its last poll. Other databases of the cluster may keep xmin from moving, so a poll may repeat
// names: tests take a name of its own for every change.
type follower struct {
	t    *testing.T
	feed *db.Feed
	last db.Poll
}

func mustFollow(t *testing.T, url string) *follower {
	t.Helper()
	feed, err := mustReader(t, url).OpenFeed(t.Context())
	must(t, err)
	t.Cleanup(feed.Close)
	f := &follower{t: t, feed: feed}
	f.last, err = feed.Poll(t.Context(), 0)
	must(t, err)
	if f.last.All || len(f.last.Names) > 0 || f.last.XMin == 0 || !f.last.Instance.Known() {
		t.Fatalf("the first poll says %+v", f.last)
	}
	return f
}

func (f *follower) poll() db.Poll {
	f.t.Helper()
	p, err := f.feed.Poll(f.t.Context(), f.last.XMin)
	must(f.t, err)
	if p.XMin < f.last.XMin || p.Instance != f.last.Instance {
		f.t.Errorf("after %+v came %+v", f.last, p)
	}
	f.last = p
	return p
}

// Every change of what a reader is shown names the secret, and only to roles that may read it.
func TestFeedNamesEveryChange(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	automatic := func(name string) string { return putAutomatic(name, uuid.NewString()) }
	version := func(name string, v int) string { return put(name, v, 24, 32, uuid.NewString()) }
	changes := map[string]struct {
		before []string // as admin
		change string   // as admin; of the superuser if as is set
		as     string
	}{
		"created":   {nil, version("app1/created", 1), ""},
		"replaced":  {[]string{version("app1/replaced", 1)}, version("app1/replaced", 2), ""},
		"many":      {nil, putMany("app1/many"), ""},
		"rewrapped": {[]string{version("app1/rewrapped", 1)}, rewrap("app1/rewrapped", 1), ""},
		"scheduled": {[]string{automatic("app1/scheduled")},
			`SELECT vault.update_secret('app1/scheduled', gen_random_uuid(), NULL, '2 days', NULL)`, ""},
		"deleted": {[]string{version("app1/deleted", 1)},
			`SELECT vault.delete_secret('app1/deleted', gen_random_uuid(), '1 day')`, ""},
		"restored": {[]string{version("app1/restored", 1),
			`SELECT vault.delete_secret('app1/restored', gen_random_uuid(), '1 day')`},
			`SELECT vault.restore_secret('app1/restored', gen_random_uuid())`, ""},
		"purged": {[]string{version("app1/purged", 1),
			`SELECT vault.delete_secret('app1/purged', gen_random_uuid(), '1 day')`},
			`SELECT vault.purge_secret('app1/purged', gen_random_uuid())`, ""},
		"graceless": {[]string{version("app1/graceless", 1), version("app1/graceless", 2)},
			`SELECT vault.end_grace('app1/graceless', NULL, gen_random_uuid())`, ""},
		"by-hand": {[]string{version("app1/by-hand", 1)}, `SET session_replication_role = replica;
			UPDATE vault.secret_versions SET kms_key_id = 'other' WHERE name = 'app1/by-hand'`, vaulttest.Superuser},
		"due-by-hand": {[]string{automatic("app1/due-by-hand")},
			`UPDATE vault.secrets SET next_rotation_at = now() WHERE name = 'app1/due-by-hand'`, vaulttest.Superuser},
		"expired": {[]string{version("app1/expired", 1),
			strings.TrimSuffix(version("app1/expired", 2), ")") + `, false, NULL, NULL, '0')`}, supervise,
			vaulttest.Daemon},
	}
	for _, c := range changes {
		for _, step := range c.before {
			mustAdmin(t, store, step)
		}
	}
	operator, app := mustFollow(t, store.URL(vaulttest.Operator)), mustFollow(t, store.URL(vaulttest.AppRole))
	for name, c := range changes {
		if c.as == "" {
			mustAdmin(t, store, c.change)
		} else {
			must(t, runSession(t, store.URL(c.as), []string{c.change}))
		}
		for role, f := range map[string]*follower{"operator": operator, "app1": app} {
			if p := f.poll(); !slices.Contains(p.Names, "app1/"+name) || p.All {
				t.Errorf("%s is not named to %s: got %v, all %t", name, role, p.Names, p.All)
			}
		}
	}
	mustAdmin(t, store, version("app2/other", 1))
	if p := operator.poll(); !slices.Contains(p.Names, "app2/other") {
		t.Errorf("got %v for the operator, want app2/other", p.Names)
	}
	hidden := func(name string) bool { return !strings.HasPrefix(name, "app1/") }
	if p := app.poll(); slices.ContainsFunc(p.Names, hidden) {
		t.Errorf("app1 sees %v", p.Names)
	}
}

// A rotation is a change like any other.
func TestFeedNamesRotations(t *testing.T) {
	t.Parallel()
	c := mustClaim(t, daemonURL, "app1/a", "app1/b", "app1/c")
	f := mustFollow(t, c.store.URL(vaulttest.Operator))
	if _, err := c.complete("app1/a", "app1/b"); err != nil {
		t.Fatal(err)
	}
	must(t, c.alone("app1/c"))
	p := f.poll()
	for _, name := range []string{"app1/a", "app1/b", "app1/c"} {
		if !slices.Contains(p.Names, name) {
			t.Errorf("%s is not named: got %v", name, p.Names)
		}
	}
}

// Other prefixes and other definitions concern every name; a round of the supervisor with nothing to do concerns none.
func TestFeedTellsOfAll(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t) // whose xmin no other test holds
	role := roleName("feeds")
	mustRole(t, store, role)
	mustAdmin(t, store, grant(role, "app1/"))
	f := mustFollow(t, store.URL(role))
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
	if p := f.poll(); p.All {
		t.Errorf("a round of the supervisor concerns all: %+v", p)
	}
	for _, c := range []struct {
		what   string
		change func()
	}{
		{"a grant", func() { mustAdmin(t, store, grant(role, "app2/")) }},
		{"a revocation", func() { mustAdmin(t, store, `SELECT vault.revoke_service_role('`+role+`', 'app1/')`) }},
		{"a grant by hand", func() { store.MustExec(t, `UPDATE vault.service_scope SET prefix = prefix || 'x'`) }},
		{"migrate", func() { mustMigrateStore(t, store) }},
		{"an emptied scope", func() { store.MustExec(t, `TRUNCATE vault.service_scope`) }},
		{"emptied versions", func() { truncateVersions(t, store) }},
	} {
		f = mustFollow(t, store.URL(vaulttest.Superuser))
		c.change()
		if p := f.poll(); !p.All || p.Overflow || len(p.Names) > 0 {
			t.Errorf("%s: got %+v, want all", c.what, p)
		}
	}
}

// truncateVersions does it as one could who drops the rule against it.
func truncateVersions(t *testing.T, store *vaulttest.Store) {
	t.Helper()
	must(t, runSession(t, store.URL(vaulttest.Superuser), []string{
		`ALTER TABLE vault.secret_versions DISABLE TRIGGER versions_are_never_truncated`,
		`TRUNCATE vault.secret_versions`,
		`ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER versions_are_never_truncated`}))
}

func TestFeedTellsOfTheScope(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	role := roleName("scope")
	mustRole(t, store, role)
	mustAdmin(t, store, grant(role, "app1/"))
	mustAdmin(t, store, grant(role, "app3/"))
	f := mustFollow(t, store.URL(role))
	seen := map[string]string{f.last.Scope: "at first"}
	if p := f.poll(); p.Scope != f.last.Scope {
		t.Errorf("got another scope without a change: %q", p.Scope)
	}
	for _, change := range []string{grant(role, "app2/"), `SELECT vault.revoke_service_role('` + role + `', 'app1/')`} {
		mustAdmin(t, store, change)
		p := f.poll()
		if before, known := seen[p.Scope]; known {
			t.Errorf("%s: got the scope that was there %s", change, before)
		}
		seen[p.Scope] = "after " + change
	}
	epoch := f.last.Epoch
	mustAdmin(t, store, createApp("one", "app1/*", ""))
	if p := f.poll(); p.Epoch == epoch || p.Epoch == uuid.Nil {
		t.Errorf("got epoch %s after %s", p.Epoch, epoch)
	}
}

// A role that may no longer read has no answer.
func TestFeedEndsWithTheRight(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	for what, revoke := range map[string]string{
		"membership": `DO $$ BEGIN EXECUTE (SELECT string_agg(format('REVOKE vault_service FROM %%s GRANTED BY %%s',
			member::regrole, grantor::regrole), ';') FROM pg_auth_members WHERE member = '%s'::regrole); END $$`,
		"the view": `REVOKE SELECT ON vault.sealed_versions FROM vault_service`,
		"the feed": `REVOKE SELECT ON vault.changed_names FROM vault_service`,
	} {
		role := roleName("revoked")
		mustRole(t, store, role)
		mustAdmin(t, store, grant(role, "app1/"))
		f := mustFollow(t, store.URL(role))
		f.poll()
		if strings.Contains(revoke, "%s") {
			revoke = fmt.Sprintf(revoke, quoted(role))
		}
		store.MustExec(t, revoke)
		if p, err := f.feed.Poll(t.Context(), f.last.XMin); !errors.Is(err, db.ErrFeedUnusable) {
			t.Errorf("without %s: got %+v, error %v", what, p, err)
		}
		if _, err := mustReader(t, store.URL(role)).OpenFeed(t.Context()); err == nil {
			t.Errorf("without %s: a feed opens", what)
		}
		mustMigrateStore(t, store)
	}
}

// A feed is refused where it could not be trusted.
func TestFeedIsRefused(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	open := func(url string) error {
		feed, err := mustReader(t, url).OpenFeed(t.Context())
		if err == nil {
			feed.Close()
		}
		return err
	}
	refused := func(err error, says string) {
		t.Helper()
		if !errors.Is(err, db.ErrFeedUnusable) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
	_, pooled := mustRelay(t, store, store.Cluster.Primary(), true)
	refused(open(pooled), "pooler")

	f := mustFollow(t, store.URL(vaulttest.Operator))
	must(t, f.feed.ForgetCookie(t.Context()))
	_, err := f.feed.Poll(t.Context(), f.last.XMin)
	refused(err, "another session")

	f = mustFollow(t, store.URL(vaulttest.Operator))
	store.MustExec(t, `UPDATE vault.feed_state SET system_identifier = 1`)
	_, err = f.feed.Poll(t.Context(), f.last.XMin)
	refused(err, "another server")
	refused(open(store.URL(vaulttest.Operator)), "another server")
	// It is emptied and serves this server.
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.change_feed`); got != "0" {
		t.Errorf("%s rows of the other server are left", got)
	}
	must(t, open(store.URL(vaulttest.Operator)))

	store.MustExec(t, `ALTER TABLE vault.feed_state DISABLE TRIGGER feed_state_stays`, `DELETE FROM vault.feed_state`)
	refused(open(store.URL(vaulttest.Operator)), "no row")
}

// A follower from before the first round of the supervisor on another cluster is told that all may have changed.
func TestFeedOfAnotherServerIsEmptiedInRounds(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	var names []string
	for i := range 25 {
		names = append(names, name(i))
	}
	mustAdmin(t, store, putMany(names...))
	f := mustFollow(t, store.URL(vaulttest.Operator))
	before := f.last
	store.MustExec(t, `UPDATE vault.feed_state SET system_identifier = 1`)
	round := `SELECT vault.supervise(1)` // ten rows
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{round}))
	if _, err := f.feed.Poll(t.Context(), before.XMin); !errors.Is(err, db.ErrFeedUnusable) {
		t.Errorf("got %v while rows of another server are left", err)
	}
	mustAdmin(t, store, put("app1/late", 1, 24, 32, uuid.NewString())) // its row goes with the others
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{round, round, round}))
	p, err := f.feed.Poll(t.Context(), before.XMin)
	must(t, err)
	if !p.All || p.Floor <= before.XMin {
		t.Errorf("got %+v, want all", p)
	}
}

// Rounds delete the rows below the floor, ten minutes after it was an xmin. A follower from below the floor is told
// that all may have changed.
func TestFeedIsPruned(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t) // whose xmin no other test holds
	// The prepared vault noted its xmin when it was made, which may be long ago.
	store.MustExec(t, `UPDATE vault.feed_state SET noted_at = clock_timestamp()`)
	f := mustFollow(t, store.URL(vaulttest.Operator))
	old := f.last
	var names []string
	for i := range 25 {
		names = append(names, name(i))
	}
	mustAdmin(t, store, putMany(names...))
	round := func(limit int) {
		t.Helper()
		must(t, runSession(t, store.URL(vaulttest.Daemon), []string{fmt.Sprintf(`SELECT vault.supervise(%d)`, limit)}))
		if failed := store.MustQuery(t, `SELECT count(*) FROM vault.round_failures`); failed != "0" {
			t.Fatal(store.MustQuery(t, `SELECT string_agg(part || ': ' || error, '; ') FROM vault.round_failures`))
		}
	}
	age := func() {
		t.Helper()
		store.MustExec(t, `UPDATE vault.feed_state SET noted_at = noted_at - interval '11 minutes'`)
	}
	left := func(want string) {
		t.Helper()
		if got := store.MustQuery(t, `SELECT count(*) FROM vault.change_feed WHERE name <> ''`); got != want {
			t.Errorf("got %s rows, want %s", got, want)
		}
	}
	round(1)
	left("25")
	age()
	round(1) // notes the xmin of now
	left("25")
	if p := f.poll(); p.All || len(p.Names) != 25 {
		t.Errorf("got %+v", p)
	}
	age()
	rows := func() int {
		n, err := strconv.Atoi(store.MustQuery(t, `SELECT count(*) FROM vault.change_feed WHERE tx < $1::text::xid8`,
			strconv.FormatUint(f.last.XMin, 10)))
		must(t, err)
		return n
	}
	for before := rows(); before > 0; {
		round(1)
		if after := rows(); after != max(0, before-10) {
			t.Fatalf("a round of ten left %d of %d rows", after, before)
		} else {
			before = after
		}
	}
	left("0")
	mustAdmin(t, store, put("app1/kept", 1, 24, 32, uuid.NewString()))
	round(100)
	left("1")
	if p := f.poll(); p.All || !slices.Equal(p.Names, []string{"app1/kept"}) {
		t.Errorf("a follower from above the floor: got %+v", p)
	}
	if p, err := f.feed.Poll(t.Context(), old.XMin); err != nil || !p.All || p.Overflow {
		t.Errorf("a follower from below the floor: got %+v, error %v", p, err)
	}
}

// More rows than a poll takes are all, until the transaction ends that holds xmin. The reader finds out which it is.
func TestFeedOverflows(t *testing.T) {
	t.Parallel()
	store := vaulttest.OwnWith(t, map[string]string{"max_prepared_transactions": "2"})
	reader := mustReader(t, store.URL(vaulttest.Operator))
	f := mustFollow(t, store.URL(vaulttest.Operator))
	app := mustFollow(t, store.URL(vaulttest.AppRole))
	holder := mustConnect(t, store.Cluster.Primary().URL("postgres", vaulttest.Superuser)+"&application_name=holder")
	must(t, runStep(t.Context(), holder, `BEGIN; SELECT pg_current_xact_id()`))
	fill := func(rows int) {
		t.Helper()
		store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.change_feed
			SELECT pg_current_xact_id(), 'app2/' || n FROM generate_series(1, %d) AS n`, rows))
	}
	fill(4096)
	since := f.last.XMin
	if p := f.poll(); p.All || len(p.Names) != 4096 || p.XMin != since {
		t.Errorf("4096 rows: got %d names, all %t, xmin %d, before %d", len(p.Names), p.All, p.XMin, since)
	}
	fill(1)
	for range 2 { // it lasts
		if p := f.poll(); !p.All || !p.Overflow || p.Names != nil {
			t.Errorf("4097 rows: got %d names, all %t, overflow %t", len(p.Names), p.All, p.Overflow)
		}
	}
	if p := app.poll(); !p.Overflow {
		t.Errorf("rows that the role may not read: got %+v", p)
	}
	says := func(want ...string) {
		t.Helper()
		got, err := reader.XMinHolder(t.Context())
		must(t, err)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("got %q, want %q", got, w)
			}
		}
		if strings.Contains(got, "pg_current_xact_id") || len(want) == 0 && got != "" {
			t.Errorf("got %q", got)
		}
	}
	says(fmt.Sprintf("pid %d", holder.PgConn().PID()), `application "holder"`, `database "postgres"`, "since ")
	must(t, runStep(t.Context(), holder, `PREPARE TRANSACTION 'kept open'`))
	says(`prepared transaction "kept open"`, `database "postgres"`)
	if p := f.poll(); !p.Overflow {
		t.Errorf("held by a prepared transaction: got %+v", p)
	}
	must(t, runStep(t.Context(), holder, `COMMIT PREPARED 'kept open'`))
	f.poll() // whose snapshot is past it
	if p := f.poll(); p.All || len(p.Names) > 0 {
		t.Errorf("got %+v", p)
	}
	says()
	standby, err := mustReader(t, store.StandbyURL(vaulttest.Operator)).XMinHolder(t.Context())
	if err != nil || standby != "" {
		t.Errorf("on a standby: got %q, error %v", standby, err)
	}
}

// The other server's answer is told apart, and a poll's position holds for the next poll.
func TestFeedFollowsItsNode(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	mustPut(t, store, "app1/a")
	store.MustReplay(t)
	primary, standby := mustFollow(t, store.URL(vaulttest.Operator)), mustFollow(t, store.StandbyURL(vaulttest.Operator))
	loaded := func(url string, name string) db.Instance {
		t.Helper()
		reading, instance, err := mustReader(t, url).LoadLive(t.Context(), name)
		must(t, err)
		if _, err := reading.Live(); (name == "app1/a") != (err == nil) {
			t.Errorf("%s: got error %v", name, err)
		}
		return instance
	}
	for _, name := range []string{"app1/a", "app1/absent"} {
		if got := loaded(store.URL(vaulttest.Operator), name); got != primary.last.Instance {
			t.Errorf("the primary: got %+v, want %+v", got, primary.last.Instance)
		}
		if got := loaded(store.StandbyURL(vaulttest.Operator), name); got != standby.last.Instance {
			t.Errorf("the standby: got %+v, want %+v", got, standby.last.Instance)
		}
	}
	if primary.last.Instance == standby.last.Instance {
		t.Errorf("primary and standby are both %+v", standby.last.Instance)
	}
	_, pooled := mustRelay(t, store, store.Cluster.Primary(), true)
	if got := loaded(pooled, "app1/a"); got.Known() {
		t.Errorf("behind a pooler: got %+v", got)
	}

	for i := range 20 {
		name := fmt.Sprintf("app1/n%d", i)
		result, err := putOne(t.Context(), t, mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)}), name)
		must(t, err)
		lsn, err := db.ParseLSN(result.LSN)
		must(t, err)
		var named []string
		for standby.last.Position < lsn {
			named = append(named, standby.poll().Names...)
		}
		if named = append(named, standby.poll().Names...); !slices.Contains(named, name) {
			t.Errorf("up to the poll after one that has reached %s, %s is not named: %v", lsn, name, named)
		}
	}

	server := store.Cluster.Primary()
	must(t, server.Stop(t.Context(), localpg.Fast))
	must(t, server.Start(t.Context()))
	if _, err := primary.feed.Poll(t.Context(), primary.last.XMin); err == nil {
		t.Error("a poll outlives its server")
	}
	if again := mustFollow(t, store.URL(vaulttest.Operator)); again.last.Instance == primary.last.Instance {
		t.Errorf("a server that was started again is %+v, as before", again.last.Instance)
	}
}

// A poll is one round trip, and its plan is the same whatever the statistics say: no sort, no scan of a whole table.
func TestFeedPollsCheaply(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	relay, url := mustRelay(t, store, store.Cluster.Primary(), false)
	f := mustFollow(t, url)
	before := relay.trips.Load()
	const polls = 10
	for range polls {
		f.poll()
	}
	if got := relay.trips.Load() - before; got != polls {
		t.Errorf("%d polls took %d round trips", polls, got)
	}
	for _, rows := range []int{0, 100_000} {
		if rows > 0 {
			store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.change_feed
				SELECT pg_current_xact_id(), 'app1/' || n FROM generate_series(1, %d) AS n`, rows), `ANALYZE vault.change_feed`)
		}
		for _, role := range []string{vaulttest.Operator, vaulttest.AppRole, vaulttest.Superuser} {
			f := mustFollow(t, store.URL(role))
			plan, err := f.feed.Explain(t.Context())
			must(t, err)
			for _, wrong := range []string{"Seq Scan", "Bitmap", "Sort", "Gather", "JIT", "Disabled", "1000000"} {
				if strings.Contains(plan, wrong) {
					t.Errorf("%d rows, as %s: the plan has %q:\n%s", rows, role, wrong, plan)
				}
			}
		}
	}
}
