package vault_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/leaks"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// pair is a vault on a cluster of its own, and a second Vault that reads from its standby.
type pair struct {
	*vault.Vault // of the primary
	t            *testing.T
	store        *vaulttest.Store
	as           vault.Change
	standby      *vault.Vault
}

func newPair(t *testing.T) *pair {
	t.Helper()
	store := vaulttest.Own(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	t.Cleanup(func() { must(t, ring.Close()) })
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, err)
	t.Cleanup(writer.Close)
	return &pair{t: t, store: store, as: vault.Change{Token: vaulttest.AdminToken(t)},
		Vault:   openAt(t, store.URL(vaulttest.Operator), writer, ring),
		standby: openAt(t, store.StandbyURL(vaulttest.Operator), writer, ring)}
}

func openAt(t *testing.T, url string, writer *db.Writer, keys vault.Keys) *vault.Vault {
	t.Helper()
	reader, err := db.NewReader(t.Context(), db.Options{URL: url, MaxConns: 2})
	must(t, err)
	t.Cleanup(reader.Close)
	return vault.New(vault.Options{Reader: reader, Writer: writer, Keys: keys})
}

func (p *pair) put(value string) vault.LSN {
	p.t.Helper()
	receipt, err := p.Put(p.t.Context(), vault.PutRequest{Change: p.as, Name: "app/x", Value: []byte(value)})
	must(p.t, err)
	return p.position(receipt.LSN)
}

func (p *pair) position(text string) vault.LSN {
	p.t.Helper()
	lsn, err := vault.ParseLSN(text)
	must(p.t, err)
	return lsn
}

// replay stops the standby's replay, or resumes it.
func (p *pair) replay(on bool) {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.store.StandbyURL(vaulttest.Superuser))
	must(p.t, err)
	defer conn.Close(context.WithoutCancel(p.t.Context()))
	_, err = conn.Exec(p.t.Context(), map[bool]string{true: `SELECT pg_wal_replay_resume()`,
		false: `SELECT pg_wal_replay_pause()`}[on])
	must(p.t, err)
}

// Three hundred readers wait for a write that the standby does not replay. They share two connections and other reads
// are answered; when replay resumes, each of them reads the write.
func TestManyWaitForTheirWrite(t *testing.T) {
	p := newPair(t)
	ctx := t.Context()
	must(t, p.standby.AwaitReplay(ctx, p.put("one"), 5*time.Minute))
	p.replay(false)
	position := p.put("two")

	err := p.standby.AwaitReplay(ctx, position, 0)
	wantErr(t, err, vault.ErrBehind)
	if !strings.Contains(err.Error(), position.String()) {
		t.Errorf("got %q, want the position named", err)
	}
	wantErr(t, p.standby.AwaitReplay(ctx, position, 50*time.Millisecond), vault.ErrBehind)
	wantErr(t, p.AwaitReplay(ctx, position+1<<40, 50*time.Millisecond), vault.ErrBehind) // what no primary has written yet
	must(t, p.AwaitReplay(ctx, position, 0))

	queriesBefore, began := p.positionQueries(), time.Now()
	leaving, leave := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	var begun atomic.Int64
	for range 300 {
		waiting.Go(func() {
			begun.Add(1)
			if err := p.standby.AwaitReplay(ctx, position, 10*time.Minute); err != nil {
				t.Error(err)
				return
			}
			if got := p.read(); got != "two" {
				t.Errorf("got %q behind the position of \"two\"", got)
			}
		})
	}
	left := make(chan error, 1)
	go func() { left <- p.standby.AwaitReplay(leaving, position, 10*time.Minute) }()
	for begun.Load() < 300 {
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		if got := p.read(); got != "one" {
			t.Errorf("got %q while replay stands, want what there was", got)
		}
	}
	leave()
	wantErr(t, <-left, context.Canceled)
	until(t, "many queries of the position", func() bool { return p.positionQueries() > queriesBefore+100 })
	queries, took := p.positionQueries()-queriesBefore, time.Since(began)
	t.Logf("300 readers waited %s and the standby was asked %d times", took.Round(time.Millisecond), queries)
	if queries == 0 || queries > int(took/(2*time.Millisecond)) {
		t.Errorf("300 readers asked %d times in %s, want once in 2 ms at the most", queries, took)
	}
	p.replay(true)
	waiting.Wait()
}

// positionQueries is how often the standby was asked for its position, by its log.
func (p *pair) positionQueries() int {
	p.t.Helper()
	log, err := os.ReadFile(p.store.Cluster.Standbys()[0].LogFile())
	must(p.t, err)
	n := 0
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "execute ") && strings.Contains(line, "pg_last_wal_replay_lsn") &&
			!strings.Contains(line, "duration:") {
			n++
		}
	}
	return n
}

func (p *pair) read() string {
	secret, err := p.standby.Get(p.t.Context(), "app/x", vault.GetOptions{})
	if err != nil {
		return err.Error()
	}
	defer secret.Wipe()
	return string(secret.Value)
}

// For every kind of change, a standby that has replayed the position of the answer has the change, and it replays that
// position without any further write.
func TestEveryWriteHasAPosition(t *testing.T) {
	p := newPair(t)
	ctx := t.Context()
	generator, grace := "hex:32", time.Hour
	put := func(value string) func() (string, error) {
		return func() (string, error) {
			r, err := p.Put(ctx, vault.PutRequest{Change: p.as, Name: "app/x", Value: []byte(value),
				Settings: vault.Settings{Generator: &generator, Grace: &grace}})
			return r.LSN, err
		}
	}
	receipt := func(r vault.Receipt, err error) (string, error) { return r.LSN, err }
	token := func(r db.TokenRow, err error) (string, error) { return r.LSN, err }
	grant := func(r db.Grant, err error) (string, error) { return r.LSN, err }
	last := vault.LSN(0)
	for _, step := range []struct {
		what string
		do   func() (string, error)
	}{
		{"put", put("one")}, {"put again", put("two")},
		{"rotate", func() (string, error) {
			return receipt(p.Rotate(ctx, vault.RotateRequest{Change: p.as, Name: "app/x", Value: []byte("three")}))
		}},
		{"rollback", func() (string, error) { return receipt(p.Rollback(ctx, p.as, "app/x", 2)) }},
		{"update", func() (string, error) {
			return receipt(p.Update(ctx, vault.UpdateRequest{Change: p.as, Name: "app/x",
				Settings: vault.Settings{Grace: &grace}}))
		}},
		{"end of a grace", func() (string, error) { return receipt(p.EndGrace(ctx, p.as, "app/x", 0)) }},
		{"pause", func() (string, error) { return receipt(p.PauseRotation(ctx, p.as, "app/x", true)) }},
		{"request of a rotation", func() (string, error) {
			r, err := p.RequestRotation(ctx, p.as, "app/x")
			return r.LSN,
				err
		}},
		{"retry of a rotation", func() (string, error) { r, err := p.RetryRotation(ctx, p.as, "app/x"); return r.LSN, err }},
		{"delete", func() (string, error) { return receipt(p.Delete(ctx, p.as, "app/x", time.Hour)) }},
		{"restore", func() (string, error) { return receipt(p.Restore(ctx, p.as, "app/x")) }},
		{"purge", func() (string, error) { return receipt(p.Purge(ctx, p.as, "app/x")) }},
		{"token", func() (string, error) {
			_, row, err := p.CreateToken(ctx, vault.NewTokenRequest{Change: p.as, Name: "ci"})
			return token(row, err)
		}},
		{"revoke of a token", func() (string, error) { return token(p.RevokeToken(ctx, p.as, "ci")) }},
		{"grant", func() (string, error) { return grant(p.Grant(ctx, p.as, vaulttest.Stranger, vault.GroupAuditor, "")) }},
		{"revoke of a grant", func() (string, error) { return grant(p.Revoke(ctx, p.as, vaulttest.Stranger, nil)) }},
	} {
		text, err := step.do()
		if err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		position := p.position(text)
		if position <= last {
			t.Errorf("%s: got position %s, want one behind %s", step.what, position, last)
		}
		last = position
		if err := p.standby.AwaitReplay(ctx, position, 5*time.Minute); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
	}
	tokens, err := p.Tokens(ctx, p.as)
	must(t, err)
	if len(tokens) != 2 || tokens[0].LSN != "" {
		t.Errorf("got %+v, want two tokens, and no position for a list", tokens)
	}
}

// A standby that has not replayed a change is waited for, and reported when the time is over, also when it disconnected
// meanwhile.
func TestStandbysAreWaitedFor(t *testing.T) {
	p := newPair(t)
	ctx := t.Context()
	name := p.store.Cluster.Standbys()[0].Name()
	wait := func(position vault.LSN, atMost time.Duration) string {
		standbys, err := p.AwaitStandbys(ctx, position.String(), atMost)
		must(t, err)
		return fmt.Sprint(standbys)
	}
	has, hasNot := fmt.Sprintf("[{%s true}]", name), fmt.Sprintf("[{%s false}]", name)
	if got := wait(p.put("one"), time.Minute); got != has {
		t.Errorf("got %s, want %s", got, has)
	}
	p.replay(false)
	position := p.put("two")
	if got := wait(position, 0); got != hasNot {
		t.Errorf("replay stands: got %s, want %s", got, hasNot)
	}
	done := make(chan string, 1)
	go func() { done <- wait(position, 3*time.Second) }()
	must(t, p.store.Cluster.Standbys()[0].Kill())
	if got := <-done; got != hasNot && got != "[]" { // it may have disconnected before the first query
		t.Errorf("the standby died: got %s, want %s", got, hasNot)
	}
	p.store.MustExec(t, `REVOKE pg_read_all_stats FROM vault_owner`)
	_, err := p.AwaitStandbys(ctx, "", 0)
	wantErr(t, err, vault.ErrRefused)
}

// A read without a position costs one statement, with max_staleness on as well; one with a position costs one more.
func TestReadsWithoutAPositionAskNothingMore(t *testing.T) {
	s := newStory(t, nil)
	receipt := s.put("app/x", "one")
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + s.store.KeyFile})
	must(t, err)
	defer ring.Close()
	reader, err := db.NewReader(t.Context(), db.Options{URL: s.store.URL(vaulttest.Daemon)})
	must(t, err)
	defer reader.Close()
	v := vault.New(vault.Options{Reader: reader, Keys: ring})
	fresh := v.NewFreshness(time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { fresh.Run(ctx) })
	for fresh.Check() != nil {
		time.Sleep(time.Millisecond)
	}
	stop()
	running.Wait()
	handler := httpapi.New(httpapi.Options{Vault: v, Fresh: fresh.Check, MinLSNWait: time.Second,
		Policy: httpapi.Policy{Hosts: []string{"example.com"},
			Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}).Handler()
	ask := func(times int, position string) int {
		before := s.statements()
		for range times {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/secrets/app/x", nil)
			if position != "" {
				r.Header.Set("X-Vault-Min-LSN", position)
			}
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, r)
			if answer.Code != http.StatusOK {
				t.Fatalf("got status %d: %s", answer.Code, answer.Body)
			}
		}
		return s.statements() - before
	}
	ask(1, "") // which reads the cluster's id as well
	if got := ask(10, ""); got != 10 {
		t.Errorf("got %d statements for 10 reads", got)
	}
	if got := ask(10, receipt.LSN); got < 11 || got > 20 {
		t.Errorf("got %d statements for 10 reads with a position, want up to one more for each", got)
	}
}

// statements is how many the daemon's role has sent to this test's database, by the server's own log.
func (s *story) statements() int {
	s.t.Helper()
	log, err := os.ReadFile(s.store.Cluster.Primary().LogFile())
	must(s.t, err)
	n := 0
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, vaulttest.Daemon+"@"+s.store.Database+" LOG:") && strings.Contains(line, "execute ") &&
			!strings.Contains(line, "duration:") {
			n++
		}
	}
	return n
}

// The lag of a standby is the age of the heartbeat it has replayed; when the sampler ends, no goroutine is left.
func TestLag(t *testing.T) {
	p := newPair(t)
	before := goleak.IgnoreCurrent()
	ctx, stop := context.WithCancel(t.Context())
	status := func(v *vault.Vault) *float64 {
		t.Helper()
		s, err := v.Status(t.Context())
		must(t, err)
		return s.LagSeconds
	}
	if got := status(p.Vault); got == nil || *got != 0 {
		t.Errorf("got lag %v of a primary that was never beaten, want 0", got)
	}
	if got := status(p.standby); got != nil {
		t.Errorf("got lag %v of a standby without a heartbeat, want none", *got)
	}
	fresh := p.standby.NewFreshness(time.Hour)
	var running sync.WaitGroup
	running.Go(func() { fresh.Run(ctx) })
	wantErr(t, fresh.Check(), vault.ErrStale)

	daemon := openDaemon(t, p)
	began := time.Now()
	primary, err := daemon.Beat(t.Context())
	must(t, err)
	if !primary {
		t.Error("the primary did not beat")
	}
	until(t, "the sampler sees the heartbeat", func() bool { return fresh.Check() == nil })
	if got := status(p.standby); got == nil || *got < 0 || *got > time.Since(began).Seconds() {
		t.Errorf("got lag %v of a heartbeat that was at most %s ago", got, time.Since(began))
	}
	p.store.MustExec(t, `UPDATE vault.heartbeat SET at = at - interval '10 years'`)
	until(t, "the sampler sees an old heartbeat", func() bool { return fresh.Check() != nil })
	if got := status(p.standby); got == nil || *got < 300e6 {
		t.Errorf("got lag %v, want ten years", got)
	}
	fresh.SetLimit(0)
	must(t, fresh.Check())
	fresh.SetLimit(2 * time.Second)
	wantErr(t, fresh.Check(), vault.ErrStale)
	stop()
	running.Wait()
	// Of the pools that are still open; pgx reads in the background after a write that took long, as under load.
	leaks.None(t, before, goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"),
		goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgconn/internal/bgreader.(*BGReader).bgRead"))
}

func openDaemon(t *testing.T, p *pair) *vault.Vault {
	t.Helper()
	writer, err := db.NewWriter(t.Context(), db.Options{URL: p.store.URL(vaulttest.Daemon)})
	must(t, err)
	t.Cleanup(writer.Close)
	return openAt(t, p.store.URL(vaulttest.Daemon), writer, nil)
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond) // between two polls
	}
}

func TestParseLSN(t *testing.T) {
	for text, want := range map[string]vault.LSN{"0/0": 0, "0/16B3748": 0x16B3748, "A/b": 0xA0000000B,
		"FFFFFFFF/FFFFFFFF": 1<<64 - 1} {
		got, err := vault.ParseLSN(text)
		if err != nil || got != want || !strings.EqualFold(got.String(), text) {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "/", "0", "0/", "/0", "0/0/0", "+0/1", "0x0/1", "0/1_0", " 0/1", "0/1 ",
		"0/123456789", "000000000/1", "g/1", "0/-1"} {
		_, err := vault.ParseLSN(text)
		wantErr(t, err, vault.ErrInvalid)
	}
}
