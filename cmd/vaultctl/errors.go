package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

// Exit codes, for scripts. They are part of the contract (README).
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitConflict    = 5
	exitUnavailable = 6
	exitAttention   = 7
	exitDeclined    = 8
	exitNotRun      = 126 // exec: the program exists and cannot be run, as in a shell
	exitNoProgram   = 127 // exec: there is no such program, as in a shell
	exitInterrupted = 130
)

var (
	errUsage     = errors.New("usage")
	errDeclined  = errors.New("declined")
	errAttention = errors.New("needs attention") // the command did its work and found a problem
	errNotRun    = errors.New("cannot be run")
	errNoProgram = errors.New("no such program")
	errNotValid  = errors.New("not valid") // verify's "no", printed on stdout
)

// exitCodes is the one table from errors to codes; the first match counts.
var exitCodes = []struct {
	err  error
	code int
	hint string
}{
	{errUsage, exitUsage, ""},
	{kms.ErrURI, exitUsage, "the KMS key is that of --kms-key, of VAULTCTL_KMS_KEY, or the vault's default"},
	{errDeclined, exitDeclined, ""},
	{errAttention, exitAttention, ""},
	{errNotRun, exitNotRun, ""},
	{errNoProgram, exitNoProgram, ""},
	{vault.ErrOutcomeUnknown, exitAttention,
		"vaultctl history NAME shows whether it was made; vaultctl status and vaultctl doctor, what keeps the cluster"},
	{vault.ErrFenced, exitUnavailable, ""},
	{vault.ErrState, exitFailed, ""},
	{vault.ErrBusy, exitUnavailable, "try again; if it stays so, pg_stat_activity shows who holds it"},
	{vault.ErrNotInitialised, exitFailed, "vaultctl init, as the owner of the database"},
	{vault.ErrSchema, exitFailed, "vaultctl migrate --status; the schema goes first, then the programs"},
	{vault.ErrNotFound, exitNotFound, ""},
	{vault.ErrDeleted, exitConflict, "vaultctl restore NAME within its window, or vaultctl purge NAME"},
	{vault.ErrConflict, exitConflict, ""},
	{vault.ErrName, exitUsage, ""},
	{vault.ErrValueSize, exitUsage, ""},
	{vault.ErrInvalid, exitUsage, ""},
	{vault.ErrRefused, exitRefused, ""},
	{vault.ErrKeyRefused, exitRefused, "the KMS key is that of --kms-key, of VAULTCTL_KMS_KEY, or the vault's default"},
	{vault.ErrUnavailable, exitUnavailable, ""},
	{vault.ErrKeyUnavailable, exitUnavailable, ""},
	{seal.ErrAway, exitUnavailable, ""},
	{vault.ErrBehind, exitUnavailable, "another node may have it; --wait gives this one more time"},
	{vault.ErrIntegrity, exitFailed, "the row was changed outside the vault: vaultctl history NAME, vaultctl audit list"},
	{fs.ErrNotExist, exitUsage, ""}, // a path that was typed; what the vault needs itself has one of the kinds above
	{context.Canceled, exitInterrupted, ""},
}

// report prints an error with its hint and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if ctx.Err() != nil && !errors.Is(err, vault.ErrOutcomeUnknown) {
		fmt.Fprintln(a.err, "vaultctl: interrupted")
		return exitInterrupted
	}
	if errors.Is(err, errNotValid) {
		return exitFailed
	}
	code, help := a.verdict(err)
	fmt.Fprintf(a.err, "vaultctl: %s\n", printable(messageOf(err)))
	var pointed *pointedError
	if errors.As(err, &pointed) {
		fmt.Fprint(a.err, pointed.pointer())
	}
	if help != "" {
		fmt.Fprintf(a.err, "hint: %s\n", help)
	}
	return code
}

// verdict returns the exit code of an error, and a hint.
func (a *app) verdict(err error) (code int, help string) {
	code = exitFailed
	for _, e := range exitCodes {
		if errors.Is(err, e.err) {
			code, help = e.code, e.hint
			break
		}
	}
	if strings.Contains(err.Error(), "is not allowed to use the vault: ") { // internal/db's text of a missing grant
		help = "vaultctl grant ROLE, by an operator with an admin token"
	}
	if errors.Is(err, vault.ErrUnavailable) && a.databaseURL == "" && !libpqConfigured() {
		help = "VAULTCTL_DATABASE_URL or PGHOST says where the database is; neither is set"
	}
	if text := err.Error(); errors.Is(err, vault.ErrUnavailable) && strings.Contains(text, "read only connection") &&
		!strings.Contains(text, "default_transaction_read_only") { // pgconn's text, without internal/db's reason for it
		help = "changes go to the primary, and this node is a standby: --database-url names the primary, or several hosts"
	}
	if text := err.Error(); strings.Contains(text, "password authentication failed") ||
		strings.Contains(text, "no password") {
		help = "the password comes from ~/.pgpass (mode 0600), PGPASSFILE, a service file or PGPASSWORD"
	}
	if (errors.Is(err, vault.ErrFenced) || errors.Is(err, vault.ErrState)) && a.stateFile() != "" {
		help = "make sure which primary is the right one; if it is this one: rm " + shellPath(a.stateFile())
	}
	var hinted *hintedError
	if errors.As(err, &hinted) {
		help = hinted.hint
	}
	return code, help
}

// libpqConfigured reports whether the environment names a server.
func libpqConfigured() bool {
	return slices.ContainsFunc([]string{"PGHOST", "PGSERVICE", "PGPORT"},
		func(name string) bool { return os.Getenv(name) != "" })
}

// messageOf leaves out the sentinel's text where the rest of the message says the same.
func messageOf(err error) string {
	if errors.Is(err, vault.ErrNotInitialised) {
		return vault.ErrNotInitialised.Error() // without the SQL error around it
	}
	t := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	for _, tail := range []error{vault.ErrConflict, vault.ErrDeleted, vault.ErrRefused, vault.ErrKeyRefused,
		vault.ErrUnavailable, errAttention} {
		if short, ok := strings.CutSuffix(t, ": "+tail.Error()); ok {
			return short
		}
	}
	return t
}

type hintedError struct {
	error
	hint string
}

func (h *hintedError) Unwrap() error { return h.error }

// hint adds a command to type, or other advice.
func hint(err error, format string, args ...any) error {
	return &hintedError{err, fmt.Sprintf(format, args...)}
}

// usage is an error in the command line.
func usage(format string, args ...any) error {
	return &kindError{errUsage, fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &kindError{vault.ErrConflict, fmt.Sprintf(format, args...)}
}

// attention is a problem found by a command that did its work.
func attention(format string, args ...any) error {
	return &kindError{errAttention, fmt.Sprintf(format, args...)}
}

func refused(err error) error {
	return &kindError{errors.Join(vault.ErrRefused, err), err.Error()}
}

// kindError is a text with an exit code.
type kindError struct {
	kind error
	text string
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.kind }

func declined(text string) error { return &kindError{errDeclined, text} }
