package vault_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// mustImport imports name and value in turn, and returns the result of each: what was done, or the error's first kind.
func (s *story) mustImport(on vault.OnConflict, namesAndValues ...string) []string {
	s.t.Helper()
	r := vault.ImportRequest{Change: s.as, OnConflict: on}
	for i := 0; i < len(namesAndValues); i += 2 {
		r.Items = append(r.Items, vault.ImportItem{Name: namesAndValues[i], Value: []byte(namesAndValues[i+1])})
	}
	results, err := s.Import(s.t.Context(), r)
	must(s.t, err)
	var words []string
	for _, result := range results {
		words = append(words, wordOf(result))
	}
	return words
}

func wordOf(r vault.ImportResult) string {
	for word, kind := range map[string]error{"deleted": vault.ErrDeleted, "name": vault.ErrName,
		"size": vault.ErrValueSize, "integrity": vault.ErrIntegrity, "refused": vault.ErrRefused, "invalid": vault.ErrInvalid,
		"unavailable": vault.ErrKeyUnavailable, "conflict": vault.ErrConflict} {
		if errors.Is(r.Err, kind) {
			return word
		}
	}
	return cmp.Or(string(r.Did), fmt.Sprint(r.Err))
}

func wantWords(t testing.TB, got []string, want string) {
	t.Helper()
	if strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, " "), want)
	}
}

// puts is how often the audit log has a put of a name, and how many versions there are.
func (s *story) puts(name string) string {
	s.t.Helper()
	return s.store.MustQuery(s.t, `SELECT (SELECT count(*) FROM vault.audit_log WHERE secret = $1 AND action = 'put'
		AND outcome = 'ok') || '/' ||
		(SELECT count(*) FROM vault.secret_versions WHERE name = $1)`, name)
}

// A secret with the same value is unchanged; one that differs is refused, skipped or replaced, by OnConflict. A repeat
// changes nothing.
func TestImport(t *testing.T) {
	s := newStory(t, nil)
	s.put("app/same", "one")
	s.put("app/other", "one")
	s.put("app/gone", "one")
	_, err := s.Delete(t.Context(), s.as, "app/gone", time.Hour)
	must(t, err)
	items := []string{"app/new", "x", "app/same", "one", "app/other", "two", "app/gone", "one", "-bad", "x", "app/empty",
		"", "app/Z", "z"}

	made := s.keys.made.Load()
	wantWords(t, s.mustImport(vault.SkipOnConflict, items...), "created skipped skipped deleted name size created")
	if n := s.keys.made.Load() - made; n != 2 {
		t.Errorf("%d data keys were made, want one for each of the 2 versions", n)
	}
	wantWords(t, s.mustImport(vault.FailOnConflict, items...), "unchanged unchanged conflict deleted name size unchanged")
	wantWords(t, s.mustImport(vault.UpdateOnConflict, items...), "unchanged unchanged updated deleted name size unchanged")
	wantWords(t, s.mustImport(vault.UpdateOnConflict, items...),
		"unchanged unchanged unchanged deleted name size unchanged")
	s.wantValue("app/other", "two")
	s.wantValue("app/new", "x")
	for name, want := range map[string]string{"app/new": "1/1", "app/same": "1/1", "app/other": "2/2"} {
		if got := s.puts(name); got != want {
			t.Errorf("%s: got %s audited puts and versions, want %s", name, got, want)
		}
	}
	// A comparison reveals a value, so it is on record.
	got := s.store.MustQuery(t, `SELECT string_agg(secret || ' ' || (detail ->> 'valid'), ', ' ORDER BY id)
		FROM vault.audit_log
		WHERE action = 'verify' AND detail ->> 'for' = 'import' AND secret = 'app/other'`)
	if want := "app/other false, app/other false, app/other true"; got != want {
		t.Errorf("got %q on record, want %q", got, want)
	}
}

// rivalKeys runs the rival once, after an import has read what exists and before it stores.
type rivalKeys struct {
	vault.Keys
	rival func()
	ran   atomic.Bool
}

func (k *rivalKeys) NewDataKey(ctx context.Context,
	kc envelope.KeyContext) (*envelope.DataKey, envelope.WrappedKey, error) {
	if k.ran.CompareAndSwap(false, true) {
		k.rival()
	}
	return k.Keys.NewDataKey(ctx, kc)
}

// If another session changes some items of a batch first, they are read again: those with the same value by then are
// unchanged.
func TestImportLosesARace(t *testing.T) {
	for on, want := range map[vault.OnConflict]string{
		vault.FailOnConflict:   "unchanged conflict created conflict", // the last differed when it was read first
		vault.SkipOnConflict:   "skipped skipped created skipped",
		vault.UpdateOnConflict: "unchanged updated created unchanged",
	} {
		t.Run(string(on), func(t *testing.T) {
			keys := &rivalKeys{}
			s := newStory(t, func(o *vault.Options) { keys.Keys, o.Keys = o.Keys, keys })
			keys.ran.Store(true)
			s.put("app/there", "old")
			keys.rival = func() {
				s.mustImport(vault.UpdateOnConflict, "app/same", "x", "app/other", "y", "app/there", "new")
			}
			keys.ran.Store(false)
			wantWords(t, s.mustImport(on, "app/same", "x", "app/other", "x", "app/mine", "x", "app/there", "new"), want)
			if got := s.puts("app/same"); got != "1/1" {
				t.Errorf("got %s audited puts and versions of the same value", got)
			}
		})
	}
}

func TestImportDryRun(t *testing.T) {
	s := newStory(t, nil)
	s.put("app/a", "one")
	before, made := s.store.MustQuery(t, `SELECT count(*) FROM vault.audit_log`), s.keys.made.Load()
	results, err := s.Import(t.Context(), vault.ImportRequest{Change: s.as, OnConflict: vault.FailOnConflict, DryRun: true,
		Items: []vault.ImportItem{{Name: "app/a", Value: []byte("two")}, {Name: "app/b", Value: []byte("x")},
			{Name: "b:c", Value: []byte("x")}}})
	must(t, err)
	wantWords(t, []string{wordOf(results[0]), wordOf(results[1]), wordOf(results[2])}, "existing created name")
	if after := s.store.MustQuery(t, `SELECT count(*) FROM vault.audit_log`); after != before ||
		s.keys.made.Load() != made || s.keys.unwrapped.Load() != 0 {
		t.Errorf("a dry run left %s audit rows instead of %s, made %d keys and unwrapped %d", after, before,
			s.keys.made.Load()-made, s.keys.unwrapped.Load())
	}
}

// An item that the database refuses does not fail the others of its batch, and each has its own result.
func TestImportGivesEachItsOwnAnswer(t *testing.T) {
	s := newStory(t, nil)
	s.put("App/Case", "one")
	window, every := "25:00-26:00 Nowhere", time.Hour
	results, err := s.Import(t.Context(), vault.ImportRequest{Change: s.as, OnConflict: vault.FailOnConflict,
		Items: []vault.ImportItem{
			{Name: "app/a", Value: []byte("a")},
			{Name: "app/case", Value: []byte("names may not differ by case alone")},
			{Name: "app/b", Value: []byte("b"), Settings: vault.Settings{Window: &window}},
			{Name: "app/c", Value: []byte("c"), Settings: vault.Settings{RotateEvery: &every}}, // without a generator
			{Name: "app/d", Value: []byte("d")},
		}})
	must(t, err)
	var words []string
	for _, r := range results {
		words = append(words, wordOf(r))
	}
	wantWords(t, words, "created conflict invalid invalid created")
	s.wantValue("app/d", "d")
	if got := s.puts("app/a") + " " + s.puts("app/b"); got != "1/1 0/0" {
		t.Errorf("got %s audited puts and versions, want each once", got)
	}
}

// A token's scope holds for every name of a batch, and row level security with it.
func TestImportWithinAScope(t *testing.T) {
	s := newStory(t, nil)
	token, _, err := s.CreateToken(t.Context(), vault.NewTokenRequest{Change: s.as, Name: "ci", Scope: "app/"})
	must(t, err)
	root := s.as
	s.as = vault.Change{Token: token}
	wantWords(t, s.mustImport(vault.FailOnConflict, "app/a", "a", "prod/b", "b", "app/c", "c"), "created refused created")
	denied := s.store.MustQuery(t, `SELECT count(*) FROM vault.audit_log WHERE outcome = 'denied' AND secret = 'prod/b'`)
	if denied != "1" || s.puts("prod/b") != "0/0" {
		t.Errorf("got %s refusals on record and %s puts, want 1 and none", denied, s.puts("prod/b"))
	}
	_, err = s.RevokeToken(t.Context(), root, "ci")
	must(t, err)
	results, err := s.Import(t.Context(), vault.ImportRequest{Change: s.as,
		Items: []vault.ImportItem{{Name: "app/d", Value: []byte("d")}}})
	if wantErr(t, err, vault.ErrRefused); results[0] != (vault.ImportResult{}) {
		t.Errorf("got %v of an item that was not come to", results[0])
	}
}

// A key service that refuses one key fails that item; one that refuses three ends the batch, before all were requested.
func TestImportWithoutKeys(t *testing.T) {
	s := newStory(t, nil)
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("app/s%d", i), "x")
	}
	r := vault.ImportRequest{Change: s.as}
	for i := 0; i < len(many); i += 2 {
		r.Items = append(r.Items, vault.ImportItem{Name: many[i], Value: []byte(many[i+1])})
	}
	away := error(vault.ErrKeyUnavailable)
	s.keys.fail.Store(&away)
	_, err := s.Import(t.Context(), r)
	wantErr(t, err, vault.ErrKeyUnavailable)
	if n := s.keys.made.Load(); n > 20 {
		t.Errorf("%d data keys were asked for of a key service that is away", n)
	}
	s.keys.fail.Store(nil)
	if got := s.store.MustQuery(t, `SELECT count(*) FROM vault.secrets`); got != "0" {
		t.Errorf("%s secrets were stored", got)
	}
	s.mustImport(vault.FailOnConflict, many...)
	if got := s.store.MustQuery(t,
		`SELECT count(*) || ' ' || count(DISTINCT wrapped_dek) FROM vault.secret_versions`); got != "100 100" {
		t.Errorf("got %s versions and data keys, want a key for each of 100", got)
	}
}

// Two concurrent imports of the same names block each other only briefly, and each version is stored once.
func TestImportTwiceAtOnce(t *testing.T) {
	s := newStory(t, nil)
	var forward, back []vault.ImportItem
	for i := range 100 {
		forward = append(forward, vault.ImportItem{Name: fmt.Sprintf("app/s%02d", i), Value: []byte("x")})
	}
	back = slices.Clone(forward)
	slices.Reverse(back)
	var wg sync.WaitGroup
	var created atomic.Int64
	for _, items := range [][]vault.ImportItem{forward, back} {
		wg.Go(func() {
			results, err := s.Import(t.Context(), vault.ImportRequest{Change: s.as, Items: items,
				OnConflict: vault.FailOnConflict})
			if err != nil {
				t.Error(err)
			}
			for _, r := range results {
				if word := wordOf(r); word == "created" {
					created.Add(1)
				} else if word != "conflict" && word != "unchanged" {
					t.Errorf("got %s", word)
				}
			}
		})
	}
	wg.Wait()
	if got := s.store.MustQuery(t, `SELECT count(*) FROM vault.secret_versions`); got != "100" || created.Load() != 100 {
		t.Errorf("got %s versions, of which %d are said to have been created, want 100", got, created.Load())
	}
}

// A value that cannot be opened is that secret's own error; the others come in the order of their names, page by page.
func TestExport(t *testing.T) {
	s := newStory(t, nil)
	binary := []byte{0, 0xff, '\n', 0x80}
	for _, name := range []string{"app/a", "app/b", "app/c", "app/d", "other"} {
		s.put(name, "of "+name)
	}
	_, err := s.Put(t.Context(), vault.PutRequest{Change: s.as, Name: "app/b", Value: binary})
	must(t, err)
	_, err = s.Delete(t.Context(), s.as, "app/d", time.Hour)
	must(t, err)
	s.store.MustExec(t, `SET session_replication_role = replica;
		ALTER TABLE vault.secret_versions DISABLE TRIGGER versions_are_sealed;
		UPDATE vault.secret_versions SET ciphertext = set_byte(ciphertext, 0, get_byte(ciphertext, 0) # 1)
		WHERE name = 'app/c'`)
	var got []string
	after := ""
	for {
		page, err := s.Export(t.Context(), "app/", after, 2)
		must(t, err)
		for _, e := range page {
			switch {
			case e.Err != nil:
				got = append(got, e.Name+" "+wordOf(vault.ImportResult{Err: e.Err}))
			case bytes.Equal(e.Value, binary):
				got = append(got, e.Name+" binary")
			default:
				got = append(got, e.Name+" "+string(e.Value))
			}
		}
		vault.WipeAll(page)
		if len(page) < 2 {
			break
		}
		after = page[len(page)-1].Name
	}
	wantWords(t, got, "app/a of app/a app/b binary app/c integrity")
}

// BenchmarkImport is secrets a second: one put a transaction, and batches of 100, by 1 and by 8.
func BenchmarkImport(b *testing.B) {
	for _, writers := range []int{1, 8} {
		b.Run(fmt.Sprintf("one-put-each/writers=%d", writers), func(b *testing.B) {
			s := newStory(b, nil)
			s.byMany(b, writers, func(i int) error {
				_, err := s.Put(b.Context(), vault.PutRequest{Change: s.as, Name: fmt.Sprintf("bench/s%d", i),
					Value: make([]byte, 64)})
				return err
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "secrets/s")
		})
		b.Run(fmt.Sprintf("batches-of-100/writers=%d", writers), func(b *testing.B) {
			s := newStory(b, nil)
			s.byMany(b, writers, func(i int) error {
				r := vault.ImportRequest{Change: s.as, OnConflict: vault.FailOnConflict}
				for j := range 100 {
					r.Items = append(r.Items, vault.ImportItem{Name: fmt.Sprintf("bench/s%d-%d", i, j), Value: make([]byte, 64)})
				}
				_, err := s.Import(b.Context(), r)
				return err
			})
			b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "secrets/s")
		})
	}
}

func (s *story) byMany(b *testing.B, writers int, do func(i int) error) {
	var wg sync.WaitGroup
	var next atomic.Int64
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}
