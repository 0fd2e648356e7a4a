package vault_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

// moving is a vault with a second KMS key to move to.
type moving struct {
	*story
	ring *kms.Keyring // the new key, then the old one
	to   string       // its key id
}

func newMoving(t testing.TB, change func(*vault.Options)) *moving {
	t.Helper()
	s := newStory(t, change)
	path := filepath.Join(t.TempDir(), "new.kek")
	_, err := kms.GenerateKeyFile(path)
	must(t, err)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + path, "local://" + s.store.KeyFile})
	must(t, err)
	t.Cleanup(func() { must(t, ring.Close()) })
	to, err := ring.Default().KeyID(t.Context())
	must(t, err)
	return &moving{s, ring, to}
}

// page reads what the new key has not wrapped, two secrets at a time, and returns how many pages that took.
func (m *moving) page(prefix string, exact bool) (all []db.WrappedKey, pages int) {
	m.t.Helper()
	q := db.WrappedQuery{Prefix: prefix, Exact: exact, KMSKeyID: m.to, Limit: 2}
	for {
		page, err := m.WrappedKeys(m.t.Context(), m.as, q)
		must(m.t, err)
		all, pages = append(all, page.Keys...), pages+1
		if q.After = page.Next; page.Next == "" {
			return all, pages
		}
	}
}

func (m *moving) one(name string) db.WrappedKey {
	m.t.Helper()
	keys, _ := m.page(name, true)
	if len(keys) != 1 {
		m.t.Fatalf("got %d data keys of %q, want 1", len(keys), name)
	}
	return keys[0]
}

func (m *moving) rewrap(key db.WrappedKey) error {
	_, err := m.Rewrap(m.t.Context(), m.as, m.ring, key)
	return err
}

// sealed is everything of the versions but what a rewrap may change.
func (m *moving) sealed() string {
	m.t.Helper()
	return m.store.MustQuery(m.t,
		`SELECT jsonb_agg(to_jsonb(v) - 'kms_key_id' - 'wrapped_dek' ORDER BY name, version) FROM vault.secret_versions v`)
}

// All live versions move, page by page: current and grace, of deleted secrets too. Nothing else of a row changes, and a
// daemon with a warm cache serves the same.
func TestRewrap(t *testing.T) {
	m := newMoving(t, func(o *vault.Options) { o.CacheSize, o.CacheTTL = 100, time.Hour })
	for _, name := range []string{"app/a", "app/b", "app/c", "app/d", "other"} {
		m.put(name, "one "+name)
	}
	m.put("app/b", "two")
	m.wantValue("app/b", "two")
	_, err := m.Delete(t.Context(), m.as, "app/c", time.Hour)
	must(t, err)
	m.keys.Keys = m.ring // from here on puts use the new key
	_, err = m.Rotate(t.Context(), vault.RotateRequest{Change: m.as, Name: "app/d", Value: []byte("new"),
		Grace: new(time.Duration)})
	must(t, err)
	before := m.sealed()
	keys, pages := m.page("app/", false)
	if pages != 3 || len(keys) != 4 {
		t.Fatalf("got %d data keys in %d pages, want 4 in 3 pages of two secrets at most", len(keys), pages)
	}
	for _, key := range keys {
		if key.Name == "app/d" || key.Name == "other" {
			t.Errorf("%s version %d is to be rewrapped", key.Name, key.Version)
		}
		must(t, m.rewrap(key))
	}
	if left, _ := m.page("app/", false); len(left) != 0 {
		t.Errorf("%d data keys are left", len(left))
	}
	if after := m.sealed(); after != before {
		t.Errorf("rewrapping changed more than the wrapped key:\nbefore %s\nafter  %s", before, after)
	}
	m.wantValue("app/a", "one app/a")
	m.wantValue("app/b", "two")
	_, err = m.Restore(t.Context(), m.as, "app/c")
	must(t, err)
	m.wantValue("app/c", "one app/c")
}

// wrongRewrapper says that it has rewrapped, and wraps another key in the same context.
type wrongRewrapper struct{ *kms.Keyring }

func (l wrongRewrapper) Rewrap(ctx context.Context, _ envelope.WrappedKey,
	kc envelope.KeyContext) (envelope.WrappedKey, error) {
	key, wrapped, err := l.NewDataKey(ctx, kc)
	if err == nil {
		key.Wipe()
	}
	return wrapped, err
}

// failingUnwrapper says that it has rewrapped, and cannot unwrap.
type failingUnwrapper struct{ *kms.Keyring }

func (m failingUnwrapper) Unwrap(context.Context, envelope.WrappedKey, envelope.KeyContext) (*envelope.DataKey, error) {
	return nil, envelope.ErrKeyUnavailable
}

// A wrong answer of a KMS loses nothing: a stored wrapping was unwrapped again, and was the key.
func TestRewrapProvesTheKey(t *testing.T) {
	m := newMoving(t, nil)
	m.put("app/x", "one")
	before := m.store.MustQuery(t, `SELECT to_jsonb(v) FROM vault.secret_versions v`)
	_, err := m.Rewrap(t.Context(), m.as, wrongRewrapper{m.ring}, m.one("app/x"))
	wantErr(t, err, vault.ErrIntegrity)
	_, err = m.Rewrap(t.Context(), m.as, failingUnwrapper{m.ring}, m.one("app/x"))
	wantErr(t, err, vault.ErrKeyUnavailable)
	broken := m.one("app/x")
	broken.Blob[20] ^= 1
	wantErr(t, m.rewrap(broken), vault.ErrIntegrity)
	broken.Blob = nil
	wantErr(t, m.rewrap(broken), vault.ErrIntegrity)
	if after := m.store.MustQuery(t, `SELECT to_jsonb(v) FROM vault.secret_versions v`); after != before {
		t.Errorf("the version changed:\nbefore %s\nafter  %s", before, after)
	}
	m.wantValue("app/x", "one")
}

// A caller that comes second gets ErrConflict; a caller that lost the reply asks again under the same request id.
func TestRewrapIsOvertaken(t *testing.T) {
	m := newMoving(t, nil)
	m.put("app/x", "one")
	m.put("app/gone", "one")
	x, gone := m.one("app/x"), m.one("app/gone")
	must(t, m.rewrap(x))
	wantErr(t, m.rewrap(x), vault.ErrConflict)
	_, err := m.Purge(t.Context(), m.as, "app/gone")
	must(t, err)
	wantErr(t, m.rewrap(gone), vault.ErrNotFound)

	m.put("app/y", "one")
	y := m.one("app/y")
	change := m.as
	change.RequestID = uuid.New()
	same := frozen{m.ring, new(envelope.WrappedKey)}
	for range 2 {
		_, err := m.Rewrap(t.Context(), change, same, y)
		must(t, err)
	}
	m.keys.Keys = m.ring
	m.wantValue("app/y", "one")
	got := m.store.MustQuery(t,
		`SELECT string_agg(action || ' ' || outcome, ', ' ORDER BY id) FROM vault.audit_log WHERE secret = 'app/y'
			AND action LIKE 'rewrap%'`)
	if got != "rewrap ok, rewrap.replay ok" {
		t.Errorf("got audit rows %q", got)
	}
}

// frozen returns the same wrapping each time, as for a client that sends its request again.
type frozen struct {
	*kms.Keyring
	answer *envelope.WrappedKey
}

func (f frozen) Rewrap(ctx context.Context, w envelope.WrappedKey,
	kc envelope.KeyContext) (envelope.WrappedKey, error) {
	var err error
	if f.answer.KeyID == "" {
		*f.answer, err = f.Keyring.Rewrap(ctx, w, kc)
	}
	return *f.answer, err
}

// The candidate of a rotation that failed for good moves too: when it is tried again the old key may be gone.
func TestRewrapOfACandidate(t *testing.T) {
	m, ctx := newMoving(t, nil), t.Context()
	generator, every := "uuid", time.Hour
	_, err := m.Put(ctx, vault.PutRequest{Change: m.as, Name: "app/auto", Value: []byte("one"),
		Settings: vault.Settings{Generator: &generator, RotateEvery: &every}})
	must(t, err)
	_, err = m.RequestRotation(ctx, m.as, "app/auto")
	must(t, err)
	daemon := m.daemon(t)
	claim := func() vault.Rotation {
		t.Helper()
		jobs, err := daemon.ClaimRotations(ctx, "w", 1, 0, time.Hour)
		must(t, err)
		if len(jobs) != 1 {
			t.Fatalf("got %d jobs, want 1", len(jobs))
		}
		return jobs[0]
	}
	job := claim()
	candidate, err := daemon.StoreCandidate(ctx, job, []byte("two"))
	must(t, err)
	candidate.Wipe()
	must(t, daemon.FailRotation(ctx, job, vault.ErrUnavailable, nil))

	keys, _ := m.page("", false)
	if len(keys) != 2 || keys[0].Job != nil || keys[1].Job == nil || *keys[1].Job != job.ID || keys[1].Version != 2 {
		t.Fatalf("got %+v, want version 1 and the candidate of job %d", keys, job.ID)
	}
	for _, key := range keys {
		must(t, m.rewrap(key))
	}
	wantErr(t, m.rewrap(keys[1]), vault.ErrConflict)

	onlyNew, err := kms.OpenKeyring(ctx, []string{m.ring.Default().URI()})
	must(t, err)
	defer onlyNew.Close()
	m.keys.Keys = onlyNew
	_, err = m.RetryRotation(ctx, m.as, "app/auto")
	must(t, err)
	job = claim()
	candidate, err = daemon.Candidate(ctx, job)
	must(t, err)
	candidate.Wipe()
	_, err = daemon.FinishRotation(ctx, job)
	must(t, err)
	m.wantValue("app/auto", "two")
	if left, _ := m.page("", false); len(left) != 0 {
		t.Errorf("%d data keys are left under the old key", len(left))
	}
}

// BenchmarkRewrap moves data keys between two key files, one after the other as vaultctl does: what is left is the
// database.
func BenchmarkRewrap(b *testing.B) {
	m := newMoving(b, nil)
	for i := range 500 {
		m.put(fmt.Sprintf("app/%03d", i), "value")
	}
	rings := []*kms.Keyring{m.ring}
	back, err := kms.OpenKeyring(b.Context(), []string{"local://" + m.store.KeyFile, m.ring.Default().URI()})
	must(b, err)
	defer back.Close()
	rings = append(rings, back)
	moved := 0
	for b.Loop() {
		ring := rings[0]
		rings[0], rings[1] = rings[1], rings[0]
		to, err := ring.Default().KeyID(b.Context())
		must(b, err)
		page, err := m.WrappedKeys(b.Context(), m.as, db.WrappedQuery{KMSKeyID: to, Limit: 1000})
		must(b, err)
		for _, key := range page.Keys {
			_, err := m.Rewrap(b.Context(), m.as, ring, key)
			must(b, err)
			moved++
		}
	}
	b.ReportMetric(float64(moved)/b.Elapsed().Seconds(), "keys/s")
}
