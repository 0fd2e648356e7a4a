package auditdb_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

// plainReads takes the rows of the log apart in the plainest way.
const plainReads = `(SELECT id, 0 AS nth, at, recorded_at, actor, client, node, action, secret, version, outcome,
		request_id, detail FROM vault.audit_log
	UNION ALL
	SELECT id, i, at - ago[i] * interval '1 microsecond', recorded_at, actors[reader[i]], clients[reader[i]], node, action,
		secret, versions[reader[i]], outcome, requests[i], coalesce(details[reader[i]], '{}') ||
		jsonb_build_object('boot', detail -> 'boot', 'seq', (detail ->> 'seq')::bigint - back[i])
	FROM vault.audit_log, generate_subscripts(ago, 1) AS i)`

// windowed ships random reads of the hour before a time, some batches as rows of several reads and some as a row each,
// as daemons with and without audit_window do, and puts other events among them. It returns the reads.
func windowed(t testing.TB, store *vaulttest.Store, begin time.Time, batches, each int) (reads []audit.Event) {
	t.Helper()
	store.MustExec(t, `SELECT vault._audit_partitions()`, fmt.Sprintf(`SELECT vault._audit_partition('%s')`,
		begin.Format(time.DateOnly)))
	random := rand.New(rand.NewPCG(3, 5))
	log := auditdb.New(nil, mustWriter(t, store.URL(vaulttest.Daemon)))
	for daemon := range 2 {
		s, err := spool.Open(spool.Options{Dir: filepath.Join(t.TempDir(), "spool"),
			Node: func() string { return fmt.Sprintf("db%d", daemon+1) }, Sync: spool.Interval, SyncInterval: time.Millisecond})
		must(t, err)
		at := begin
		for batch := range batches {
			for range each {
				at = at.Add(time.Duration(random.IntN(20)) * time.Millisecond).Round(10 * time.Microsecond)
				client := fmt.Sprintf("10.0.%d.%d", random.IntN(2), random.IntN(5))
				e := audit.Event{At: at, Actor: "client:" + client, Client: client, Action: audit.Read,
					Secret: fmt.Sprintf("prod/s%d", random.IntN(8)), Version: 1 + random.IntN(3), Outcome: audit.OK,
					RequestID: requestAt(at)}
				switch random.IntN(40) {
				case 0:
					e.Outcome = audit.Denied
				case 1:
					e.RequestID = uuid.NewString()
				case 2, 3, 4, 5:
					e.Actor, e.Detail = "app:billing", map[string]any{"via": "token"}
				case 6:
					e.Client = ""
				case 7:
					e.Actor = "app:rare"
				}
				must(t, s.Append(t.Context(), e))
				reads = append(reads, e)
			}
			shipAll(t, log, s, (batch+daemon)%3 > 0)
			at = at.Add(time.Duration(random.IntN(30)) * time.Second)
		}
		must(t, s.Close())
	}
	store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.audit_log (at, actor, action, secret, version, client)
		SELECT timestamptz '%s' + n * interval '0.7 s', 'token:ci', 'put', 'prod/s' || n %% 8, n, '10.0.0.1'
		FROM generate_series(1, 100) n`, begin.Format(time.RFC3339)), `VACUUM ANALYZE vault.audit_log`)
	return reads
}

// shipAll ships all records of a spool, as rows of several reads or as a row each.
func shipAll(t testing.TB, log *auditdb.Log, s *spool.Spool, windows bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); s.Stats().Records > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %+v", s.Stats())
		}
		var at spool.Position
		if w, err := s.ReadWindows(10*time.Second, 8192); windows {
			must(t, err)
			if w.Next == w.First {
				continue // not on disk yet
			}
			at, err = log.ShipWindows(t.Context(), w)
			must(t, err)
		} else {
			b, err := s.Read(1000)
			must(t, err)
			at, err = log.Ship(t.Context(), b)
			must(t, err)
		}
		must(t, s.Acknowledge(at.Next))
	}
}

var windowFilters = []struct{ filter, sql string }{
	{``, `true`},
	{`secret:prod/s2`, `secret = 'prod/s2'`},
	{`secret:prod/*`, `secret ^@ 'prod/'`},
	{`actor:client:10.0.0.3`, `actor = 'client:10.0.0.3'`},
	{`actor:billing`, `actor = 'app:billing'`},
	{`actor:rare actor:ci`, `actor IN ('app:rare', 'token:ci')`},
	{`actor:client:10.0.1.*`, `actor ^@ 'client:10.0.1.'`},
	{`-actor:client:*`, `NOT actor ^@ 'client:'`},
	{`ip:10.0.1.4`, `client = '10.0.1.4'`},
	{`ip:10.0.1.0/24`, `client <<= '10.0.1.0/24'`},
	{`-ip:10.0.0.0/16`, `client IS NULL`},
	{`version:2`, `version = 2`},
	{`version:3 -actor:app:*`, `version = 3 AND NOT actor ^@ 'app:'`},
	{`-version:1 -version:2`, `(version IN (1, 2)) IS NOT TRUE`},
	{`outcome:denied`, `outcome = 'denied'`},
	{`outcome:ok action:read`, `outcome = 'ok' AND action = 'read'`},
	{`node:db2 actor:billing`, `node = 'db2' AND actor = 'app:billing'`},
	{`prod/s4 actor:client:10.0.0.2 version:1`, `secret = 'prod/s4' AND actor = 'client:10.0.0.2' AND version = 1`},
	{`actor:rare ip:10.0.0.1`, `actor = 'app:rare' AND client = '10.0.0.1'`},
	{`action:put`, `action = 'put'`},
	{`actor:nothing`, `false`},
}

// Every filter finds the same reads as a plain WHERE over rows that were taken apart, in both directions, page by page,
// and within ranges of time that cut rows in two.
func TestReadsOfWindows(t *testing.T) {
	store := vaulttest.New(t)
	begin := time.Now().UTC().Add(-2 * time.Hour).Truncate(time.Second)
	reads := windowed(t, store, begin, 6, 400)
	var rows, several int
	_, err := fmt.Sscan(store.MustQuery(t, `SELECT concat_ws(' ', count(*), sum(reads)) FROM vault.audit_log
		WHERE action = 'read'`), &rows, &several)
	must(t, err)
	if rows >= len(reads)*3/4 || several < len(reads)/4 {
		t.Fatalf("%d reads are in %d rows, and %d of them in rows of several", len(reads), rows, several)
	}
	t.Run("nothing is lost", func(t *testing.T) { keepsEveryRead(t, store, reads) })
	log := mustLog(t, store.URL(vaulttest.Operator))
	filters := slices.Clone(windowFilters)
	for _, i := range []int{0, len(reads) / 3, len(reads) - 1} {
		filters = append(filters, struct{ filter, sql string }{"request:" + reads[i].RequestID,
			`request_id = '` + reads[i].RequestID + `'`})
	}
	for i := range 6 { // in the middle of windows
		from := begin.Add(time.Duration(i*1777) * time.Millisecond)
		to := from.Add(2500 * time.Millisecond)
		filters = append(filters, struct{ filter, sql string }{
			fmt.Sprintf(`since:%s until:%s prod/`, from.Format(time.RFC3339Nano), to.Format(time.RFC3339Nano)),
			fmt.Sprintf(`at >= '%s' AND at < '%s' AND secret ^@ 'prod/'`, from.Format(time.RFC3339Nano),
				to.Format(time.RFC3339Nano))})
	}
	exact := 0
	for _, c := range filters {
		t.Run(c.filter, func(t *testing.T) {
			want := store.MustQuery(t, `SELECT coalesce(string_agg(id || ':' || nth, ',' ORDER BY at DESC, id DESC, nth), '')
				FROM `+plainReads+` r WHERE `+c.sql)
			for _, newer := range []bool{false, true} {
				for _, limit := range []int{1000, 61} {
					got := walkReads(t, log, audit.Query{Filter: parsed(t, c.filter), Limit: limit, Newer: newer})
					if got != want {
						t.Errorf("newer %t, pages of %d: got %d reads, want %d\n%.300s\n%.300s", newer, limit,
							strings.Count(got, ":"), strings.Count(want, ":"), got, want)
					}
				}
			}
			if strings.Contains(c.filter, "since:") {
				return
			}
			until := begin.Add(5 * time.Minute) // after the reads, and before what the store recorded of itself
			counted := store.MustQuery(t, `SELECT count(*) FROM `+plainReads+` r WHERE at < $1 AND (`+c.sql+`)`, until)
			if countsExactly(t, log, parsed(t, c.filter), until, counted) {
				exact++
			}
		})
	}
	if exact < 8 { // those about a secret, an outcome, an action or a request
		t.Errorf("the counts of %d filters are no estimates, want those of 8 at least", exact)
	}
	t.Run("a request's row", func(t *testing.T) {
		page, err := log.Events(t.Context(), audit.Query{Filter: parsed(t, "request:"+reads[7].RequestID)})
		must(t, err)
		if len(page.Rows) != 1 || page.Rows[0].Secret != reads[7].Secret || page.Rows[0].Actor != reads[7].Actor {
			t.Errorf("got %+v, want %+v", page.Rows, reads[7])
		}
	})
}

// walkReads collects the reads of every page, newest first.
func walkReads(t testing.TB, log *auditdb.Log, q audit.Query) string {
	t.Helper()
	var found []string
	for pages := 0; ; pages++ {
		page, err := log.Events(t.Context(), q)
		must(t, err)
		if q.Newer {
			slices.Reverse(page.Rows)
		}
		for _, r := range page.Rows {
			found = append(found, fmt.Sprintf("%d:%d", r.ID, r.Read))
		}
		if page.Next == nil {
			break
		}
		if pages > 10_000 {
			t.Fatal("the pages have no end")
		}
		q.From = page.Next
	}
	if q.Newer {
		slices.Reverse(found)
	}
	return strings.Join(found, ",")
}

// countsExactly checks counts unless one is marked as an estimate, and reports whether it has.
func countsExactly(t *testing.T, log *auditdb.Log, f filter.Filter, to time.Time, want string) bool {
	t.Helper()
	counts, err := log.Counts(t.Context(), f, time.Time{}, to, 200) // spans so short have no full sample
	must(t, err)
	var sum int64
	for _, b := range counts.Buckets {
		if sum += b.Events; b.Approximate {
			return false
		}
	}
	if fmt.Sprint(sum) != want {
		t.Errorf("counted %d, want %s", sum, want)
	}
	return true
}

// An hour of two nodes: every ten seconds each has a row of 20 reads for each of 200 secrets, by three readers. Pages
// do not read more rows with the log, and estimates are near.
func TestManyWindows(t *testing.T) {
	s := vaulttest.New(t)
	s.MustExec(t, `SELECT vault._audit_partition('2026-08-01')`,
		`INSERT INTO vault.audit_log (at, recorded_at, actor, client, node, action, secret, version, request_id, detail,
			since, reads, ago, back, requests, reader, actors, clients, versions, details)
		SELECT timestamptz '2026-08-10 12:00Z' + w * interval '10 s' - n * interval '3 ms', now(), 'client:10.0.0.1',
			'10.0.0.1', 'db' || w % 2, 'read', 'prod/s' || n, 1, gen_random_uuid(), jsonb_build_object('boot', 'x', 'seq', 100),
			timestamptz '2026-08-10 12:00Z' + w * interval '10 s' - n * interval '3 ms' - interval '9.5 s', 20,
			ARRAY(SELECT i * 500000 FROM generate_series(1, 19) i), ARRAY(SELECT i FROM generate_series(1, 19) i),
			array_fill(gen_random_uuid(), ARRAY[19]),
			ARRAY(SELECT (1 + i % 3)::smallint FROM generate_series(1, 19) i),
			CASE WHEN w = 300 AND n = 7 THEN '{client:10.0.0.1,client:10.0.0.2,app:once}'
				ELSE '{client:10.0.0.1,client:10.0.0.2,app:x}'::text[] END,
			'{10.0.0.1,10.0.0.2,10.0.0.3}', '{1,1,1}', '{NULL,NULL,NULL}'
		FROM generate_series(0, 719) w, generate_series(1, 200) n ORDER BY w, n`,
		`VACUUM ANALYZE vault.audit_log`)
	const all = 720 * 200 * 20
	log := mustLog(t, s.URL(vaulttest.Operator))
	for words, want := range map[string]float64{``: all, `actor:client:10.0.0.2`: all / 20 * 6.3, `prod/`: all,
		`secret:prod/s9`: all / 200, `-version:1`: 0} {
		f := parsed(t, words)
		counts, err := log.Counts(t.Context(), f, time.Date(2026, 8, 10, 12, 0, 0, 0, time.UTC),
			time.Date(2026, 8, 10, 14, 0, 0, 0, time.UTC), 40)
		must(t, err)
		sum := 0.0
		for _, b := range counts.Buckets {
			sum += float64(b.Events)
		}
		if sum < want*0.8 || sum > want*1.2 {
			t.Errorf("%q: estimated %.0f, want about %.0f", words, sum, want)
		}
	}
	reader := mustReader(t, s.URL(vaulttest.Operator))
	for _, words := range []string{``, `actor:client:10.0.0.2`, `actor:once`, `ip:10.0.0.3`, `ip:10.9.9.9`,
		`secret:prod/s9`, `secret:prod/s9 actor:x`,
		`request:` + requestAt(time.Date(2026, 8, 10, 12, 30, 0, 0, time.UTC)), `version:7`} {
		for _, newer := range []bool{false, true} {
			began := time.Now()
			q := audit.Query{Filter: parsed(t, words), Newer: newer, Limit: 100,
				From: &audit.Cursor{At: time.Date(2026, 8, 10, 13, 0, 4, 0, time.UTC)}}
			plans, err := auditdb.Explain(t.Context(), reader, q)
			must(t, err)
			rows := 0
			for _, plan := range plans {
				rows = max(rows, plan.Rows)
				if strings.Contains(plan.Text, "Seq Scan") || strings.Contains(plan.Text, "Bitmap") || plan.Rows > 3*20000 {
					t.Errorf("%q, newer %t: %d rows were looked at:\n%s", words, newer, plan.Rows, plan.Text)
				}
			}
			t.Logf("%q, newer %t: %d statements, at most %d rows, %s with EXPLAIN", words, newer, len(plans), rows,
				time.Since(began))
		}
	}
	page, err := log.Events(t.Context(), audit.Query{Filter: parsed(t, "actor:app:once"), Limit: 10})
	for err == nil && page.Next != nil && len(page.Rows) == 0 {
		page, err = log.Events(t.Context(), audit.Query{Filter: parsed(t, "actor:app:once"), Limit: 10, From: page.Next})
	}
	if must(t, err); len(page.Rows) == 0 || page.Rows[0].Secret != "prod/s7" {
		t.Errorf("got %+v, want the reads of the app that read once", page.Rows)
	}
}

// keepsEveryRead compares the log with the events that were appended.
func keepsEveryRead(t *testing.T, store *vaulttest.Store, reads []audit.Event) {
	var want []string
	for _, e := range reads {
		via := ""
		if e.Detail != nil {
			via = "token"
		}
		want = append(want, fmt.Sprintf("%s %s %s %q %d %s %s %q", e.RequestID, e.At.Format("15:04:05.000000"), e.Actor,
			e.Client, e.Version, e.Secret, e.Outcome, via))
	}
	slices.Sort(want)
	got := strings.Split(store.MustQuery(t, `SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
		SELECT format('%s %s %s "%s" %s %s %s "%s"', request_id, to_char(at AT TIME ZONE 'UTC', 'HH24:MI:SS.US'), actor,
			host(client), version, secret, outcome, detail ->> 'via') AS line
		FROM `+plainReads+` r WHERE action = 'read') l`), "\n")
	if len(got) != len(want) {
		t.Fatalf("got %d reads, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got  %s\nwant %s", got[i], want[i])
		}
	}
	if twice := store.MustQuery(t, `SELECT count(*) - count(DISTINCT (detail ->> 'boot', detail ->> 'seq'))
		FROM `+plainReads+` r WHERE detail ? 'seq'`); twice != "0" {
		t.Errorf("%s numbers are on record twice", twice)
	}
}

// onceEach checks that the first n records of the only spool are on the primary, each once.
func onceEach(t *testing.T, store *vaulttest.Store, least int) {
	t.Helper()
	if got := store.MustQuery(t, `SELECT concat_ws(' ', count(*) = count(DISTINCT detail ->> 'seq'),
		count(*) = (SELECT next_seq - 1 FROM vault.audit_spools), min((detail ->> 'seq')::int),
		count(DISTINCT request_id) = count(request_id), count(*) >= `+fmt.Sprint(least)+`,
		(SELECT gaps FROM vault.audit_spools))
		FROM `+plainReads+` r WHERE detail ? 'seq'`); got != "t t 1 t t 0" {
		t.Errorf("got records %s, want each once and without gaps", got)
	}
}

// The pair of a commit, "failed" and "done, but the reply was lost", for rows of several reads: the records are grouped
// anew, with those that came meanwhile.
func TestWindowsShippedExactlyOnce(t *testing.T) {
	for _, when := range []pgproxy.When{pgproxy.Before, pgproxy.After} {
		t.Run(when.String(), func(t *testing.T) {
			store := vaulttest.New(t)
			p := newProxy(t, store)
			s := newShipping(t, through(p, store, vaulttest.Daemon))
			s.window = 50 * time.Millisecond
			total := 0
			at := time.Now().Add(-time.Minute) // each read is a little later, however long an append takes
			for range 3 {
				for range 300 {
					at = at.Add(100 * time.Microsecond)
					must(t, s.spool.Append(t.Context(), audit.Event{At: at, Actor: "client:192.0.2.7", Client: "192.0.2.7",
						Action: audit.Read, Secret: fmt.Sprintf("app/%d", total%3), Outcome: audit.OK, RequestID: requestAt(at)}))
					total++
				}
				lose(p, when)
				s.run(drained)
			}
			onceEach(t, store, total)
			if several := store.MustQuery(t, `SELECT count(*) FROM vault.audit_log WHERE reads > 2`); several == "0" {
				t.Error("no row has several reads")
			}
		})
	}
}

// shipChild is the folder of the spool that a child process fills and ships; see TestWindowsSurviveKills.
const shipChild = "VAULT_TEST_SHIP_CHILD"

// child appends reads and ships them, and prints the id of each read once it could be answered, until it is killed.
func child() {
	ctx := context.Background()
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	writer, err := db.NewWriter(ctx, db.Options{URL: os.Getenv("VAULT_TEST_SHIP_URL"), ApplicationName: "test"})
	fail(err)
	s, err := spool.Open(spool.Options{Dir: os.Getenv(shipChild), Node: func() string { return "killed" }})
	fail(err)
	shipper := &spool.Shipper{Spool: s, Primary: auditdb.New(nil, writer), Window: 100 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	go shipper.Run(ctx)
	// One write makes the records of several readers durable, so that there are reads to put in one row, however long it
	// takes.
	for range 20 {
		go func() {
			for n := 0; ; n++ {
				at := time.Now()
				e := audit.Event{At: at, Actor: "client:192.0.2.7", Client: "192.0.2.7", Action: audit.Read,
					Secret: fmt.Sprintf("app/%d", n%2), Version: 1, Outcome: audit.OK, RequestID: requestAt(at)}
				fail(s.Append(ctx, e))
				fmt.Println(e.RequestID)
			}
		}()
	}
	select {}
}

// A daemon is killed again and again while it reads and ships: every read that it answered is on the primary once.
func TestWindowsSurviveKills(t *testing.T) {
	store := vaulttest.New(t)
	folder := filepath.Join(t.TempDir(), "spool")
	answered := map[string]bool{}
	for range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), shipChild+"="+folder, "VAULT_TEST_SHIP_URL="+store.URL(vaulttest.Daemon))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		shipped := store.MustQuery(t, `SELECT coalesce(sum(next_seq), 0) FROM vault.audit_spools`)
		for n := 0; lines.Scan(); n++ {
			if len(lines.Text()) == 36 {
				answered[lines.Text()] = true
			}
			if n%100 == 99 && n > 400 &&
				store.MustQuery(t, `SELECT coalesce(sum(next_seq), 0) FROM vault.audit_spools`) != shipped {
				break
			}
		}
		must(t, cmd.Process.Kill())
		_, _ = bufio.NewReader(out).WriteTo(&ids{answered}) // what it printed before
		_ = cmd.Wait()
	}
	s, err := spool.Open(spool.Options{Dir: folder})
	must(t, err)
	shipAll(t, auditdb.New(nil, mustWriter(t, store.URL(vaulttest.Daemon))), s, true)
	must(t, s.Close())
	onceEach(t, store, len(answered))
	want := make([]string, 0, len(answered))
	for id := range answered {
		want = append(want, id)
	}
	// not NOT IN, which compares each id with each row
	if missing := store.MustQuery(t, `SELECT count(*) FROM (SELECT id::uuid FROM unnest($1::text[]) AS id
		EXCEPT SELECT request_id FROM `+plainReads+` r) m`, want); missing != "0" {
		t.Errorf("%s of %d answered reads are not on record", missing, len(answered))
	}
	if several := store.MustQuery(t, `SELECT count(*) FROM vault.audit_log WHERE reads > 2`); several == "0" {
		t.Error("no row has several reads")
	}
}

// ids keeps the lines that are whole ids.
type ids struct{ known map[string]bool }

func (w *ids) Write(b []byte) (int, error) {
	for _, line := range strings.Split(string(b), "\n") {
		if len(line) == 36 {
			w.known[line] = true
		}
	}
	return len(b), nil
}

// detailOf gives the first reader of a batch another detail.
func detailOf(text string) func(*spool.Windows) {
	return func(w *spool.Windows) { w.Readers[0].Detail = []byte(text) }
}

// A batch that does not cover its numbers, does not continue the spool, or has rows that a reader could not take apart
// is refused whole.
func TestWindowsThatDoNotFit(t *testing.T) {
	store := vaulttest.New(t)
	log := auditdb.New(nil, mustWriter(t, store.URL(vaulttest.Daemon)))
	s, err := spool.Open(spool.Options{Dir: filepath.Join(t.TempDir(), "spool"), Node: func() string { return "n" }})
	must(t, err)
	defer s.Close()
	for i := range 20 {
		at := time.Now()
		must(t, s.Append(t.Context(), audit.Event{At: at, Actor: "client:192.0.2.7", Action: audit.Read,
			Secret: fmt.Sprintf("app/%d", i%2), Outcome: audit.OK, RequestID: requestAt(at)}))
	}
	whole := func() spool.Windows {
		w, err := s.ReadWindows(time.Minute, 8192)
		must(t, err)
		if len(w.Rows) != 2 || len(w.Seqs) != 1 || len(w.Ago) != 18 {
			t.Fatalf("got %+v", w)
		}
		return w
	}
	for name, test := range map[string]struct {
		change func(*spool.Windows)
		want   error
	}{
		"a number twice":           {func(w *spool.Windows) { w.Back[1] = w.Back[0] }, db.ErrInvalid},
		"a number of its newest":   {func(w *spool.Windows) { w.Back[1] = 0 }, db.ErrInvalid},
		"a number outside":         {func(w *spool.Windows) { w.Back[8] = 1000 }, db.ErrInvalid},
		"one number less":          {func(w *spool.Windows) { w.Next-- }, db.ErrInvalid},
		"one number more":          {func(w *spool.Windows) { w.Next++ }, db.ErrInvalid},
		"an event less":            {func(w *spool.Windows) { w.Seqs, w.Events = nil, nil }, db.ErrInvalid},
		"an event without number":  {func(w *spool.Windows) { w.Seqs = nil }, db.ErrInvalid},
		"arrays of unequal length": {func(w *spool.Windows) { w.Ago = w.Ago[1:] }, db.ErrInvalid},
		"fewer requests":           {func(w *spool.Windows) { w.Requests = w.Requests[1:] }, db.ErrInvalid},
		"a read more in its row":   {func(w *spool.Windows) { w.Rows[0].Earlier++ }, db.ErrInvalid},
		"an unknown reader":        {func(w *spool.Windows) { w.Reader[3] = 2 }, db.ErrInvalid},
		"a reader beyond the list": {func(w *spool.Windows) { w.Rows[0].Readers[0] = 7 }, db.ErrInvalid},
		"no readers":               {func(w *spool.Windows) { w.Rows[0].Readers = nil }, db.ErrInvalid},
		"its newest by no reader":  {func(w *spool.Windows) { w.Rows[0].Own = 9 }, db.ErrInvalid},
		"times in another order":   {func(w *spool.Windows) { w.Ago[2] = w.Ago[1] - 1 }, db.ErrInvalid},
		"a time after the newest":  {func(w *spool.Windows) { w.Ago[0] = -1 }, db.ErrInvalid},
		"longer than a minute":     {func(w *spool.Windows) { w.Ago[8] = 60_000_001 }, db.ErrInvalid},
		"a match in grace":         {detailOf(`{"match":"grace"}`), db.ErrInvalid},
		"a nested detail":          {detailOf(`{"a":{"b":1}}`), db.ErrInvalid},
		"a list in a detail":       {detailOf(`{"a":[1]}`), db.ErrInvalid},
		"an exponent":              {detailOf(`{"a":1e9999}`), db.ErrInvalid},
		"another action":           {func(w *spool.Windows) { w.Rows[0].Action = "put" }, db.ErrInvalid},
		"no secret":                {func(w *spool.Windows) { w.Rows[0].Secret = "" }, db.ErrInvalid},
		"another record before":    {func(w *spool.Windows) { w.Previous[3]++ }, db.ErrConflict},
	} {
		t.Run(name, func(t *testing.T) {
			w := whole()
			test.change(&w)
			if _, err := log.ShipWindows(t.Context(), w); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if got := store.MustQuery(t, `SELECT count(*) FROM vault.audit_log WHERE detail ? 'seq'`); got != "0" {
				t.Errorf("%s rows are stored all the same", got)
			}
		})
	}
	w := whole()
	w.First, w.Seqs[0] = 2, 2
	w.Rows, w.Readers, w.Ago, w.Back, w.Requests, w.Reader = nil, nil, nil, nil, nil, nil
	w.Next = 3
	if at, err := log.ShipWindows(t.Context(), w); err != nil || at.Next != 1 {
		t.Errorf("behind a hole that is not admitted: got %+v, %v, want the position 1", at, err)
	}
	at, err := log.ShipWindows(t.Context(), whole())
	must(t, err)
	if at.Next != 22 {
		t.Errorf("the whole batch moved the primary to %d, want 22", at.Next)
	}
	if at, err = log.ShipWindows(t.Context(), whole()); err != nil || at.Next != 22 {
		t.Errorf("the same batch again: got %+v, %v, want the position 22", at, err)
	}
	onceEach(t, store, 21)
}

// Rows whose arrays were edited by hand: the verifier names them, sealed or not, and the log shows what it can.
func TestEditedWindows(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	windowed(t, s.store, time.Now().UTC().Add(-time.Hour), 1, 300)
	s.seal()
	s.mustVerify(seal.Options{})
	s.store.MustExec(t, unlock, `ALTER TABLE vault.audit_log DROP CONSTRAINT audit_earlier`,
		`CREATE TABLE public.log AS SELECT * FROM vault.audit_log`)
	id := s.mustInt(`SELECT min(id) FROM vault.audit_log WHERE reads > 5`)
	whole := s.mustInt(`SELECT reads FROM vault.audit_log WHERE id = ` + fmt.Sprint(id))
	heal := `DELETE FROM vault.audit_log; INSERT INTO vault.audit_log SELECT * FROM public.log`
	changed := fmt.Sprintf("row %d was changed after it was sealed", id)
	itself := fmt.Sprintf("row %d does not fit itself: ", id)
	for _, test := range []struct {
		what, set, words string
		shown            int64
	}{
		{"a time", `ago[2] = ago[1]`, changed, whole},
		{"a request", `requests[3] = gen_random_uuid()`, changed, whole},
		{"an actor", `actors[1] = 'client:10.9.9.9'`, changed, whole},
		{"an address", `clients[1] = '10.9.9.9'`, changed, whole},
		{"a version", `versions[1] = 9`, changed, whole},
		{"a detail", `details[1] = '{"via": "cert"}'`, changed, whole},
		{"a number", `back[2] = back[2] + 1`, changed, whole},
		{"the reads of one reader", `reader[1] = 1 + reader[1] % cardinality(actors)`, changed, whole},
		{"its beginning", `since = since + interval '1 microsecond'`, changed, whole},
		{"a read less", `ago = ago[2:]`, itself + fmt.Sprintf("it says that it has %d reads", whole), 1},
		{"a read less everywhere", `reads = reads - 1, ago = ago[2:], back = back[2:], requests = requests[2:],
			reader = reader[2:]`, changed, whole - 1},
		{"a reader that is not there", `reader[1] = 500`, itself + "read 1 before its newest is of a reader", 1},
		{"no time", `ago[2] = NULL`, itself + "read 2 before its newest has no time", 1},
		{"no arrays", `reads = NULL, ago = NULL, back = NULL, requests = NULL, reader = NULL, actors = NULL, clients = NULL,
			versions = NULL, details = NULL`, itself + "it has arrays of reads without their beginning", 1},
		{"one event", `since = NULL, reads = NULL, ago = NULL, back = NULL, requests = NULL, reader = NULL, actors = NULL,
			clients = NULL, versions = NULL, details = NULL`, changed, 1},
	} {
		t.Run(test.what, func(t *testing.T) {
			s.store.MustExec(t, fmt.Sprintf(`UPDATE vault.audit_log SET %s WHERE id = %d`, test.set, id))
			_, err := seal.Verify(t.Context(), s.auditor.Source(time.Time{}), seal.Options{})
			var fault *seal.Fault
			if !errors.As(err, &fault) || !strings.Contains(fault.What, test.words) {
				t.Errorf("got %v, want %q", err, test.words)
			}
			shown := int64(0)
			for _, r := range strings.Split(walkReads(t, s.auditor, audit.Query{Limit: 1000}), ",") {
				if strings.HasPrefix(r, fmt.Sprintf("%d:", id)) {
					shown++
				}
			}
			if shown != test.shown {
				t.Errorf("%d reads of the row are shown, want %d", shown, test.shown)
			}
			s.store.MustExec(t, heal)
		})
	}
	s.mustVerify(seal.Options{})
}

// A follower returns the reads of a row together, each once.
func TestFollowingWindows(t *testing.T) {
	store := vaulttest.New(t)
	follower, err := auditdb.New(mustReader(t, store.URL(vaulttest.Operator)), nil).Follow(t.Context(),
		parsed(t, "actor:billing"))
	must(t, err)
	windowed(t, store, time.Now().UTC().Add(-time.Hour), 3, 200)
	var got []string
	for {
		fresh, more, err := follower.Next(t.Context())
		must(t, err)
		inOrder := func(a, b audit.Row) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) }
		if !slices.IsSortedFunc(fresh, inOrder) {
			t.Error("the events are not in the order of time")
		}
		for _, r := range fresh {
			got = append(got, r.RequestID)
		}
		if !more {
			break
		}
	}
	slices.Sort(got)
	want := store.MustQuery(t, `SELECT string_agg(request_id::text, ' ' ORDER BY request_id::text COLLATE "C")
		FROM `+plainReads+` r WHERE actor = 'app:billing'`)
	if strings.Join(got, " ") != want {
		t.Errorf("got %d events, want %d", len(got), strings.Count(want, " ")+1)
	}
}

// Completion knows the actors that are never the newest of a row, and an app's last use is that of its reads in rows.
func TestReadersOfWindows(t *testing.T) {
	store := vaulttest.New(t)
	windowed(t, store, time.Now().UTC().Add(-time.Hour), 3, 400)
	log := mustLog(t, store.URL(vaulttest.Operator))
	got, err := log.Values(t.Context(), filter.Actor, "app:", 10)
	must(t, err)
	if !slices.Equal(got, []string{"app:billing", "app:rare"}) {
		t.Errorf("got actors %q", got)
	}
}
