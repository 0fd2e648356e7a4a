package vault_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

// permitted is every call that takes a permit, over a secret that is there, one that is absent and one that is deleted.
func permitted(s *story, held uuid.UUID) map[string]func(ctx context.Context, p vault.Permit) error {
	get := func(name string, o vault.GetOptions) func(context.Context, vault.Permit) error {
		return func(ctx context.Context, p vault.Permit) error {
			o.Permit = p
			secret, err := s.Get(ctx, name, o)
			secret.Wipe()
			return err
		}
	}
	verify := func(name string) func(context.Context, vault.Permit) error {
		return func(ctx context.Context, p vault.Permit) error {
			_, err := s.Verify(ctx, name, []byte("two"), vault.VerifyOptions{Permit: p})
			return err
		}
	}
	summary := func(name string) func(context.Context, vault.Permit) error {
		return func(ctx context.Context, p vault.Permit) error {
			_, err := s.Summary(ctx, name, 10, p)
			return err
		}
	}
	return map[string]func(context.Context, vault.Permit) error{
		"get": get("app/x", vault.GetOptions{}), "get of a version": get("app/x", vault.GetOptions{Version: 1}),
		"get of what the caller has": get("app/x", vault.GetOptions{Unless: held}),
		"get of no version":          get("app/x", vault.GetOptions{Version: 7}),
		"get of none":                get("app/none", vault.GetOptions{}),
		"get of a version of none":   get("app/none", vault.GetOptions{Version: 1}),
		"get of a deleted one":       get("app/deleted", vault.GetOptions{}),
		"get of a lost one":          get("app/lost", vault.GetOptions{}),
		"verify":                     verify("app/x"),
		"verify of none":             verify("app/none"), "verify of a deleted one": verify("app/deleted"),
		"summary": summary("app/x"), "summary of none": summary("app/none"),
		"summary of a deleted one": summary("app/deleted"),
		"folder": func(ctx context.Context, p vault.Permit) error {
			_, err := s.Folder(ctx, db.FolderQuery{Folder: "app/", Ranges: []db.NameRange{db.Below("")}, Limit: 10}, p)
			return err
		},
	}
}

func newPermitStory(t *testing.T) (s *story, held uuid.UUID) {
	s = newStory(t, nil)
	s.put("app/x", "one")
	held, err := uuid.Parse(s.put("app/x", "two").VersionID)
	must(t, err)
	s.put("app/deleted", "one")
	_, err = s.Delete(t.Context(), s.as, "app/deleted", time.Hour)
	must(t, err)
	s.put("app/lost", "one")
	s.store.MustExec(t, `UPDATE vault.secret_versions SET expires_at = now() WHERE name = 'app/lost'`)
	return s, held
}

// A permit is asked once, with the node's epoch. Its refusal comes before a key is unwrapped and in place of what there
// is to know: that the secret is absent, deleted or what the caller has.
func TestPermitDecides(t *testing.T) {
	s, held := newPermitStory(t)
	refusal := errors.New("refused")
	epoch := s.store.MustQuery(t, `SELECT epoch FROM vault.access_epoch`)
	for what, call := range permitted(s, held) {
		unwrapped, asked := s.keys.unwrapped.Load(), 0
		err := call(t.Context(), func(_ context.Context, got uuid.UUID) error {
			asked++
			if got.String() != epoch {
				t.Errorf("%s: asked with epoch %s, want %s", what, got, epoch)
			}
			return refusal
		})
		if !errors.Is(err, refusal) || errors.Is(err, vault.ErrNotFound) || errors.Is(err, vault.ErrNotModified) {
			t.Errorf("%s: got %v, want the refusal alone", what, err)
		}
		if asked != 1 || s.keys.unwrapped.Load() != unwrapped {
			t.Errorf("%s: asked %d times and unwrapped %d keys, want once and none", what, asked,
				s.keys.unwrapped.Load()-unwrapped)
		}
		allow := func(context.Context, uuid.UUID) error { return nil }
		if with, without := call(t.Context(), allow), call(t.Context(), nil); (with == nil) != (without == nil) ||
			with != nil && with.Error() != without.Error() {
			t.Errorf("%s: with a permit got %v, without one %v", what, with, without)
		}
	}
}

// The permit has the epoch of a change as soon as the node shows the change.
func TestPermitHasTheNewEpoch(t *testing.T) {
	s, held := newPermitStory(t)
	for what, call := range permitted(s, held) {
		s.store.MustExec(t, `UPDATE vault.apps SET name = name`)
		epoch := s.store.MustQuery(t, `SELECT epoch FROM vault.access_epoch`)
		_ = call(t.Context(), func(_ context.Context, got uuid.UUID) error {
			if got.String() != epoch {
				t.Errorf("%s: asked with epoch %s, want the new one %s", what, got, epoch)
			}
			return nil
		})
	}
}

// A node without an epoch shows nothing to apps, and the permit cannot let it.
func TestNoEpochIsNoPermit(t *testing.T) {
	s, held := newPermitStory(t)
	s.store.MustExec(t, `ALTER TABLE vault.access_epoch DISABLE TRIGGER epoch_stays`, `DELETE FROM vault.access_epoch`)
	for what, call := range permitted(s, held) {
		err := call(t.Context(), func(context.Context, uuid.UUID) error {
			t.Errorf("%s: the permit was asked without an epoch", what)
			return nil
		})
		if !errors.Is(err, vault.ErrUnavailable) || errors.Is(err, vault.ErrNotFound) {
			t.Errorf("%s: got %v, want that it is unavailable", what, err)
		}
	}
	s.wantValue("app/x", "two") // vaultctl's reads have no permit
}
