package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// story is a vault with the test's admin token at hand.
type story struct {
	*vault.Vault
	t     testing.TB
	store *vaulttest.Store
	as    vault.Change
	keys  *countingKeys
}

// countingKeys counts what reaches the KMS, and fails on demand.
type countingKeys struct {
	vault.Keys
	made, unwrapped atomic.Int64
	fail            atomic.Pointer[error]
	hold            atomic.Pointer[chan struct{}] // the next data key is given when this is closed
}

func (k *countingKeys) NewDataKey(ctx context.Context,
	kc envelope.KeyContext) (*envelope.DataKey, envelope.WrappedKey, error) {
	hold := k.hold.Swap(nil)
	k.made.Add(1)
	if err := k.fail.Load(); err != nil {
		return nil, envelope.WrappedKey{}, *err
	}
	if hold != nil {
		<-*hold
	}
	return k.Keys.NewDataKey(ctx, kc)
}

func (k *countingKeys) Unwrap(ctx context.Context, w envelope.WrappedKey,
	kc envelope.KeyContext) (*envelope.DataKey, error) {
	k.unwrapped.Add(1)
	if err := k.fail.Load(); err != nil {
		return nil, *err
	}
	return k.Keys.Unwrap(ctx, w, kc)
}

func newStory(t testing.TB, change func(*vault.Options)) *story {
	t.Helper()
	store := vaulttest.New(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, err)
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: 8})
	must(t, err)
	s := &story{t: t, store: store, as: vault.Change{Token: vaulttest.AdminToken(t)}, keys: &countingKeys{Keys: ring}}
	options := vault.Options{Reader: reader, Writer: writer, Keys: s.keys}
	if change != nil {
		change(&options)
	}
	s.Vault = vault.New(options)
	t.Cleanup(func() {
		s.Close()
		reader.Close()
		writer.Close()
		must(t, ring.Close())
	})
	return s
}

func (s *story) put(name, value string) vault.Receipt {
	s.t.Helper()
	r, err := s.Put(s.t.Context(), vault.PutRequest{Change: s.as, Name: name, Value: []byte(value)})
	must(s.t, err)
	return r
}

func (s *story) wantValue(name, want string) {
	s.t.Helper()
	got, err := s.Get(s.t.Context(), name, vault.GetOptions{})
	must(s.t, err)
	defer got.Wipe()
	if !bytes.Equal(got.Value, []byte(want)) {
		s.t.Errorf("%s: got another value than the one that was put", name)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func TestLifeOfASecret(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	first := s.put("app/key", "one")
	if first.Version != 1 || first.VersionID == "" || first.LSN == "" {
		t.Fatalf("got receipt %+v, want version 1 with its id and position", first)
	}
	second := s.put("app/key", "two")
	if second.Version != 2 || second.PreviousExpiresAt == nil {
		t.Fatalf("got receipt %+v, want version 2 and the end of version 1", second)
	}
	s.wantValue("app/key", "two")
	old, err := s.Get(ctx, "app/key", vault.GetOptions{Version: 1})
	must(t, err)
	if string(old.Value) != "one" || old.ExpiresAt == nil {
		t.Errorf("version 1 does not open during its grace")
	}
	old.Wipe()
	_, err = s.Get(ctx, "app/key", vault.GetOptions{Unless: uuid.MustParse(second.VersionID)})
	wantErr(t, err, vault.ErrNotModified)

	for value, want := range map[string]vault.Verdict{
		"two":   {Valid: true, Version: 2, Match: vault.MatchCurrent},
		"one":   {Valid: true, Version: 1, Match: vault.MatchGrace, ExpiresAt: second.PreviousExpiresAt},
		"three": {},
	} {
		got, err := s.Verify(ctx, "app/key", []byte(value), vault.VerifyOptions{})
		must(t, err)
		if got.Valid != want.Valid || got.Version != want.Version || got.Match != want.Match ||
			(got.ExpiresAt == nil) != (want.ExpiresAt == nil) {
			t.Errorf("verify of one of the values: got %+v, want %+v", got, want)
		}
	}

	back, err := s.Rollback(ctx, s.as, "app/key", 1)
	must(t, err)
	if back.Version != 3 {
		t.Errorf("rolled back to version %d, want a new version 3", back.Version)
	}
	s.wantValue("app/key", "one")
	_, err = s.Rollback(ctx, s.as, "app/key", 3)
	wantErr(t, err, vault.ErrConflict)

	none := time.Duration(0)
	_, err = s.Rotate(ctx, vault.RotateRequest{Change: s.as, Name: "app/key", Value: []byte("four"), Grace: &none})
	must(t, err)
	_, err = s.Get(ctx, "app/key", vault.GetOptions{Version: 3})
	wantErr(t, err, vault.ErrNotFound)
	history, err := s.History(ctx, "app/key")
	must(t, err)
	states := ""
	for _, h := range history {
		states += fmt.Sprintf("%d %s %s; ", h.Version, h.State, h.CreatedBy)
	}
	if want := "4 current token:root; 3 expired token:root; 2 grace token:root; 1 grace token:root; "; states != want {
		t.Errorf("got history %q, want %q", states, want)
	}

	_, err = s.Delete(ctx, s.as, "app/key", time.Hour)
	must(t, err)
	_, err = s.Get(ctx, "app/key", vault.GetOptions{})
	wantErr(t, err, vault.ErrNotFound)
	_, err = s.Verify(ctx, "app/key", []byte("four"), vault.VerifyOptions{})
	wantErr(t, err, vault.ErrNotFound)
	_, err = s.Put(ctx, vault.PutRequest{Change: s.as, Name: "app/key", Value: []byte("five")})
	wantErr(t, err, vault.ErrDeleted)
	_, err = s.Rotate(ctx, vault.RotateRequest{Change: s.as, Name: "app/key", Value: []byte("five")})
	wantErr(t, err, vault.ErrDeleted)
	row, err := s.Describe(ctx, "app/key")
	must(t, err)
	if row.DeletedAt == nil || row.RestoreUntil == nil {
		t.Errorf("got %+v, want when it was deleted and until when it can be restored", row)
	}
	_, err = s.Restore(ctx, s.as, "app/key")
	must(t, err)
	s.wantValue("app/key", "four")
	_, err = s.Restore(ctx, s.as, "app/key")
	wantErr(t, err, vault.ErrConflict)
	_, err = s.Purge(ctx, s.as, "app/key")
	must(t, err)
	_, err = s.Describe(ctx, "app/key")
	wantErr(t, err, vault.ErrNotFound)
	if got := s.store.MustQuery(t, `SELECT count(*) FROM vault.secret_versions`); got != "0" {
		t.Errorf("%s versions left after the purge", got)
	}
	if again := s.put("app/key", "new life"); again.Version != 1 || again.VersionID == first.VersionID {
		t.Errorf("got %+v, want version 1 under another id", again)
	}
}

func TestRefusalsBeforeAnythingIsAsked(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	huge := make([]byte, envelope.MaxValueSize+1)
	put := func(r vault.PutRequest) error { _, err := s.Put(ctx, r); return err }
	wantErr(t, put(vault.PutRequest{Change: s.as, Name: "app/x", Value: huge}), vault.ErrValueSize)
	wantErr(t, put(vault.PutRequest{Change: s.as, Name: "app/x"}), vault.ErrValueSize)
	wantErr(t, put(vault.PutRequest{Change: s.as, Name: "app//x", Value: []byte("v")}), vault.ErrName)
	wantErr(t, put(vault.PutRequest{Name: "app/x", Value: []byte("v")}), vault.ErrRefused)
	_, err := s.Rotate(ctx, vault.RotateRequest{Change: s.as, Name: "app/none", Value: []byte("v")})
	wantErr(t, err, vault.ErrNotFound)
	_, err = s.Rotate(ctx, vault.RotateRequest{Change: s.as, Name: "app/none"})
	wantErr(t, err, vault.ErrValueSize)
	_, err = s.Rollback(ctx, s.as, "app/none", 1)
	wantErr(t, err, vault.ErrNotFound)
	_, err = s.Rollback(ctx, s.as, "", 1)
	wantErr(t, err, vault.ErrName)
	_, err = s.Update(ctx, vault.UpdateRequest{Change: s.as, Name: ":"})
	wantErr(t, err, vault.ErrName)
	_, err = s.Delete(ctx, s.as, "..", time.Hour)
	wantErr(t, err, vault.ErrName)
	_, err = s.Get(ctx, "..", vault.GetOptions{})
	wantErr(t, err, vault.ErrName)
	_, err = s.Describe(ctx, "..")
	wantErr(t, err, vault.ErrName)
	_, err = s.History(ctx, "..")
	wantErr(t, err, vault.ErrName)
	_, err = s.Verify(ctx, "..", []byte("v"), vault.VerifyOptions{})
	wantErr(t, err, vault.ErrName)
	_, err = s.Verify(ctx, "app/x", huge, vault.VerifyOptions{})
	wantErr(t, err, vault.ErrValueSize)
	if n := s.keys.made.Load() + s.keys.unwrapped.Load(); n != 0 {
		t.Errorf("the KMS was asked %d times", n)
	}
	readOnly := vault.New(vault.Options{})
	_, err = readOnly.Put(ctx, vault.PutRequest{Change: s.as, Name: "app/x", Value: []byte("v")})
	wantErr(t, err, vault.ErrUnavailable)
	for _, err := range []error{
		second(readOnly.Tokens(ctx, s.as)), second(readOnly.RevokeToken(ctx, s.as, "x")),
		second(readOnly.Revoke(ctx, s.as, "x", nil)),
		second(readOnly.Grant(ctx, s.as, "x", vault.GroupService, "")), second(readOnly.Purge(ctx, s.as, "x")),
	} {
		wantErr(t, err, vault.ErrUnavailable)
	}
}

func second[T any](_ T, err error) error { return err }

func TestPutConditions(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	put := func(change func(*vault.PutRequest)) error {
		r := vault.PutRequest{Change: s.as, Name: "app/x", Value: []byte("one")}
		change(&r)
		_, err := s.Put(ctx, r)
		return err
	}
	at := func(n int) func(*vault.PutRequest) { return func(r *vault.PutRequest) { r.CAS = &n } }
	wantErr(t, put(at(1)), vault.ErrConflict)
	must(t, put(at(0)))
	wantErr(t, put(at(0)), vault.ErrConflict)
	wantErr(t, put(func(r *vault.PutRequest) { r.CreateOnly = true }), vault.ErrConflict)
	wantErr(t, put(func(r *vault.PutRequest) { r.IfChanged = true }), vault.ErrUnchanged)
	must(t, put(func(r *vault.PutRequest) { r.IfChanged, r.Value = true, []byte("two") }))
	s.wantValue("app/x", "two")
	err := put(func(r *vault.PutRequest) { r.Token = vault.NewToken() })
	if wantErr(t, err, vault.ErrRefused); !vault.IsTokenRefused(err) || vault.IsTokenRefused(put(at(0))) {
		t.Errorf("got %v, want it told from other errors as a refused token", err)
	}
	if got := s.store.MustQuery(t,
		`SELECT string_agg(action || '/' || outcome, ' ' ORDER BY id) FROM vault.audit_log
			WHERE secret = 'app/x'`); got != "put/ok put/ok put/denied" {
		t.Errorf("got audit rows %q", got)
	}
}

// The answer to COMMIT is lost: the same request, sent again with the same bytes, is answered with the first result and
// leaves one version; with other bytes it is refused.
func TestReplay(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	as := vault.Change{Token: s.as.Token, RequestID: uuid.New()}
	_, err := s.Delete(ctx, as, "app/none", time.Hour)
	wantErr(t, err, vault.ErrNotFound)
	s.put("app/x", "one")
	first, err := s.Delete(ctx, as, "app/x", time.Hour)
	must(t, err)
	again, err := s.Delete(ctx, as, "app/x", time.Hour)
	must(t, err)
	if !first.RestoreUntil.Equal(*again.RestoreUntil) {
		t.Errorf("the replay answered %v, the first request %v", again.RestoreUntil, first.RestoreUntil)
	}
	_, err = s.Delete(ctx, as, "app/x", 2*time.Hour)
	wantErr(t, err, vault.ErrConflict)
	_, err = s.Restore(ctx, as, "app/x")
	wantErr(t, err, vault.ErrConflict)
	if got := s.store.MustQuery(t,
		`SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log
			WHERE secret = 'app/x'`); got != "put delete delete.replay" {
		t.Errorf("got audit rows %q", got)
	}
}

func TestConcurrentPutsMakeDenseVersions(t *testing.T) {
	s := newStory(t, nil)
	var wins, conflicts atomic.Int64
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 4 {
				_, err := s.Put(context.Background(), vault.PutRequest{Change: s.as, Name: "app/x", Value: []byte{byte(i + 1)}})
				switch {
				case err == nil:
					wins.Add(1)
				case errors.Is(err, vault.ErrConflict):
					conflicts.Add(1)
				default:
					t.Errorf("got %v, want success or a conflict", err)
				}
			}
		})
	}
	writers.Wait()
	got := s.store.MustQuery(t,
		`SELECT count(*) || ' ' || max(version) || ' ' || count(*) FILTER (WHERE expires_at IS NULL)
			FROM vault.secret_versions`)
	if want := fmt.Sprintf("%d %d 1", wins.Load(), wins.Load()); got != want {
		t.Errorf("got versions, newest and current %q, want %q after %d wins and %d conflicts", got, want, wins.Load(),
			conflicts.Load())
	}
	if _, err := s.Get(t.Context(), "app/x", vault.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// A put whose KMS answers late gets ErrConflict if another put stored the version that it was sealed for: its data key
// is bound to that number.
func TestPutThatIsOvertaken(t *testing.T) {
	s := newStory(t, nil)
	s.put("app/x", "one")
	made, answer := s.keys.made.Load(), make(chan struct{})
	s.keys.hold.Store(&answer)
	slow := make(chan error, 1)
	go func() {
		_, err := s.Put(context.WithoutCancel(t.Context()),
			vault.PutRequest{Change: s.as, Name: "app/x", Value: []byte("two")})
		slow <- err
	}()
	until(t, "the slow put asks for its key", func() bool { return s.keys.made.Load() > made })
	if r := s.put("app/x", "three"); r.Version != 2 {
		t.Errorf("got version %d for the put that overtakes, want 2", r.Version)
	}
	close(answer)
	wantErr(t, <-slow, vault.ErrConflict)
	s.wantValue("app/x", "three")
}

func TestRotationByClaim(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	generator, every := "uuid", time.Hour
	_, err := s.Put(ctx, vault.PutRequest{Change: s.as, Name: "app/auto", Value: []byte("one"),
		Settings: vault.Settings{Generator: &generator, RotateEvery: &every}})
	must(t, err)
	s.store.MustExec(t, `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 s'`)
	daemon := s.daemon(t)
	did, err := daemon.Supervise(ctx)
	must(t, err)
	if did.Enqueued != 1 {
		t.Fatalf("got %+v, want one rotation enqueued", did)
	}
	claim := func() vault.Rotation {
		// its worker is gone
		s.store.MustExec(t, `UPDATE vault.rotation_jobs SET claimed_at = claimed_at - interval '1 hour'`)
		jobs, err := daemon.ClaimRotations(ctx, "w", 5, 0, time.Minute)
		must(t, err)
		if len(jobs) != 1 || jobs[0].Generator != "uuid" || jobs[0].FromVersion != 1 {
			t.Fatalf("got jobs %+v, want the one", jobs)
		}
		return jobs[0]
	}
	complete := func(job vault.Rotation, value []byte) error {
		sealed, err := daemon.SealCandidate(ctx, job, value)
		if err != nil {
			return err
		}
		return second(daemon.CompleteRotation(ctx, sealed))
	}
	stalled, job := claim(), claim()
	err = complete(stalled, []byte("late"))
	wantErr(t, err, vault.ErrClaimLost)
	retry := time.Duration(0)
	must(t, daemon.FailRotation(ctx, job, errors.New("the target is away"), &retry))
	row, err := s.Describe(ctx, "app/auto")
	must(t, err)
	if row.Job == nil || row.Job.State != "queued" || row.Job.LastError != "the target is away" {
		t.Errorf("got job %+v, want it queued with its error", row.Job)
	}
	err = complete(claim(), nil)
	wantErr(t, err, vault.ErrValueSize)
	must(t, complete(claim(), []byte("two")))
	s.wantValue("app/auto", "two")

	// A put settles a rotation that is claimed.
	s.store.MustExec(t, `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 s'`)
	_, err = daemon.Supervise(ctx)
	must(t, err)
	jobs, err := daemon.ClaimRotations(ctx, "w", 1, 0, time.Hour)
	must(t, err)
	s.put("app/auto", "by hand")
	err = complete(jobs[0], []byte("too late"))
	wantErr(t, err, vault.ErrClaimLost)
	s.wantValue("app/auto", "by hand")
}

func (s *story) daemon(t *testing.T) *vault.Vault {
	t.Helper()
	reader, err := db.NewReader(t.Context(), db.Options{URL: s.store.URL(vaulttest.Daemon)})
	must(t, err)
	writer, err := db.NewWriter(t.Context(), db.Options{URL: s.store.URL(vaulttest.Daemon)})
	must(t, err)
	t.Cleanup(reader.Close)
	t.Cleanup(writer.Close)
	return vault.New(vault.Options{Reader: reader, Writer: writer, Keys: s.keys})
}

func TestSuperviseExpiresAndPurges(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	none := time.Duration(0)
	s.put("app/x", "one")
	_, err := s.Put(ctx, vault.PutRequest{Change: s.as, Name: "app/x", Value: []byte("two"),
		Settings: vault.Settings{Grace: &none}})
	must(t, err)
	s.put("app/gone", "x")
	_, err = s.Delete(ctx, s.as, "app/gone", 0)
	must(t, err)
	_, err = s.Restore(ctx, s.as, "app/gone")
	wantErr(t, err, vault.ErrNotFound)
	did, err := s.daemon(t).Supervise(ctx)
	must(t, err)
	if did.Expired != 1 || did.Purged != 1 {
		t.Errorf("got %+v, want one version expired and one secret purged", did)
	}
	if got := s.store.MustQuery(t,
		`SELECT version || ' ' || (ciphertext IS NULL) || ' ' || (wrapped_dek IS NULL) FROM vault.secret_versions
			WHERE removed_at IS NOT NULL`); got != "1 true true" {
		t.Errorf("got %q, want the bytes of version 1 removed", got)
	}
	s.store.MustReplay(t)
	standby, err := db.NewReader(ctx, db.Options{URL: s.store.StandbyURL(vaulttest.Daemon)})
	must(t, err)
	defer standby.Close()
	did, err = vault.New(vault.Options{Reader: standby}).Supervise(ctx)
	if err != nil || did.Primary || did.Enqueued+did.Expired+did.Purged > 0 {
		t.Errorf("a supervisor beside a standby did %+v, error %v, want nothing", did, err)
	}
}

func TestUpdate(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	s.put("app/x", "one")
	every, generator := 30*24*time.Hour, "hex:32"
	_, err := s.Update(ctx, vault.UpdateRequest{Change: s.as, Name: "app/x",
		Settings: vault.Settings{RotateEvery: &every}})
	wantErr(t, err, vault.ErrInvalid)
	_, err = s.Update(ctx, vault.UpdateRequest{Change: s.as, Name: "app/x",
		Settings: vault.Settings{RotateEvery: &every, Generator: &generator}})
	must(t, err)
	row, err := s.Describe(ctx, "app/x")
	must(t, err)
	if row.Kind != "automatic" || row.NextRotationAt == nil || row.NextRotationAt.After(time.Now().Add(every)) ||
		row.NextRotationAt.Before(time.Now().Add(every*8/10)) {
		t.Errorf("got %+v, want it due within the last tenth of 30 days", row)
	}
	_, err = s.Update(ctx, vault.UpdateRequest{Change: s.as, Name: "app/x", Manual: true})
	must(t, err)
	row, err = s.Describe(ctx, "app/x")
	must(t, err)
	if row.Kind != "manual" || row.NextRotationAt != nil || row.Generator != "" {
		t.Errorf("got %+v, want a manual secret", row)
	}
	rows, err := s.List(ctx, db.ListQuery{Prefix: "app/"})
	must(t, err)
	if len(rows) != 1 || rows[0].Name != "app/x" {
		t.Errorf("got list %+v", rows)
	}
}

func TestTokensAndGrants(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	token, row, err := s.CreateToken(ctx, vault.NewTokenRequest{Change: s.as, Name: "ci", Scope: "app/"})
	must(t, err)
	if row.Name != "ci" || row.ID != token.ID() {
		t.Errorf("got %+v", row)
	}
	_, _, err = s.CreateToken(ctx, vault.NewTokenRequest{Change: s.as, Name: "ci"})
	wantErr(t, err, vault.ErrConflict)
	_, _, err = s.CreateToken(ctx, vault.NewTokenRequest{Change: s.as, Name: "not a name"})
	wantErr(t, err, vault.ErrInvalid)
	past := time.Now().Add(-time.Hour)
	_, _, err = s.CreateToken(ctx, vault.NewTokenRequest{Change: s.as, Name: "old", ExpiresAt: &past})
	wantErr(t, err, vault.ErrInvalid)
	_, _, err = s.CreateToken(ctx, vault.NewTokenRequest{Name: "x"})
	wantErr(t, err, vault.ErrRefused)
	_, _, err = s.CreateTokenAsOwner(ctx, vault.NewTokenRequest{Name: "x"})
	wantErr(t, err, vault.ErrRefused)
	_, _, err = s.CreateTokenAsOwner(ctx, vault.NewTokenRequest{Name: "x", Scope: "y"})
	wantErr(t, err, vault.ErrInvalid)
	ci := vault.Change{Token: token}
	_, err = s.Put(ctx, vault.PutRequest{Change: ci, Name: "app/x", Value: []byte("v")})
	must(t, err)
	_, err = s.Put(ctx, vault.PutRequest{Change: ci, Name: "other/x", Value: []byte("v")})
	wantErr(t, err, vault.ErrRefused)
	_, err = s.Tokens(ctx, ci)
	wantErr(t, err, vault.ErrRefused)
	tokens, err := s.Tokens(ctx, s.as)
	must(t, err)
	if len(tokens) != 2 || tokens[1].Name != "ci" || tokens[1].LastUsedAt == nil {
		t.Errorf("got %+v, want root and ci, ci used", tokens)
	}
	_, err = s.RevokeToken(ctx, s.as, "ci")
	must(t, err)
	_, err = s.RevokeToken(ctx, s.as, "ci")
	wantErr(t, err, vault.ErrNotFound)
	_, err = s.Put(ctx, vault.PutRequest{Change: ci, Name: "app/x", Value: []byte("v")})
	wantErr(t, err, vault.ErrRefused)

	_, err = s.Grant(ctx, s.as, vaulttest.Superuser, vault.GroupService, "")
	wantErr(t, err, vault.ErrRefused)
	_, err = s.Grant(ctx, s.as, "nobody-there", vault.GroupWorker, "")
	wantErr(t, err, vault.ErrNotFound)
	_, err = s.Grant(ctx, s.as, vaulttest.Stranger, "emperor", "")
	wantErr(t, err, vault.ErrInvalid)
	prefix := "no/such/"
	_, err = s.Revoke(ctx, s.as, vaulttest.Operator, &prefix)
	wantErr(t, err, vault.ErrNotFound)
	if got := s.store.MustQuery(t, `SELECT string_agg(actor || ' ' || (detail->>'token'), ',') FROM vault.audit_log
		WHERE action = 'token.revoke'`); got != "token:root ci" {
		t.Errorf("got on record %q", got)
	}
}

func TestKeyCache(t *testing.T) {
	s := newStory(t, func(o *vault.Options) { o.CacheSize, o.CacheTTL = 2, time.Hour })
	s.put("app/x", "one")
	for range 3 {
		s.wantValue("app/x", "one")
	}
	if got := s.keys.unwrapped.Load(); got != 1 {
		t.Errorf("the KMS was asked %d times for one key, want 1", got)
	}
	// A row whose wrapped key was swapped is not found in the cache.
	s.put("app/y", "two")
	s.store.MustExec(t,
		`UPDATE vault.secret_versions a SET wrapped_dek = b.wrapped_dek FROM vault.secret_versions b WHERE a.name = 'app/x'
			AND b.name = 'app/y'`)
	_, err := s.Get(t.Context(), "app/x", vault.GetOptions{})
	wantErr(t, err, vault.ErrIntegrity)
	s.wantValue("app/y", "two")
	s.put("app/z", "three")
	s.wantValue("app/z", "three")
	away := error(envelope.ErrKeyUnavailable)
	s.keys.fail.Store(&away)
	s.wantValue("app/y", "two") // cached keys outlive the KMS
	s.put1Fails(t)
	s.Close()
	_, err = s.Get(t.Context(), "app/y", vault.GetOptions{})
	wantErr(t, err, vault.ErrKeyUnavailable)
}

// hangingKeys return no key before the test is over.
type hangingKeys struct {
	vault.Keys
	over <-chan struct{}
}

func (k hangingKeys) Unwrap(ctx context.Context, _ envelope.WrappedKey,
	_ envelope.KeyContext) (*envelope.DataKey, error) {
	select {
	case <-ctx.Done():
	case <-k.over:
	}
	return nil, fmt.Errorf("%w: %w", envelope.ErrKeyUnavailable, context.DeadlineExceeded)
}

// With a KMS that hangs a read ends by ReadTimeout, with the cache or without, also if its context has no deadline.
func TestAKeyServiceThatHangs(t *testing.T) {
	const limit = 10 * time.Second // in which the database answers
	var reads sync.WaitGroup
	defer reads.Wait()
	for _, size := range []int{0, 10} {
		s := newStory(t, func(o *vault.Options) {
			o.Keys, o.ReadTimeout = hangingKeys{o.Keys, t.Context().Done()}, limit
			o.CacheSize, o.CacheTTL = size, time.Hour
		})
		s.put("app/x", "one")
		reads.Go(func() {
			if _, err := s.Get(t.Context(), "app/x", vault.GetOptions{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a read with a cache of %d got %v, want that its time is over", size, err)
			}
		})
		reads.Go(func() {
			_, err := s.Verify(t.Context(), "app/x", []byte("one"), vault.VerifyOptions{})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a verify with a cache of %d got %v, want that its time is over", size, err)
			}
		})
	}
}

func (s *story) put1Fails(t *testing.T) {
	t.Helper()
	_, err := s.Put(t.Context(), vault.PutRequest{Change: s.as, Name: "app/new", Value: []byte("v")})
	wantErr(t, err, vault.ErrKeyUnavailable)
}

func TestDeferredKeys(t *testing.T) {
	tries := 0
	away := errors.New("away")
	keys := vault.DeferKeys(func(context.Context) (vault.Keys, error) { tries++; return nil, away })
	_, _, err := keys.NewDataKey(t.Context(), envelope.KeyContext{})
	wantErr(t, err, away)
	_, err = keys.Unwrap(t.Context(), envelope.WrappedKey{}, envelope.KeyContext{})
	wantErr(t, err, away)
	if tries != 2 {
		t.Errorf("tried %d times to open the keys, want again after a failure", tries)
	}
}

func TestToken(t *testing.T) {
	token := vault.NewToken()
	text := token.Reveal()
	parsed, err := vault.ParseToken(" " + text + "\n")
	must(t, err)
	if parsed != token {
		t.Error("the token did not survive its text")
	}
	swapped := []byte(text)
	swapped[10], swapped[40] = 'a'+('b'-swapped[10])&1, 'z'
	for name, bad := range map[string]string{
		"empty": "", "truncated": text[:50], "one short": text[:len(text)-1], "longer": text + "a",
		"other prefix": "hvx" + text[3:],
		"upper case":   strings.ToUpper(text), "bad character": text[:20] + "1" + text[21:], "mistyped": string(swapped),
	} {
		_, err := vault.ParseToken(bad)
		wantErr(t, err, vault.ErrToken)
		if len(bad) > 20 && strings.Contains(err.Error(), bad[8:20]) {
			t.Errorf("%s: the error shows the token", name)
		}
	}
	for _, shown := range []string{fmt.Sprint(token),
		fmt.Sprintf("%v %+v %#v %x %s", token, &token, token, token, []vault.Token{token})} {
		if strings.Contains(shown, text[10:30]) || strings.Contains(shown, "secret") {
			t.Error("a token shows itself when printed")
		}
	}
	if b, err := token.MarshalText(); err != nil || string(b) != "[admin token]" ||
		token.LogValue().String() != "[admin token]" {
		t.Error("a token shows itself when encoded")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(vaulttest.Token)
	f.Add("hva_")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := vault.ParseToken(text); err == nil && token.Reveal() != strings.TrimSpace(text) {
			t.Error("a token has two spellings")
		}
	})
}

// The grace of one rotate is for that rotate only: the next one uses the secret's setting.
func TestGraceOfOneRotate(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	s.put("app/x", "one")
	none := time.Duration(0)
	_, err := s.Rotate(ctx, vault.RotateRequest{Change: s.as, Name: "app/x", Value: []byte("two"), Grace: &none})
	must(t, err)
	_, err = s.Rotate(ctx, vault.RotateRequest{Change: s.as, Name: "app/x", Value: []byte("three")})
	must(t, err)
	for value, want := range map[string]bool{"one": false, "two": true, "three": true} {
		got, err := s.Verify(ctx, "app/x", []byte(value), vault.VerifyOptions{})
		must(t, err)
		if got.Valid != want {
			t.Errorf("verify of %s: got %t, want %t", value, got.Valid, want)
		}
	}
}

func TestStatusOfBothNodes(t *testing.T) {
	s, ctx := newStory(t, nil), t.Context()
	s.put("app/x", "one")
	must(t, s.Ping(ctx))
	status, err := s.Status(ctx)
	must(t, err)
	if status.Role != "primary" || status.Secrets != 1 || status.Standbys == nil || *status.Standbys != 1 {
		t.Errorf("got %+v, want a primary with one secret and one standby", status)
	}
	s.store.MustReplay(t)
	reader, err := db.NewReader(ctx, db.Options{URL: s.store.StandbyURL(vaulttest.Operator)})
	must(t, err)
	defer reader.Close()
	status, err = vault.New(vault.Options{Reader: reader}).Status(ctx)
	must(t, err)
	if status.Role != "standby" || status.Standbys != nil {
		t.Errorf("got %+v, want a standby", status)
	}
}

// When the primary fails, changes fail at once as unavailable and reads from a standby are answered; after a promotion
// changes work again through the same pool.
func TestPromotion(t *testing.T) {
	store := vaulttest.Own(t)
	ctx := t.Context()
	ring, err := kms.OpenKeyring(ctx, []string{"local://" + store.KeyFile})
	must(t, err)
	defer ring.Close()
	primary, standby := store.Cluster.Primary(), store.Cluster.Standbys()[0]
	reader, err := db.NewReader(ctx, db.Options{URL: store.StandbyURL(vaulttest.Operator)})
	must(t, err)
	defer reader.Close()
	hosts := fmt.Sprintf("user=operator dbname=%s host=%s,%s port=%d,%d", store.Database, primary.SocketDir(),
		standby.SocketDir(), primary.Port(), standby.Port())
	writer, err := db.NewWriter(ctx, db.Options{URL: hosts})
	must(t, err)
	defer writer.Close()
	v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring})
	as := vault.Change{Token: vaulttest.AdminToken(t)}
	put := func(value string) (vault.Receipt, error) {
		return v.Put(ctx, vault.PutRequest{Change: as, Name: "app/x", Value: []byte(value)})
	}
	receipt, err := put("one")
	must(t, err)
	must(t, standby.WaitReplay(ctx, receipt.LSN))
	must(t, primary.Kill())
	_, err = put("two")
	wantErr(t, err, vault.ErrUnavailable)
	secret, err := v.Get(ctx, "app/x", vault.GetOptions{})
	must(t, err)
	secret.Wipe()
	must(t, standby.Promote(ctx))
	receipt, err = put("two")
	must(t, err)
	if receipt.Version != 2 {
		t.Errorf("got version %d after the promotion, want 2", receipt.Version)
	}
}
