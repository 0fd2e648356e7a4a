package db_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// The randomised check of the change feed. Writers of twelve shapes change secrets, faults happen, and followers keep
// in memory what they have loaded, by the rules of [db.Feed]. Every change counts a number of its secret up, which is
// kept in kms_key_id. What is checked: an answer from memory that is confirmed by a poll is not older than what any
// session had read from the same node before that poll began.
//
// Followers with a wrong rule run in the same way, and the check has to find them.

const (
	// feedCheckSeed repeats the choices of a run, though not the order in which the server executes them.
	feedCheckSeed = "VAULT_FEED_SEED"
	// feedCheckTime is how long the check goes on with its faults; without it, it makes each once.
	feedCheckTime = "VAULT_FEED_TIME"

	checkedSecrets = 200
	askedSecrets   = 30           // so that most answers come from memory
	askers         = 4            // of a follower
	checkedApp     = "feed check" // application_name of the followers
)

// feedWorld is a cluster with writers.
type feedWorld struct {
	t         *testing.T
	store     *vaulttest.Store
	seed      uint64
	names     []string
	primary   atomic.Pointer[localpg.Node]
	changes   atomic.Int64 // that were committed
	answers   atomic.Int64 // from memory
	followers []*memory
	polled    chan struct{} // receives, without blocking, after each poll
	running   sync.WaitGroup
}

// followRule is how a follower follows. The zero rule is right.
type followRule struct {
	noFloor  bool // does not heed that rows were pruned
	noDoom   bool // keeps what was loaded while its name was dropped
	where    string
	argument func(db.Changed) any // of where, from the last poll
}

// memory is a follower, in its simplest form.
type memory struct {
	w      *feedWorld
	what   string
	node   *localpg.Node
	reader *db.Reader
	rule   followRule
	gate   sync.RWMutex // held by a fault to keep it from polling

	mu         sync.Mutex
	generation int // of the feed's session; 0 = none
	instance   db.Instance
	kept       map[string]keptRow
	loading    map[*load]bool
	confirmed  time.Time
	observed   map[string][]observation // in this generation, by name, in the order of time
	wrong      []string
}

type keptRow struct {
	number int64
	loaded time.Time // before the load began
}

type load struct {
	name   string
	doomed bool
}

// observation is that a session had read a number by this time.
type observation struct {
	number int64
	at     time.Time
}

func newFeedWorld(t *testing.T) *feedWorld {
	t.Helper()
	w := &feedWorld{t: t, seed: rand.Uint64(), polled: make(chan struct{}, 1)}
	if given := os.Getenv(feedCheckSeed); given != "" {
		var err error
		w.seed, err = strconv.ParseUint(given, 10, 64)
		must(t, err)
	}
	t.Logf("%s=%d", feedCheckSeed, w.seed)
	w.store = vaulttest.OwnWith(t, map[string]string{"max_prepared_transactions": "50", "log_statement": "none",
		"log_min_duration_statement": "-1", "hot_standby_feedback": "off", "deadlock_timeout": "100ms"})
	w.primary.Store(w.store.Cluster.Primary())
	for i := range checkedSecrets {
		w.names = append(w.names, fmt.Sprintf("app1/%03d", i))
	}
	mustAdmin(t, w.store, putMany(w.names...))
	w.store.MustExec(t, `UPDATE vault.secret_versions SET kms_key_id = 'k0'`)
	w.store.MustReplay(t)
	return w
}

// random is a source of choices for one goroutine.
func (w *feedWorld) random(stream int) *rand.Rand {
	return rand.New(rand.NewPCG(w.seed, uint64(stream)))
}

// follow adds a follower of a node. Call start after the last.
func (w *feedWorld) follow(what string, node *localpg.Node, r followRule) {
	w.t.Helper()
	reader, err := db.NewReader(w.t.Context(), db.Options{URL: node.URL(w.store.Database, vaulttest.Operator),
		ApplicationName: checkedApp, PlanOnce: true})
	must(w.t, err)
	w.t.Cleanup(reader.Close)
	w.followers = append(w.followers, &memory{w: w, what: what, node: node, reader: reader, rule: r,
		kept: map[string]keptRow{}, loading: map[*load]bool{}, observed: map[string][]observation{}})
}

// start runs writers and followers until stop is called.
func (w *feedWorld) start() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	for i := range shapes {
		w.running.Go(func() { w.write(ctx, i) })
	}
	for i, m := range w.followers {
		w.running.Go(func() { m.followAll(ctx) })
		w.running.Go(func() { m.observeAll(ctx) })
		for j := range askers {
			random := w.random(1000 + 10*i + j)
			w.running.Go(func() { m.askAll(ctx, random) })
		}
	}
	return func() {
		cancel()
		w.running.Wait()
	}
}

// calm reports whether only short transactions run. They alternate with all: while a long one runs, polls repeat the
// names since it began, which hides some mistakes.
func (w *feedWorld) calm() bool { return w.changes.Load()/200%2 == 1 }

// moment waits for a poll of any follower, or a few milliseconds: a step of a writer that lies between two polls.
func (w *feedWorld) moment(ctx context.Context) {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-w.polled:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// until waits for a condition, and fails the test if it does not come true.
func (w *feedWorld) until(what string, true func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !true(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("never came: %s", what)
		}
		w.moment(w.t.Context())
	}
}

// changesMore waits for n more changes.
func (w *feedWorld) changesMore(n int64) {
	w.t.Helper()
	want := w.changes.Load() + n
	w.until("more changes", func() bool { return w.changes.Load() >= want })
}

// ---------- followers ----------

func (m *memory) followAll(ctx context.Context) {
	for ctx.Err() == nil {
		m.followOnce(ctx)
		m.w.moment(ctx)
	}
}

// followOnce follows one session, to its end.
func (m *memory) followOnce(ctx context.Context) {
	open, cancel := context.WithTimeout(ctx, 5*time.Second)
	feed, err := m.reader.OpenFeed(open)
	cancel()
	if err != nil {
		return
	}
	defer feed.Close()
	var since uint64
	var last db.Changed
	scope := ""
	for first := true; ctx.Err() == nil; first = false {
		m.gate.RLock()
		begin := time.Now()
		limit, cancel := context.WithTimeout(ctx, 5*time.Second)
		p, err := feed.Poll(limit, since)
		if err == nil && m.rule.where != "" {
			var c db.Changed
			if first {
				c, err = feed.Changed(limit, "false")
			} else {
				c, err = feed.Changed(limit, m.rule.where, m.rule.argument(last))
			}
			// Maximum and snapshot of this poll; an older maximum would repeat names.
			p.Names, p.All, last = c.Names, slices.Contains(c.Names, ""), c
		}
		cancel()
		m.gate.RUnlock()
		if err != nil {
			break
		}
		if m.rule.noFloor && since < p.Floor && !p.Overflow {
			p.All = false // and names of which rows are left: none in most cases
		}
		m.drop(p.All || first || p.Scope != scope, p.Names, begin, p.Instance, first)
		since, scope = p.XMin, p.Scope
		select {
		case m.w.polled <- struct{}{}:
		default:
		}
		m.w.moment(ctx)
	}
	m.drop(true, nil, time.Time{}, db.Instance{}, true)
}

// drop processes a poll: it drops names, or all, dooms their loads, and then confirms the rest. A new session is
// another generation; without an instance, there is none.
func (m *memory) drop(all bool, names []string, confirmed time.Time, instance db.Instance, newSession bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if all {
		m.kept = map[string]keptRow{}
	}
	for _, name := range names {
		delete(m.kept, name)
	}
	for l := range m.loading {
		l.doomed = l.doomed || all || slices.Contains(names, l.name)
	}
	if newSession {
		m.generation++
		m.observed = map[string][]observation{}
		m.loading = map[*load]bool{}
	}
	m.confirmed, m.instance = confirmed, instance
}

// askAll asks for one name after the other: memory answers if it can, else the answer is loaded and perhaps kept.
func (m *memory) askAll(ctx context.Context, random *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		name := m.w.names[random.IntN(askedSecrets)]
		if !m.answer(name) {
			m.load(ctx, name, random)
		}
		if n%50 == 49 {
			m.w.moment(ctx)
		}
	}
}

// answer checks the answer that memory has.
func (m *memory) answer(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	row, there := m.kept[name]
	if !there || !m.instance.Known() {
		return false
	}
	basis := m.confirmed
	if row.loaded.After(basis) {
		basis = row.loaded
	}
	for _, o := range m.observed[name] {
		if o.at.Before(basis) && o.number > row.number {
			m.wrong = append(m.wrong, fmt.Sprintf("%s of %s is %d in memory, confirmed %v after %d was read", name, m.what,
				row.number, basis.Sub(o.at), o.number))
			delete(m.kept, name)
			return false
		}
	}
	m.w.answers.Add(1)
	return true
}

func (m *memory) load(ctx context.Context, name string, random *rand.Rand) {
	m.mu.Lock()
	if !m.instance.Known() {
		m.mu.Unlock()
		m.w.moment(ctx)
		return
	}
	l := &load{name: name}
	generation := m.generation
	m.loading[l] = true
	m.mu.Unlock()
	begin := time.Now()
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	reading, instance, err := m.reader.LoadLive(limit, name)
	cancel()
	var rows []db.VersionRow
	if err == nil {
		rows, err = reading.Live()
	}
	if random.IntN(3) == 0 { // other goroutines have the processor before the answer is kept
		for range 3 {
			m.w.moment(ctx)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.loading, l)
	if err != nil || generation != m.generation || instance != m.instance || l.doomed && !m.rule.noDoom {
		return
	}
	number, err := strconv.ParseInt(strings.TrimPrefix(rows[0].KMSKeyID, "k"), 10, 64)
	if err != nil {
		m.wrong = append(m.wrong, err.Error())
	}
	m.kept[name] = keptRow{number, begin}
}

// observeAll reads all numbers from the node, in a session of its own.
func (m *memory) observeAll(ctx context.Context) {
	var conn *pgx.Conn
	for ctx.Err() == nil {
		m.mu.Lock()
		generation := m.generation
		m.mu.Unlock()
		limit, cancel := context.WithTimeout(ctx, 5*time.Second)
		numbers, err := readNumbers(limit, &conn, m.node.URL(m.w.store.Database, vaulttest.Superuser))
		cancel()
		if err == nil {
			m.observe(generation, numbers)
		}
		m.w.moment(ctx)
	}
	if conn != nil {
		_ = conn.Close(context.Background())
	}
}

func readNumbers(ctx context.Context, conn **pgx.Conn, url string) (map[string]int64, error) {
	var err error
	if *conn == nil || (*conn).IsClosed() {
		if *conn, err = pgx.Connect(ctx, url); err != nil {
			*conn = nil
			return nil, err
		}
	}
	rows, err := (*conn).Query(ctx, `SELECT name, substr(kms_key_id, 2)::bigint FROM vault.secret_versions`)
	if err != nil {
		return nil, err
	}
	numbers := map[string]int64{}
	var name string
	var number int64
	_, err = pgx.ForEachRow(rows, []any{&name, &number}, func() error { numbers[name] = number; return nil })
	return numbers, err
}

// observe stores what was read, if the session of the feed is the same as when the read began: after a crash, a node
// may show less than before.
func (m *memory) observe(generation int, numbers map[string]int64) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if generation != m.generation {
		return
	}
	for name, number := range numbers {
		seen := m.observed[name]
		if n := len(seen); n > 0 && seen[n-1].number >= number {
			continue
		}
		m.observed[name] = append(seen[max(0, len(seen)-20):], observation{number, now})
	}
}

func (m *memory) violations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.wrong)
}

// ---------- writers ----------

// writer is a session of one shape.
type writer struct {
	w      *feedWorld
	conn   *pgx.Conn
	random *rand.Rand
	id     int
	n      int
}

// shapes are the transactions whose ids, order and fate differ. The first two are short.
var shapes = []struct {
	name string
	do   func(ctx context.Context, w *writer) error
}{
	{"one statement", func(ctx context.Context, w *writer) error { return w.exec(ctx, w.count(w.name())) }},
	{"every synchronous_commit", func(ctx context.Context, w *writer) error {
		levels := []string{"off", "local", "remote_write", "on", "remote_apply"}
		return w.exec(ctx, `BEGIN; SET LOCAL synchronous_commit = `+levels[w.random.IntN(len(levels))], w.count(w.name()),
			`COMMIT`)
	}},
	{"id taken early", func(ctx context.Context, w *writer) error {
		return w.exec(ctx, `BEGIN; SELECT pg_current_xact_id()`, pause, pause, pause, w.count(w.name()), pause, `COMMIT`)
	}},
	{"id taken early, many of them", func(ctx context.Context, w *writer) error {
		return w.exec(ctx, `BEGIN; SELECT pg_current_xact_id()`, pause, w.count(w.some(5)...), `COMMIT`)
	}},
	{"savepoint released", func(ctx context.Context, w *writer) error {
		a, b := w.name(), w.name()
		return w.exec(ctx, `BEGIN; SAVEPOINT s`, w.count(a), pause, `RELEASE s`, w.count(b), pause, `COMMIT`)
	}},
	{"savepoint rolled back", func(ctx context.Context, w *writer) error {
		names := w.some(2)
		return w.exec(ctx, `BEGIN; SAVEPOINT s`, w.count(names[0]), `ROLLBACK TO s`, pause, w.count(names[1]), `COMMIT`)
	}},
	{"only a subtransaction writes", func(ctx context.Context, w *writer) error {
		return w.exec(ctx, `DO $$ BEGIN PERFORM pg_current_xact_id(); BEGIN `+w.count(w.name())+
			`; EXCEPTION WHEN division_by_zero THEN NULL; END; END $$`)
	}},
	{"more than 64 subtransactions", func(ctx context.Context, w *writer) error {
		steps := []string{`BEGIN`}
		for i, name := range w.some(8) {
			var nested strings.Builder
			for j := range 10 {
				fmt.Fprintf(&nested, `SAVEPOINT s%d_%d; %s; `, i, j, w.count(name))
			}
			steps = append(steps, nested.String(), pause)
		}
		return w.exec(ctx, append(steps, `COMMIT`)...)
	}},
	{"prepared", func(ctx context.Context, w *writer) error {
		gid := w.gid()
		return w.exec(ctx, `BEGIN`, w.count(w.some(2)...), `PREPARE TRANSACTION '`+gid+`'`, pause, pause, pause,
			`COMMIT PREPARED '`+gid+`'`)
	}},
	{"prepared and rolled back", func(ctx context.Context, w *writer) error {
		gid := w.gid()
		return w.exec(ctx, `BEGIN; SAVEPOINT s`, w.count(w.name()), `PREPARE TRANSACTION '`+gid+`'`, pause,
			`ROLLBACK PREPARED '`+gid+`'`, w.count(w.name()))
	}},
	{"rolled back", func(ctx context.Context, w *writer) error {
		return w.exec(ctx, `BEGIN`, w.count(w.some(3)...), pause, `ROLLBACK`, w.count(w.name()))
	}},
	{"deleted and restored", func(ctx context.Context, w *writer) error {
		name := w.name()
		return w.exec(ctx, `BEGIN; UPDATE vault.secrets SET deleted_at = now(), restore_until = now() + interval '1 day'
			WHERE name = '`+name+`'`, w.count(name), `COMMIT`, pause, `BEGIN; UPDATE vault.secrets SET deleted_at = NULL,
			restore_until = NULL WHERE name = '`+name+`'`, w.count(name), pause, `COMMIT`)
	}},
}

const pause = "-- until another poll"

// name is, every second time, one that followers ask for.
func (w *writer) name() string {
	return w.w.names[w.random.IntN([]int{askedSecrets, len(w.w.names)}[w.random.IntN(2)])]
}

// some are names in the order in which every writer locks them.
func (w *writer) some(n int) []string {
	names := slices.Clone(w.w.names)
	w.random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	slices.Sort(names[:n])
	return names[:n]
}

func (w *writer) count(names ...string) string {
	return `UPDATE vault.secret_versions SET kms_key_id = 'k' || substr(kms_key_id, 2)::bigint + 1
		WHERE name IN ('` + strings.Join(names, "', '") + `')`
}

func (w *writer) gid() string {
	w.n++
	return fmt.Sprintf("writer%d-%d", w.id, w.n)
}

func (w *writer) exec(ctx context.Context, steps ...string) error {
	for _, step := range steps {
		if step == pause {
			w.w.moment(ctx)
			continue
		}
		if _, err := w.conn.Exec(ctx, step, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return nil
}

// write repeats one shape until ctx ends. After an error it begins with another session, which commits what the last
// one had prepared.
func (w *feedWorld) write(ctx context.Context, shape int) {
	one := &writer{w: w, random: w.random(shape), id: shape}
	for ctx.Err() == nil {
		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := one.connect(limit)
		for err == nil && ctx.Err() == nil {
			if shape > 1 && w.calm() {
				w.moment(ctx)
			} else if err = shapes[shape].do(limit, one); err == nil {
				w.changes.Add(1)
			}
			cancel()
			limit, cancel = context.WithTimeout(ctx, 10*time.Second)
		}
		if one.conn != nil {
			_ = one.conn.Close(limit)
		}
		cancel()
		w.moment(ctx)
	}
}

func (w *writer) connect(ctx context.Context) (err error) {
	w.conn, err = pgx.Connect(ctx, w.w.primary.Load().URL(w.w.store.Database, vaulttest.Superuser))
	if err != nil {
		w.conn = nil
		return err
	}
	rows, err := w.conn.Query(ctx, `SELECT gid FROM pg_prepared_xacts WHERE gid LIKE $1`,
		fmt.Sprintf("writer%d-%%", w.id))
	if err != nil {
		return err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, gid := range left {
		if err == nil {
			err = w.exec(ctx, `COMMIT PREPARED '`+gid+`'`)
		}
	}
	return err
}

// ---------- faults ----------

// prune raises the floor to an xmin of now, as two rounds of the supervisor do that are ten minutes apart.
func (w *feedWorld) prune() {
	w.t.Helper()
	for range 2 {
		must(w.t, w.primary.Load().Exec(w.t.Context(), w.store.Database,
			`UPDATE vault.feed_state SET noted_at = noted_at - interval '11 minutes'`, `SELECT vault.supervise()`))
	}
}

// pruneAway prunes what followers that do not poll have not seen.
func (w *feedWorld) pruneAway() {
	w.t.Helper()
	for _, m := range w.followers {
		m.gate.Lock()
	}
	w.changesMore(100)
	w.prune()
	w.changesMore(30)
	w.prune()
	for _, m := range w.followers {
		m.gate.Unlock()
	}
}

func (w *feedWorld) pauseReplay() {
	w.t.Helper()
	standby := w.store.Cluster.Standbys()[0]
	must(w.t, standby.Exec(w.t.Context(), "postgres", `SELECT pg_wal_replay_pause()`))
	w.changesMore(100)
	must(w.t, standby.Exec(w.t.Context(), "postgres", `SELECT pg_wal_replay_resume()`))
}

// endSessions ends those of the followers, and one that waits for its plan is as good as one that polls.
func (w *feedWorld) endSessions() {
	w.t.Helper()
	for _, m := range w.followers {
		must(w.t, m.node.Exec(w.t.Context(), "postgres",
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '`+checkedApp+`'`))
	}
}

// crash ends a server as a failure of the machine would, as far as memory goes, and starts it again.
func (w *feedWorld) crash(node *localpg.Node) {
	w.t.Helper()
	must(w.t, node.Stop(w.t.Context(), localpg.Immediate))
	must(w.t, node.Start(w.t.Context()))
}

// promote kills the primary and promotes the standby, which the writers then use.
func (w *feedWorld) promote() {
	w.t.Helper()
	standby := w.store.Cluster.Standbys()[0]
	must(w.t, w.store.Cluster.Primary().Kill())
	must(w.t, standby.Promote(w.t.Context()))
	w.primary.Store(standby)
}

// settle waits until writers and all followers of running servers work again.
func (w *feedWorld) settle() {
	w.t.Helper()
	w.changesMore(100)
	for _, m := range w.followers {
		if !m.node.Running() {
			continue
		}
		begin := time.Now()
		w.until("a poll of "+m.what, func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.confirmed.After(begin)
		})
	}
}

// Memory that follows the feed is never older than its last poll, on a primary and on a standby, under transactions of
// every shape and all of the faults.
func TestFollowersAreNeverBehindTheirPolls(t *testing.T) {
	t.Parallel()
	w := newFeedWorld(t)
	cluster := w.store.Cluster
	w.follow("the primary", cluster.Primary(), followRule{})
	w.follow("the standby", cluster.Standbys()[0], followRule{})
	stop := w.start()
	defer stop()
	faults := []struct {
		name string
		make func()
	}{
		{"prune", w.prune}, {"prune away", w.pruneAway}, {"pause replay", w.pauseReplay}, {"end sessions", w.endSessions},
		{"restart the standby", func() { w.crash(cluster.Standbys()[0]) }},
		{"restart the primary", func() { w.crash(cluster.Primary()) }},
		{"checkpoint", func() { must(t, cluster.Primary().Exec(t.Context(), "postgres", `CHECKPOINT`)) }},
	}
	random := w.random(-1)
	var until time.Time
	if given := os.Getenv(feedCheckTime); given != "" {
		d, err := time.ParseDuration(given)
		must(t, err)
		until = time.Now().Add(d)
	}
	for first := true; first || time.Now().Before(until); first = false {
		for _, i := range random.Perm(len(faults)) {
			w.settle()
			t.Logf("%6d changes, %8d answers from memory: %s", w.changes.Load(), w.answers.Load(), faults[i].name)
			faults[i].make()
		}
	}
	w.settle()
	w.promote()
	w.settle()
	w.until("enough answers", func() bool { return w.changes.Load() >= 500 && w.answers.Load() >= 1000 })
	stop()
	t.Logf("%6d changes, %8d answers from memory", w.changes.Load(), w.answers.Load())
	for _, m := range w.followers {
		for _, wrong := range m.violations()[:min(5, len(m.violations()))] {
			t.Error(wrong)
		}
	}
}

// The check finds the mistakes that are easily made.
func TestFeedCheckFindsMistakes(t *testing.T) {
	t.Parallel()
	w := newFeedWorld(t)
	primary, standby := w.store.Cluster.Primary(), w.store.Cluster.Standbys()[0]
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	w.follow("tx > max(tx)", primary, followRule{where: `tx > $1::text::xid8`,
		argument: func(c db.Changed) any { return number(c.MaxTx) }})
	w.follow("tx >= xmax", primary, followRule{where: `tx >= $1::text::xid8`,
		argument: func(c db.Changed) any { return number(c.XMax) }})
	w.follow("not visible in the last snapshot", standby, followRule{
		where:    `NOT pg_visible_in_snapshot(tx, $1::text::pg_snapshot)`,
		argument: func(c db.Changed) any { return c.Snapshot }})
	w.follow("no floor", primary, followRule{noFloor: true})
	w.follow("loads that are not doomed", primary, followRule{noDoom: true})
	w.follow("right", primary, followRule{})
	mistakes, right := w.followers[:5], w.followers[5]
	stop := w.start()
	defer stop()
	missing := func() (list []string) {
		for _, m := range mistakes {
			if len(m.violations()) == 0 {
				list = append(list, m.what)
			}
		}
		return list
	}
	for deadline := time.Now().Add(10 * time.Minute); len(missing()) > 0 && time.Now().Before(deadline); {
		if slices.Contains(missing(), "no floor") {
			w.pruneAway()
		}
		w.changesMore(200)
	}
	stop()
	for _, what := range missing() {
		t.Errorf("a follower with the mistake %q is not found", what)
	}
	for _, wrong := range right.violations() {
		t.Error(wrong)
	}
	t.Logf("%d changes, %d answers from memory", w.changes.Load(), w.answers.Load())
}
