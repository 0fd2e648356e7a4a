package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func newTokenCmd(a *app) *cobra.Command {
	return holdCommands(&cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke admin tokens",
		Long: `Make, list and revoke admin tokens. Every change of the vault takes one; reading takes none.

A token may have a scope, a name prefix outside of which it changes nothing. Changing tokens and grants takes a token
without a scope.`,
	}, newTokenCreateCmd(a), newTokenListCmd(a), newTokenRevokeCmd(a))
}

type tokenCreateOptions struct {
	name    string
	scope   string
	expires *time.Duration
	file    string
	asOwner bool
}

func newTokenCreateCmd(a *app) *cobra.Command {
	var o tokenCreateOptions
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an admin token and print it, once",
		Long: `Make an admin token and print it, once: the database keeps only its fingerprint.

--owner makes it without another token, as the database's owner, for when all tokens are lost.`,
		Example: `  vaultctl token create ci --scope staging/ --expires 90d
  vaultctl token create alice --save alice.token
  vaultctl token create rescue --owner`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if err := o.parse(cmd); err != nil {
				return err
			}
			return runTokenCreate(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.scope, "scope", "",
		"name `prefix` it may change, e.g. staging/ (default: everything, tokens and grants included)")
	flags.Var(durationFlag{&o.expires}, "expires", "how long it is good for, e.g. 90d (default: until it is revoked)")
	flags.StringVar(&o.file, "save", "", "write the token to a new `file`, mode 0600, instead of printing it")
	flags.BoolVar(&o.asOwner, "owner", false, "make it as the owner of the database, without a token")
	completeNameFlag(a, cmd, "scope")
	return cmd
}

// checkTokenName says before anything is done what the database would refuse.
func checkTokenName(name string) error {
	word := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
	}
	other := func(r rune) bool { return !word(r) && !strings.ContainsRune(".@-", r) }
	if name == "" || len(name) > 64 || !word(rune(name[0])) || strings.ContainsFunc(name, other) {
		return usage("a token's name is 1 to 64 letters, digits or _ . @ -, and begins with a letter, digit or _")
	}
	return nil
}

func (o tokenCreateOptions) parse(cmd *cobra.Command) error {
	if err := checkTokenName(o.name); err != nil {
		return err
	}
	switch {
	case o.expires != nil && *o.expires == 0:
		return usage("--expires is more than 0")
	case cmd.Flags().Changed("save") && o.file == "":
		return usage("--save takes a file name")
	case cmd.Flags().Changed("scope") && o.scope == "":
		return usage("--scope is a prefix of names; leave it out for a token that may change everything")
	case o.scope != "":
		if err := checkPrefix("scope", o.scope); err != nil {
			return err
		}
	}
	return oneOf(cmd, "owner", "scope")
}

func runTokenCreate(ctx context.Context, a *app, o tokenCreateOptions) error {
	create, err := a.tokenMaker(ctx, o.asOwner)
	if err != nil {
		return err
	}
	var file *newTokenFile
	if o.file != "" {
		if file, err = createTokenFile(o.file); err != nil {
			return err
		}
		defer file.discard()
	}
	request := vault.NewTokenRequest{Name: o.name, Scope: o.scope}
	if o.expires != nil {
		end := time.Now().Add(*o.expires)
		request.ExpiresAt = &end
	}
	token, row, err := create(ctx, request)
	switch {
	case err != nil && o.asOwner:
		return tokenHint(ownerHint(err))
	case err != nil:
		return tokenHint(err)
	}
	made, err := deliver(token, row, file)
	if err != nil {
		return err
	}
	if !a.json() {
		a.warnPrefix("scope", o.scope)
	}
	return a.printToken(made)
}

type makeToken func(context.Context, vault.NewTokenRequest) (vault.Token, db.TokenRow, error)

// tokenMaker is by whose right a token is made: another token's, or the owner's.
func (a *app) tokenMaker(ctx context.Context, asOwner bool) (makeToken, error) {
	v, err := a.vault(ctx)
	if err != nil || asOwner {
		return v.CreateTokenAsOwner, err
	}
	change, err := a.change()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, r vault.NewTokenRequest) (vault.Token, db.TokenRow, error) {
		r.Change = change
		return v.CreateToken(ctx, r)
	}, nil
}

func tokenHint(err error) error {
	switch {
	case errors.Is(err, vault.ErrOutcomeUnknown):
		return hint(err,
			"make one under another name; if vaultctl token list shows the first, its text is lost: revoke it")
	case errors.Is(err, vault.ErrConflict):
		return hint(err, "another name, or vaultctl token revoke NAME first")
	}
	return err
}

// tokenJSON is a new token: itself or the file it is in.
type tokenJSON struct {
	Name      string     `json:"name"`
	ID        string     `json:"id"`
	Scope     string     `json:"scope,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	Token     string     `json:"token,omitempty"`
	File      string     `json:"token_file,omitempty"`
	LSN       string     `json:"lsn,omitempty"`
}

// deliver hands a new token over, in the file if there is one.
func deliver(token vault.Token, row db.TokenRow, file *newTokenFile) (tokenJSON, error) {
	made := tokenJSON{Name: row.Name, ID: row.ID.String(), Scope: row.Scope, ExpiresAt: row.ExpiresAt, LSN: row.LSN}
	if file == nil {
		made.Token = token.Reveal()
		return made, nil
	}
	made.File = file.path
	if err := file.save(token); err != nil {
		return tokenJSON{}, hint(err, "token %q was made but is lost: vaultctl token revoke %s", row.Name, row.Name)
	}
	return made, nil
}

// printToken prints a new token, the one time that it is shown, and says how to keep it.
func (a *app) printToken(t tokenJSON) error {
	switch {
	case a.json():
		return hintRevoke(t, a.printJSON(t))
	case t.File != "":
		a.note("admin token %q is in %s", t.Name, t.File)
	default:
		path := defaultTokenFile()
		if path == "" || db.Unreachable(path) != nil {
			path = "TOKEN_FILE"
		}
		a.note("admin token %q, shown this once. To use it by default, paste it into:\n  %s", t.Name, saveCommand(path))
		if _, err := fmt.Fprintln(a.out, t.Token); err != nil {
			return hintRevoke(t, fmt.Errorf("writing the token: %w", reason(err)))
		}
	}
	if t.ExpiresAt != nil {
		a.note("it expires at %s", when(t.ExpiresAt))
	}
	return nil
}

// hintRevoke adds the revoke command to an error after which a new token was not shown.
func hintRevoke(t tokenJSON, err error) error {
	if err == nil || t.Token == "" {
		return err
	}
	return hint(err, "token %q was made but is lost: vaultctl token revoke %s", t.Name, t.Name)
}

func newTokenListCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List admin tokens, revoked ones too",
		Long:    `List admin tokens, revoked and expired ones too. The tokens themselves are not stored anywhere.`,
		Example: `  vaultctl token list`,
		Args:    exactArgs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runTokenList(cmd.Context(), a) },
	}
}

func runTokenList(ctx context.Context, a *app) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	tokens, err := v.Tokens(ctx, change)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(tokens)
	}
	now := time.Now()
	rows := make([][]string, len(tokens))
	for i, t := range tokens {
		rows[i] = []string{t.Name, tokenState(t, now), scopeOf(t), when(t.CreatedAt), t.CreatedBy, when(t.ExpiresAt),
			when(t.LastUsedAt)}
	}
	return a.printTable([]string{"NAME", "STATE", "SCOPE", "CREATED", "BY", "EXPIRES", "LAST USED"}, rows, "no tokens")
}

func tokenState(t db.TokenRow, now time.Time) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case t.ExpiresAt != nil && !t.ExpiresAt.After(now):
		return "expired"
	}
	return "good"
}

func scopeOf(t db.TokenRow) string {
	if t.Scope == "" {
		return "everything"
	}
	return t.Scope
}

func newTokenRevokeCmd(a *app) *cobra.Command {
	var wait *time.Duration
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "End an admin token",
		Long: `End an admin token at once: it can change nothing more, and a change under way is refused when it commits. It
cannot be undone; make a new token instead.

Sessions that have had a change open since before are named, and the exit code is 7. They can change nothing more, but
what they changed before may still be committed if it was held back on purpose. End them with pg_terminate_backend.

A standby follows when it has replayed the change. If it is promoted before that, the token is valid again: --wait waits
for all connected standbys, and exits with 7 if one has not replayed it in time.`,
		Example: `  vaultctl token revoke ci
  vaultctl token revoke ci --wait`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: completeTokens(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runTokenRevoke(cmd.Context(), a, args[0], wait)
		},
	}
	registerStandbyWait(cmd, &wait)
	return cmd
}

// revokedJSON is a revoked token, and with --wait the standbys.
type revokedJSON struct {
	db.TokenRow
	Standbys *[]db.Standby `json:"standbys,omitempty"`
}

func runTokenRevoke(ctx context.Context, a *app, name string, wait *time.Duration) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	row, err := v.RevokeToken(ctx, change, name)
	if err != nil {
		return err
	}
	err = a.reportChange(ctx, v, row.LSN, wait, fmt.Sprintf("revoked token %q", row.Name),
		func(standbys *[]db.Standby) any { return revokedJSON{row, standbys} })
	if err != nil {
		return err
	}
	return stillOpen(row.OpenChanges)
}

// stillOpen names the sessions that may hold a change which a revoked token has authorised.
func stillOpen(changes []db.OpenChange) error {
	if len(changes) == 0 {
		return nil
	}
	words := make([]string, len(changes))
	for i, c := range changes {
		words[i] = openChange(c)
	}
	end := fmt.Sprintf("SELECT pg_terminate_backend(%d)", changes[0].PID)
	if changes[0].Prepared != "" {
		end = "ROLLBACK PREPARED '" + strings.ReplaceAll(changes[0].Prepared, "'", "''") + "'"
	}
	text := strings.Join(words, ", ")
	return hint(attention("the token is revoked, but a change from before it is open: %s", text), "%s", printable(end))
}

func openChange(c db.OpenChange) string {
	what := fmt.Sprintf("session %d", c.PID)
	if c.Prepared != "" {
		what = fmt.Sprintf("prepared transaction %q", c.Prepared)
	}
	what += fmt.Sprintf(" of role %q", c.Role)
	if c.Client != "" {
		what += " from " + c.Client
	}
	if c.Since != nil {
		what += " since " + when(c.Since)
	}
	return what
}
