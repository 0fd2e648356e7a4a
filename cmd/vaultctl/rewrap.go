package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

// rewrapPage is how many secrets one statement looks at.
const rewrapPage = 500

// keyFailures in a row are a failure of the key service: the run ends.
const keyFailures = 3

type rewrapOptions struct {
	query  db.WrappedQuery
	to     string
	from   []string
	dryRun bool
	yes    bool
}

func newRewrapCmd(a *app) *cobra.Command {
	var o rewrapOptions
	var all bool
	cmd := &cobra.Command{
		Use:   "rewrap NAME | PREFIX/ | --all",
		Short: "Move data keys under another KMS key; no value changes",
		Long: `Move data keys under another KMS key: that of --to, or the one that put uses now. Values, versions and their
grace stay as they are. Reading goes on if every vaultd has both keys in its kms_keys. The command moves every version
that is current or in grace, versions of deleted secrets that can be restored, and the candidates of rotations.

Give each KMS key that wrapped them with --from; the one that put uses now is included. Each data key is unwrapped by
the new KMS key and checked before it is stored. Between two AWS keys of a region, ReEncrypt moves it; otherwise this
machine sees data keys. It never sees a value.

A version that is replaced or removed meanwhile is skipped. One that cannot be moved is named, the others go on, and the
exit code is 7. The next run moves what is left. --dry-run counts.

If --dry-run --all finds nothing, with a token without a scope, no row needs another key any more. Backups do.`,
		Example: `  vaultctl rewrap --all --dry-run --from 'awskms:///alias/old?region=eu-west-1'
  vaultctl rewrap --all --from local:///etc/vault/kek
  vaultctl rewrap prod/ --to 'awskms:///alias/prod?region=eu-west-1'`,
		Args:              rangeArgs(0, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true, deleted: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.query, err = rewrapQuery(args, all); err != nil {
				return err
			}
			if cmd.Flags().Changed("to") && o.to == "" {
				return usage("--to takes the URI of a KMS key")
			}
			for _, uri := range append([]string{o.to}, o.from...) {
				if _, err := kms.ParseURI(uri); uri != "" && err != nil {
					return usage("%s", err)
				}
			}
			return runRewrap(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&all, "all", false, "every secret")
	flags.StringVar(&o.to, "to", "", "`URI` of the KMS key to move to (default: the one that put uses)")
	flags.StringArrayVar(&o.from, "from", nil, "`URI` of a KMS key to move from; may be given several times")
	flags.BoolVar(&o.dryRun, "dry-run", false, "count what would be moved, and change nothing")
	flags.BoolVar(&o.yes, "yes", false, "do not ask")
	return cmd
}

func rewrapQuery(args []string, all bool) (db.WrappedQuery, error) {
	switch {
	case all && len(args) > 0:
		return db.WrappedQuery{}, usage("--all and %q exclude each other", args[0])
	case all:
		return db.WrappedQuery{Limit: rewrapPage}, nil
	case len(args) == 0:
		return db.WrappedQuery{}, usage("what to rewrap is missing: NAME, PREFIX/ or --all")
	}
	prefix, isPrefix := strings.CutSuffix(args[0], "/")
	return db.WrappedQuery{Prefix: args[0], Exact: !isPrefix, Limit: rewrapPage}, envelope.CheckName(prefix)
}

// rewrapping is one run and its answer in JSON.
type rewrapping struct {
	To        string          `json:"to"`
	KMSKeyID  string          `json:"kms_key_id"`
	DryRun    bool            `json:"dry_run"`
	Found     []wrappedBy     `json:"found"` // before the run
	Rewrapped int             `json:"rewrapped"`
	Skipped   int             `json:"skipped"` // replaced or removed meanwhile
	Failed    []rewrapFailure `json:"failed"`
	Unlisted  int             `json:"failed_unlisted,omitempty"` // further failures

	keyFailed int // failures of the key service
}

// wrappedBy is what a KMS key other than the new one has wrapped.
type wrappedBy struct {
	KMSKeyID   string `json:"kms_key_id"`
	Versions   int    `json:"versions"`
	Candidates int    `json:"candidates"`
	Available  bool   `json:"at_hand"` // the key was given
}

type rewrapFailure struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
	Job     *int64 `json:"job,omitempty"` // of a candidate
	Error   string `json:"error"`
}

func runRewrap(ctx context.Context, a *app, o rewrapOptions) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	keyring, err := a.rewrapKeyring(ctx, o)
	if err != nil {
		return err
	}
	defer keyring.Close()
	r := &rewrapping{To: keyring.Default().URI(), DryRun: o.dryRun, Found: []wrappedBy{}, Failed: []rewrapFailure{}}
	if r.KMSKeyID, err = keyring.Default().KeyID(ctx); err != nil {
		return err
	}
	o.query.KMSKeyID = r.KMSKeyID
	if err := r.survey(ctx, v, change, o.query, keyring); err != nil {
		return err
	}
	if o.dryRun || len(r.Found) == 0 {
		return a.printSurvey(r)
	}
	if err := r.unreachable(); err != nil {
		return err
	}
	if !o.query.Exact {
		if err := a.confirm(ctx, o.yes, o.confirmation(), r.question(o)); err != nil {
			return err
		}
	}
	var tick func(int64)
	done := a.progress("data keys", int64(r.total()), &tick)
	err = r.run(ctx, v, change, o.query, keyring, tick)
	done()
	return errors.Join(a.printRewrapping(r), r.outcome(err))
}

// rewrapKeyring opens the key to move to, first, and those to move from.
func (a *app) rewrapKeyring(ctx context.Context, o rewrapOptions) (*kms.Keyring, error) {
	uses := a.kmsKey
	if uses == "" {
		config, err := a.reader.Config(ctx)
		if err != nil {
			return nil, err
		}
		if uses, err = defaultKey(config); err != nil && o.to == "" {
			return nil, err
		}
	}
	var uris []string
	for _, uri := range append([]string{o.to, uses}, o.from...) {
		if u, err := kms.ParseURI(uri); err == nil {
			uri = u.String()
		}
		if uri != "" && !slices.Contains(uris, uri) {
			uris = append(uris, uri)
		}
	}
	keyring, err := kms.OpenKeyring(ctx, uris)
	if errors.Is(err, fs.ErrNotExist) {
		err = usage("%s", messageOf(err))
	}
	if err != nil {
		return nil, hint(err, "the KMS keys are those of --to and --from, and the one that put uses")
	}
	return keyring, nil
}

// eachKey goes through the data keys that the new KMS key has not wrapped, page by page.
func eachKey(ctx context.Context, v *vault.Vault, change vault.Change, q db.WrappedQuery,
	do func(db.WrappedKey) error) error {
	for {
		page, err := v.WrappedKeys(ctx, change, q)
		if err != nil {
			return scopeHint(q, err)
		}
		for _, key := range page.Keys {
			if err := do(key); err != nil {
				return err
			}
		}
		if q.After = page.Next; page.Next == "" {
			return nil
		}
	}
}

func scopeHint(q db.WrappedQuery, err error) error {
	if q.Prefix == "" && errors.Is(err, vault.ErrRefused) && strings.Contains(err.Error(), "does not cover") {
		return hint(refused(errors.New("--all takes a token without a scope")),
			"vaultctl rewrap PREFIX/, with the token's scope")
	}
	return err
}

func (r *rewrapping) survey(ctx context.Context, v *vault.Vault, change vault.Change, q db.WrappedQuery,
	keyring *kms.Keyring) error {
	err := eachKey(ctx, v, change, q, func(key db.WrappedKey) error {
		i := slices.IndexFunc(r.Found, func(w wrappedBy) bool { return w.KMSKeyID == key.KMSKeyID })
		if i < 0 {
			i = len(r.Found)
			r.Found = append(r.Found, wrappedBy{KMSKeyID: key.KMSKeyID})
		}
		if key.Job == nil {
			r.Found[i].Versions++
		} else {
			r.Found[i].Candidates++
		}
		return nil
	})
	if err != nil || len(r.Found) == 0 {
		return err
	}
	slices.SortFunc(r.Found, func(x, y wrappedBy) int { return strings.Compare(x.KMSKeyID, y.KMSKeyID) })
	for _, key := range keyring.Keys() {
		id, err := key.KeyID(ctx)
		if err != nil {
			return err
		}
		for i := range r.Found {
			r.Found[i].Available = r.Found[i].Available || r.Found[i].KMSKeyID == id
		}
	}
	return nil
}

// unreachable rejects a run that could move nothing: most likely --from is missing.
func (r *rewrapping) unreachable() error {
	if slices.ContainsFunc(r.Found, func(w wrappedBy) bool { return w.Available }) {
		return nil
	}
	return hint(refused(fmt.Errorf("%s wrapped by %q, which is not available", counted(r.Found[:1]), r.Found[0].KMSKeyID)),
		"--from URI, of that key")
}

func (r *rewrapping) total() (n int) {
	for _, w := range r.Found {
		if w.Available {
			n += w.Versions + w.Candidates
		}
	}
	return n
}

func counted(found []wrappedBy) string {
	versions, candidates := 0, 0
	for _, w := range found {
		versions, candidates = versions+w.Versions, candidates+w.Candidates
	}
	text := plural(versions, "version", "versions")
	if candidates > 0 {
		text += " and " + plural(candidates, "candidate of a rotation", "candidates of rotations")
	}
	return text
}

func (o rewrapOptions) confirmation() string {
	if o.query.Prefix == "" {
		return "all"
	}
	return o.query.Prefix
}

func (r *rewrapping) question(o rewrapOptions) string {
	where := ""
	if o.query.Prefix != "" {
		where = fmt.Sprintf(" under %q", o.query.Prefix)
	}
	return fmt.Sprintf("The data keys of %s%s move under %s.", counted(r.Found), where, r.To)
}

func (r *rewrapping) run(ctx context.Context, v *vault.Vault, change vault.Change, q db.WrappedQuery,
	keyring *kms.Keyring, tick func(int64)) error {
	return eachKey(ctx, v, change, q, func(key db.WrappedKey) error {
		if !slices.ContainsFunc(r.Found, func(w wrappedBy) bool { return w.KMSKeyID == key.KMSKeyID && w.Available }) {
			r.fail(key, fmt.Errorf("its KMS key %q is not available", key.KMSKeyID))
			return nil
		}
		_, err := v.Rewrap(ctx, change, keyring, key)
		if tick != nil {
			tick(int64(r.Rewrapped + r.Skipped + r.failures()))
		}
		return r.settle(ctx, key, err)
	})
}

// settle counts the result of one data key. It returns an error if all others would fail in the same way.
func (r *rewrapping) settle(ctx context.Context, key db.WrappedKey, err error) error {
	ofKeys := errors.Is(err, vault.ErrKeyUnavailable) || errors.Is(err, vault.ErrKeyRefused)
	if !ofKeys {
		r.keyFailed = 0
	}
	switch {
	case err == nil:
		r.Rewrapped++
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, vault.ErrConflict), errors.Is(err, vault.ErrNotFound):
		r.Skipped++
	case ofKeys:
		r.fail(key, err)
		if r.keyFailed++; r.keyFailed == keyFailures {
			return err
		}
	case errors.Is(err, vault.ErrIntegrity), errors.Is(err, vault.ErrBusy), errors.Is(err, vault.ErrInvalid),
		errors.Is(err, vault.ErrName):
		r.fail(key, err)
	default: // the database is away, the token is refused, the outcome unknown
		return err
	}
	return nil
}

func (r *rewrapping) failures() int { return len(r.Failed) + r.Unlisted }

func (r *rewrapping) fail(key db.WrappedKey, err error) {
	if len(r.Failed) == listedFailures {
		r.Unlisted++
		return
	}
	r.Failed = append(r.Failed, rewrapFailure{Name: key.Name, Version: key.Version, Job: key.Job, Error: messageOf(err)})
}

// outcome is the error of the whole run.
func (r *rewrapping) outcome(err error) error {
	switch {
	case err != nil:
		return hint(fmt.Errorf("the run ended early: %w", err), "run the same command again; rewrapped keys are skipped")
	case len(r.Failed) > 0:
		return hint(attention("%s could not be rewrapped", plural(r.failures(), "data key", "data keys")),
			"the same command tries them again")
	}
	return nil
}

func (a *app) printSurvey(r *rewrapping) error {
	if a.json() {
		return a.printJSON(r)
	}
	var rows [][]string
	for _, w := range r.Found {
		available := "yes"
		if !w.Available {
			available = "no: --from"
		}
		rows = append(rows, []string{w.KMSKeyID, fmt.Sprint(w.Versions), fmt.Sprint(w.Candidates), available})
	}
	return a.printTable([]string{"KMS KEY", "VERSIONS", "CANDIDATES", "AVAILABLE"}, rows,
		"nothing is wrapped by another key than "+printable(r.KMSKeyID))
}

func (a *app) printRewrapping(r *rewrapping) error {
	if a.json() {
		return a.printJSON(r)
	}
	for _, f := range r.Failed {
		what := fmt.Sprintf("version %d", f.Version)
		if f.Job != nil {
			what = fmt.Sprintf("candidate of job %d", *f.Job)
		}
		a.note("failed: %q %s: %s", f.Name, what, printable(f.Error))
	}
	if r.Unlisted > 0 {
		a.note("and %d more", r.Unlisted)
	}
	line := fmt.Sprintf("rewrapped %s under %s", plural(r.Rewrapped, "data key", "data keys"), printable(r.KMSKeyID))
	if r.Skipped > 0 {
		line += fmt.Sprintf("; %d skipped, as they changed meanwhile", r.Skipped)
	}
	a.note("%s", line)
	return nil
}
