package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func TestExitCodeOfEveryKindOfError(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{errors.New("anything else"), 1},
		{vault.ErrNotInitialised, 1},
		{vault.ErrSchema, 1},
		{vault.ErrIntegrity, 1},
		{usage("no"), 2},
		{vault.ErrName, 2},
		{vault.ErrValueSize, 2},
		{vault.ErrInvalid, 2},
		{vault.ErrNotFound, 3},
		{vault.ErrRefused, 4},
		{vault.ErrKeyRefused, 4},
		{refused(errors.New("no")), 4},
		{vault.ErrConflict, 5},
		{vault.ErrDeleted, 5},
		{conflict("taken"), 5},
		{vault.ErrUnavailable, 6},
		{vault.ErrKeyUnavailable, 6},
		{vault.ErrOutcomeUnknown, 7},
		{attention("look"), 7},
		{declined("no"), 8},
		{context.Canceled, 130},
	} {
		for _, err := range []error{c.err, fmt.Errorf("doing it: %w", c.err), hint(c.err, "try")} {
			if got := mustReport(t, t.Context(), &app{}, err); got.code != c.code {
				t.Errorf("%v: got exit code %d, want %d", err, got.code, c.code)
			}
		}
	}
	for _, e := range exitCodes {
		if got := mustReport(t, t.Context(), &app{}, e.err); got.code != e.code {
			t.Errorf("%v: got exit code %d, want %d as its row says", e.err, got.code, e.code)
		}
	}
}

func TestInterruptionIsToldAsSuch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := mustReport(t, ctx, &app{}, vault.ErrUnavailable); got.code != 130 || got.err != "vaultctl: interrupted\n" {
		t.Errorf("got %d %q, want 130 and one word", got.code, got.err)
	}
	// The error says first whether the change was made.
	if got := mustReport(t, ctx, &app{}, fmt.Errorf("put: %w", vault.ErrOutcomeUnknown)); got.code != 7 {
		t.Errorf("outcome unknown: got exit code %d, want 7", got.code)
	}
}

func TestNotValidIsQuiet(t *testing.T) {
	if got := mustReport(t, t.Context(), &app{}, errNotValid); got.code != 1 || got.err != "" {
		t.Errorf("got %d %q, want 1 and nothing: the answer is on standard output", got.code, got.err)
	}
}

func TestErrorsAreOneLineAndAHint(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{hint(usage("bad"), "good %d", 1), "vaultctl: bad\nhint: good 1\n"},
		{fmt.Errorf("outer: %w", hint(usage("bad"), "good")), "vaultctl: outer: bad\nhint: good\n"},
		{fmt.Errorf("put %q: %w", "a", vault.ErrDeleted),
			"vaultctl: put \"a\"\nhint: vaultctl restore NAME within its window, or vaultctl purge NAME\n"},
		{errors.Join(errors.New("one"), errors.New("two")), "vaultctl: one; two\n"},
		{errors.New("red \x1b[31m and \u009b[2J"), "vaultctl: red ?[31m and ?[2J\n"},
		{&db.Error{Kind: db.ErrNotInitialised, Text: `relation "vault.config" does not exist`},
			"vaultctl: vault is not initialised in this database\nhint: vaultctl init, as the owner of the database\n"},
		{&db.Error{Kind: db.ErrRefused,
			Text: "the database role is not allowed to use the vault: permission denied for schema vault"},
			"vaultctl: the database role is not allowed to use the vault: permission denied for schema vault\n" +
				"hint: vaultctl grant ROLE, by an operator with an admin token\n"},
	} {
		if got := mustReport(t, t.Context(), &app{}, c.err); got.err != c.want {
			t.Errorf("got %q, want %q", got.err, c.want)
		}
	}
}

func TestNoDatabaseNamedIsHinted(t *testing.T) {
	const want = "VAULTCTL_DATABASE_URL or PGHOST"
	if got := mustReport(t, t.Context(), &app{}, vault.ErrUnavailable); !strings.Contains(got.err, want) {
		t.Errorf("got %q, want a hint about %s", got.err, want)
	}
	if got := mustReport(t, t.Context(), &app{databaseURL: "postgres://db1/app"},
		vault.ErrUnavailable); strings.Contains(got.err, want) {
		t.Errorf("with a URL: got %q, want no such hint", got.err)
	}
	t.Setenv("PGHOST", "db1")
	if got := mustReport(t, t.Context(), &app{}, vault.ErrUnavailable); strings.Contains(got.err, want) {
		t.Errorf("with PGHOST: got %q, want no such hint", got.err)
	}
}

func TestTextLeavesOutWhatIsSaidAlready(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("secret %q exists: %w", "a", vault.ErrConflict), `secret "a" exists`},
		{fmt.Errorf("no key: %w", vault.ErrKeyRefused), "no key"},
		{fmt.Errorf("reading: %w", vault.ErrNotFound), "reading: not found"},
		{vault.ErrConflict, "conflict"},
		{errors.New("two\nlines\n"), "two; lines"},
	} {
		if got := messageOf(c.err); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
