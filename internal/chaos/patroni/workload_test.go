package patroni

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

type outcome string

const (
	acked   outcome = "acked"
	failed  outcome = "failed"
	unknown outcome = "unknown"
)

// write is one put, as its writer saw it.
type write struct {
	name    string
	value   string
	outcome outcome
	version int // if acknowledged
	why     string
}

// look is one read through a member's vaultd.
type look struct {
	member string
	at     time.Time
	err    error
}

// workload writes down what its clients were told.
type workload struct {
	in      *installed
	clients sync.WaitGroup
	stop    context.CancelFunc

	mu     sync.Mutex
	writes []write
	looks  []look
}

const automatic = 10 // secrets that rotate by themselves

func (in *installed) startWorkload(ctx context.Context) *workload {
	w := &workload{in: in}
	v := in.open(ctx, in.URL(database, operator))
	pooled := in.open(ctx, in.PooledURL(database, operator))
	_, err := v.Put(ctx, vault.PutRequest{Change: vault.Change{Token: in.token}, Name: "steady", Value: []byte("steady")})
	must(in.t, err)
	generator, every := "hex:32", time.Hour
	for i := range automatic {
		_, err := v.Put(ctx, vault.PutRequest{Change: vault.Change{Token: in.token}, Name: fmt.Sprintf("auto/%d", i), Value: []byte("first"),
			Settings: vault.Settings{Generator: &generator, RotateEvery: &every}})
		must(in.t, err)
	}
	running, stop := context.WithCancel(ctx)
	w.stop = stop
	for i := range 3 {
		w.repeat(running, func(n int) { w.put(ctx, v, fmt.Sprintf("direct%d/%d", i, n%3)) })
	}
	w.repeat(running, func(n int) { w.put(ctx, pooled, fmt.Sprintf("pooled/%d", n%3)) })
	w.repeat(running, func(n int) { w.putByCommand(ctx, in.URL(database, operator), fmt.Sprintf("ctl/%d", n%3)) })
	w.repeat(running, func(n int) { w.putByCommand(ctx, in.PooledURL(database, operator), fmt.Sprintf("ctlpooled/%d", n%3)) })
	w.repeat(running, func(n int) { w.makeDue(ctx, n) })
	for _, m := range in.Members {
		w.repeat(running, func(int) { w.look(ctx, m.Name) })
	}
	return w
}

// repeat calls step until the workload is stopped, with a breath in between: this is about what is lost, not how fast.
func (w *workload) repeat(ctx context.Context, step func(n int)) {
	w.clients.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			step(n)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// end lets every write under way come to its end.
func (w *workload) end() {
	w.stop()
	w.clients.Wait()
}

func (w *workload) record(one write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, one)
}

func (w *workload) put(ctx context.Context, v *vault.Vault, name string) {
	one := write{name: name, value: rand.Text(), outcome: acked}
	receipt, err := v.Put(ctx, vault.PutRequest{Change: vault.Change{Token: w.in.token}, Name: name, Value: []byte(one.value)})
	one.version = receipt.Version
	switch {
	case errors.Is(err, vault.ErrOutcomeUnknown):
		one.outcome, one.why = unknown, err.Error()
	case err != nil:
		one.outcome, one.why = failed, err.Error()
	}
	w.record(one)
}

func (w *workload) putByCommand(ctx context.Context, url, name string) {
	one := write{name: name, value: rand.Text(), outcome: failed}
	code, _, talk := w.in.ctl(ctx, url, one.value, "put", name, "-")
	switch code {
	case 0:
		one.outcome = acked
		_, version, _ := strings.Cut(strings.TrimSpace(strings.Split(talk, "\n")[0]), " version ")
		one.version, _ = strconv.Atoi(version)
	case 7:
		one.outcome = unknown
	}
	one.why = strings.TrimSpace(talk)
	w.record(one)
}

// makeDue moves due times. A failure is as good as a success: then nothing was due.
func (w *workload) makeDue(ctx context.Context, n int) {
	if n%10 == 0 {
		_ = w.in.execIn(ctx, `UPDATE vault.secrets SET next_rotation_at = clock_timestamp() WHERE kind = 'automatic'`)
	}
}

func (w *workload) look(ctx context.Context, member string) {
	at := time.Now()
	err := w.in.read(ctx, member, "steady")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks = append(w.looks, look{member, at, err})
}

func (in *installed) execIn(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, in.URL(database, Superuser))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// open returns a vault over one connection string, to read from as well as to write to.
func (in *installed) open(ctx context.Context, url string) *vault.Vault {
	in.t.Helper()
	reader, err := db.NewReader(ctx, db.Options{URL: url, ApplicationName: "patroni test"})
	must(in.t, err)
	in.t.Cleanup(reader.Close)
	writer, err := db.NewWriter(ctx, db.Options{URL: url, ApplicationName: "patroni test", MaxConns: 8})
	must(in.t, err)
	in.t.Cleanup(writer.Close)
	ring, err := kms.OpenRing(ctx, []string{in.keyURI})
	must(in.t, err)
	in.t.Cleanup(func() { _ = ring.Close() })
	return vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring})
}

// progress counts acknowledged writes by the first part of their names.
type progress struct {
	writes int // all there were
	kinds  map[string]int
}

func (w *workload) acked(from int) progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := progress{len(w.writes), map[string]int{}}
	for _, one := range w.writes[from:] {
		if kind, _, _ := strings.Cut(one.name, "/"); one.outcome == acked {
			p.kinds[kind]++
		}
	}
	return p
}

// judge compares what the writers were told with what the leader holds.
func (w *workload) judge(t *testing.T, ctx context.Context) {
	t.Helper()
	v := w.in.open(ctx, w.in.URL(database, operator))
	stored := w.openAll(t, ctx, v)
	counts := map[outcome]int{}
	for _, one := range w.writes {
		counts[one.outcome]++
		at, there := stored[one.name+"\x00"+one.value]
		switch {
		case one.outcome == acked && !there:
			t.Errorf("%s version %d was acknowledged and is lost", one.name, one.version)
		case one.outcome == acked && at != one.version:
			t.Errorf("%s version %d was acknowledged and is version %d", one.name, one.version, at)
		case one.outcome == failed && there:
			t.Errorf("a write of %s failed (%s) and is version %d", one.name, one.why, at)
		}
	}
	t.Logf("%d versions open; writes: %d acked, %d failed, %d unknown", len(stored), counts[acked], counts[failed], counts[unknown])
	if counts[acked] < 100 {
		t.Errorf("only %d writes were acknowledged: the cluster was hardly used", counts[acked])
	}
	for what, sql := range map[string]string{
		"versions are dense, and one is current": `SELECT count(*) FROM (SELECT FROM vault.secrets s JOIN vault.secret_versions v ON v.secret_id = s.id GROUP BY s.id, s.current_version
			HAVING count(*) <> max(v.version) OR max(v.version) <> s.current_version OR count(*) FILTER (WHERE v.expires_at IS NULL) <> 1) x`,
		"no due time was rotated twice":             `SELECT count(*) FROM (SELECT FROM vault.rotation_jobs WHERE state = 'done' GROUP BY name, due_at HAVING count(*) > 1) x`,
		"each rotation made one version":            `SELECT count(*) FROM vault.rotation_jobs j WHERE state = 'done' AND (SELECT count(*) FROM vault.audit_log a WHERE a.secret = j.name AND a.version = j.to_version AND a.action = 'rotate') <> 1`,
		"each version has the one row of its audit": `SELECT count(*) FROM vault.secret_versions v WHERE (SELECT count(*) FROM vault.audit_log a WHERE a.secret = v.name AND a.version = v.version AND a.action IN ('put', 'rotate') AND a.outcome = 'ok') <> 1`,
	} {
		got, err := w.in.count(ctx, sql)
		must(t, err)
		if got != 0 {
			t.Errorf("%s: not for %d", what, got)
		}
	}
	rotations, err := w.in.rotations(ctx)
	must(t, err)
	t.Logf("%d rotations", rotations)
	if rotations < automatic {
		t.Errorf("got %d rotations, want at least one of each of %d secrets", rotations, automatic)
	}
}

// openAll opens every version there is, by name and value.
func (w *workload) openAll(t *testing.T, ctx context.Context, v *vault.Vault) map[string]int {
	t.Helper()
	stored := map[string]int{}
	secrets, err := v.List(ctx, db.ListQuery{})
	must(t, err)
	for _, s := range secrets {
		for version := 1; version <= s.CurrentVersion; version++ {
			secret, err := v.Get(ctx, s.Name, vault.GetOptions{Version: version})
			if err != nil {
				t.Errorf("%s version %d does not open: %v", s.Name, version, err)
				continue
			}
			stored[s.Name+"\x00"+string(secret.Value)] = version
			secret.Wipe()
		}
	}
	return stored
}

func (in *installed) count(ctx context.Context, sql string) (n int, err error) {
	conn, err := pgx.Connect(ctx, in.URL(database, Superuser))
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, sql).Scan(&n)
	return n, err
}

func (in *installed) rotations(ctx context.Context) (int, error) {
	return in.count(ctx, `SELECT count(*) FROM vault.rotation_jobs WHERE state = 'done'`)
}

// judgeReads: between two moments every read through the vaultd of these members was answered.
func (w *workload) judgeReads(t *testing.T, from, to time.Time, members []*Member) {
	t.Helper()
	for _, m := range members {
		n := 0
		for _, l := range w.looks {
			if l.member != m.Name || l.at.Before(from) || l.at.After(to) {
				continue
			}
			n++
			if l.err != nil {
				t.Errorf("a read through %s's vaultd while nobody led: %v", m.Name, l.err)
			}
		}
		t.Logf("%d reads through %s's vaultd while nobody led", n, m.Name)
		if n < 20 {
			t.Errorf("got %d reads through %s's vaultd, want more to judge by", n, m.Name)
		}
	}
}
