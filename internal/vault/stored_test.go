package vault_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// A drill opens every version that has its bytes, once, whatever lies between: versions in grace, those of deleted
// secrets, and gaps of removed ones as long as a page. A row that does not open is an error of its own.
func TestStoredVersions(t *testing.T) {
	s := newStory(t, nil)
	reader, err := db.NewReader(t.Context(), db.Options{URL: s.store.URL(vaulttest.Operator), ReadOnly: true})
	must(t, err)
	defer reader.Close()
	for i := range 4 {
		for range 5 {
			s.put(fmt.Sprintf("app/%d", i), "value")
		}
	}
	_, err = s.Delete(t.Context(), s.as, "app/3", time.Hour)
	must(t, err)
	s.store.MustExec(t, `ALTER TABLE vault.secret_versions DISABLE TRIGGER ALL`,
		`UPDATE vault.secret_versions SET expires_at = now(), removed_at = now(), wrapped_dek = NULL, nonce = NULL,
			ciphertext = NULL, key_commit = NULL WHERE name = 'app/1' AND version < 5`,
		`UPDATE vault.secret_versions SET wrapped_dek = set_bit(wrapped_dek, 300, 1 - get_bit(wrapped_dek, 300))
			WHERE name = 'app/2' AND version = 1`)
	want := strings.Fields("app/0:1 app/0:2 app/0:3 app/0:4 app/0:5 app/1:5 app/2:1 app/2:2 app/2:3 app/2:4 app/2:5 " +
		"app/3:1 app/3:2 app/3:3 app/3:4 app/3:5")
	wantPlaces := func(how string, places []db.StoredPlace) {
		t.Helper()
		var got []string
		for _, p := range places {
			got = append(got, fmt.Sprintf("%s:%d", p.Name, p.Version))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", how, got, want)
		}
	}

	for _, limit := range []int{1, 2, 4, 100} {
		var all []db.StoredPlace
		var after db.StoredPlace
		for more := true; more; {
			var page []db.StoredPlace
			page, after, more, err = reader.StoredAfter(t.Context(), after, limit)
			must(t, err)
			all = append(all, page...)
		}
		wantPlaces(fmt.Sprintf("pages of %d", limit), all)
	}
	sample, err := reader.StoredSample(t.Context(), 100)
	must(t, err)
	wantPlaces("a sample of more than there are", sample)
	if few, err := reader.StoredSample(t.Context(), 3); err != nil || len(few) != 3 {
		t.Errorf("got a sample of %d, error %v, want 3", len(few), err)
	}
	keys, err := reader.StoredKeys(t.Context())
	must(t, err)
	if len(keys) != 1 || keys[0].Versions != 16 || keys[0].Newest.Name != "app/3" || keys[0].Newest.Version != 5 {
		t.Errorf("got keys %+v, want one of 16 versions", keys)
	}

	rows, err := reader.Stored(t.Context(), sample)
	must(t, err)
	errs, err := s.TryStored(t.Context(), rows)
	must(t, err)
	for i, err := range errs {
		damaged := rows[i].Name == "app/2" && rows[i].Version == 1
		if damaged != errors.Is(err, vault.ErrIntegrity) || !damaged && err != nil {
			t.Errorf("%s version %d: got %v", rows[i].Name, rows[i].Version, err)
		}
	}
	if len(errs) != 16 {
		t.Errorf("%d versions were tried, want 16", len(errs))
	}
}
