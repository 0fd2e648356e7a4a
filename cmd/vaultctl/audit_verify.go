package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/audit/bucket"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/vault"
)

type auditVerifyOptions struct {
	since  *time.Duration
	copies string   // a node's file of seals
	keys   []string // public keys
	keyArg string   // the flag of these, if it is not --key
	export string   // a file instead of the database

	archive string // reads in a folder or bucket, instead of all this
}

func newAuditVerifyCmd(a *app) *cobra.Command {
	var o auditVerifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check the audit log against its seals",
		Long: `Check the audit log against its seals: every row is hashed again, every seal and its place in the chain
checked. The first row or seal that does not fit is named, with exit code 7. A log without any seal has exit code 7
too: nothing could be checked.

Without --key, seals of any key are accepted, also those of an attacker who rewrote the log; the key is what vaultctl
keygen --audit printed. Without --seals, removing the newest seals together with their rows goes unnoticed. --seals
takes the seals seen before: a node's audit_seals_file or the audit_seals_bucket, best one that the database's
administrator cannot reach. --export checks a file of audit archive or audit prune, without a database.

--archive checks the reads that vaultd keeps in audit_archive: that each file has the records it says, and each spool
all records from its first file on, in one chain. Where the database answers, the end of each spool is compared with
what the primary acknowledged; otherwise a note says that it was not.`,
		Example: `  vaultctl audit verify --key ed25519:q3Kx...
  vaultctl audit verify --since 7d --seals /var/lib/vaultd/seals
  vaultctl audit verify --key ed25519:q3Kx... --seals 's3://example-seals/vault?region=eu-west-1'
  vaultctl audit verify --export audit-2026-10.jsonl --key ed25519:q3Kx...
  vaultctl audit verify --archive /var/lib/vaultd/archive`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("archive") {
				return runAuditVerify(cmd.Context(), a, o)
			}
			for _, other := range []string{"since", "seals", "key", "export"} {
				if cmd.Flags().Changed(other) {
					return usage("--archive is checked by its own chain, and takes no --%s", other)
				}
			}
			return runArchiveVerify(cmd.Context(), a, o.archive)
		},
	}
	flags := cmd.Flags()
	flags.Var(durationFlag{&o.since}, "since",
		"recompute only what was sealed in the last 2h, 7d, ... (the chain of seals is checked from its beginning)")
	flags.StringVar(&o.copies, "seals", "",
		"the seals seen before: a node's `file`, or s3://... (audit_seals_file and audit_seals_bucket of vaultd)")
	flags.StringArrayVar(&o.keys, "key", nil, "public `key` that may have sealed: ed25519:... (again for another)")
	flags.StringVar(&o.export, "export", "", "check this `file` instead of the database")
	flags.StringVar(&o.archive, "archive", "",
		"check the reads in this `place`: a folder or s3://... (audit_archive of vaultd)")
	return cmd
}

type auditVerdict struct {
	OK    bool   `json:"ok"`
	Fault string `json:"fault,omitempty"`
	Seal  int64  `json:"seal,omitempty"`
	Row   int64  `json:"row,omitempty"`
	seal.Report
}

func runAuditVerify(ctx context.Context, a *app, o auditVerifyOptions) error {
	options, err := o.options()
	if err != nil {
		return err
	}
	source, rows, err := o.source(ctx, a, &options)
	if err != nil {
		return err
	}
	if options.Copies, err = o.seals(ctx, source.Cluster); err != nil {
		return err
	}
	done := a.progress("rows", rows, &options.Progress)
	report, err := seal.Verify(ctx, source, options)
	done()
	verdict := auditVerdict{OK: err == nil, Report: report}
	var fault *seal.Fault
	switch {
	case errors.As(err, &fault):
		verdict.Fault, verdict.Seal, verdict.Row = fault.What, fault.Seal, fault.Row
	case errors.Is(err, vault.ErrRefused):
		return hint(err, "vaultctl grant ROLE --as auditor, by an operator with an admin token")
	case err != nil:
		return err
	}
	if err := a.printVerdictOfAudit(verdict); err != nil {
		return err
	}
	switch {
	case fault != nil:
		return hint(attention("%s", fault.What),
			"compare with what other nodes have seen: vaultctl audit verify --seals FILE, or with an archive: --export FILE")
	case report.Seals == 0:
		return hint(attention("nothing is sealed, so nothing was checked"),
			"audit_seal_key of vaultd says with which key: vaultctl keygen --audit FILE makes one")
	}
	return nil
}

func (o auditVerifyOptions) options() (seal.Options, error) {
	var options seal.Options
	for _, text := range o.keys {
		key, err := seal.ParsePublicKey(text)
		if err != nil {
			return options, usage("--%s: %s", cmp.Or(o.keyArg, "key"), err)
		}
		options.Keys = append(options.Keys, key)
	}
	if o.since != nil {
		options.Since = time.Now().Add(-*o.since)
	}
	return options, nil
}

// seals returns the seals seen before: none, those of a file, or those of this vault in a bucket.
func (o auditVerifyOptions) seals(ctx context.Context,
	cluster func(context.Context) (uuid.UUID, error)) (seals []seal.Seal, err error) {
	switch {
	case o.copies == "":
		return nil, nil
	case strings.HasPrefix(o.copies, bucket.Scheme):
		seals, err = o.bucketSeals(ctx, cluster)
	default:
		seals, err = seal.ReadCopies(o.copies)
	}
	switch {
	case errors.Is(err, bucket.ErrURI):
		return nil, usage("--seals: %s", err)
	case err != nil:
		return nil, fmt.Errorf("--seals: %w", err)
	case len(seals) == 0:
		return nil, fmt.Errorf("--seals: %q has no seal", o.copies)
	}
	return seals, nil
}

func (o auditVerifyOptions) bucketSeals(ctx context.Context,
	cluster func(context.Context) (uuid.UUID, error)) ([]seal.Seal, error) {
	b, err := bucket.Open(ctx, o.copies, cluster)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return b.Seals(ctx)
}

// source returns the database or the file, and about how many rows it has.
func (o auditVerifyOptions) source(ctx context.Context, a *app, options *seal.Options) (seal.Source, int64, error) {
	if o.export != "" {
		file, err := seal.OpenFile(o.export)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, usage("--export: no file %q", o.export)
		} else if err != nil {
			return nil, 0, fmt.Errorf("--export: %w", err)
		}
		options.Partial = file.Partial()
		return file, 0, nil
	}
	log, err := a.log(ctx)
	if err != nil {
		return nil, 0, err
	}
	rows, err := log.Estimate(ctx)
	if err != nil {
		return nil, 0, err
	}
	return log.Source(time.Time{}), rows, nil
}

func (a *app) printVerdictOfAudit(v auditVerdict) error {
	if a.json() {
		return a.printJSON(v)
	}
	if v.OK && v.Seals > 0 && !v.Trusted {
		a.note("the signatures fit the keys that signed; give your own keys with --key to check whose they are")
	}
	answer := "fits its seals"
	switch {
	case !v.OK:
		answer = "DOES NOT FIT: " + v.Fault
	case v.Seals == 0:
		answer = "has no seals"
	}
	fields := []string{"audit log", answer, "seals", strconv.FormatInt(v.Seals, 10), "rows recomputed",
		strconv.FormatInt(v.Rows, 10)}
	if v.Pruned > 0 {
		fields = append(fields, "rows pruned", strconv.FormatInt(v.Pruned, 10))
	}
	unsealed := strconv.FormatInt(v.Unsealed, 10)
	if v.UnsealedFrom != nil {
		unsealed += ", the oldest of " + at(*v.UnsealedFrom)
	}
	fields = append(fields, "rows not sealed yet", unsealed)
	if v.SealedUntil != nil {
		fields = append(fields, "last seal", at(*v.SealedUntil))
	}
	if v.Copies > 0 {
		fields = append(fields, "seals seen before", strconv.FormatInt(v.Copies, 10))
	}
	return a.printFields(append(fields, "signed by", strings.Join(v.Keys, ", "))...)
}

// progress shows on a terminal how far a long command has come; if of is 0, without a percentage. The returned function
// removes the line.
func (a *app) progress(what string, of int64, tick *func(int64)) (done func()) {
	var share func(n int64) float64
	if of > 0 {
		share = func(n int64) float64 { return float64(n) / float64(of) }
	}
	return a.progressBy(what, share, tick)
}

// progressBy is progress where share, unless nil, returns the part that is done.
func (a *app) progressBy(what string, share func(n int64) float64, tick *func(int64)) (done func()) {
	if a.json() || !term.IsTerminal(int(a.err.Fd())) {
		return func() {}
	}
	began, shown := time.Now(), time.Now()
	drawn := false
	*tick = func(n int64) {
		if time.Since(shown) < 200*time.Millisecond {
			return
		}
		shown, drawn = time.Now(), true
		bar := ""
		if share != nil {
			done := min(share(n), 1)
			bar = fmt.Sprintf("[%-30s] %3.0f%%  ", strings.Repeat("=", int(30*done)), 100*done)
		}
		fmt.Fprintf(a.err, "\r\x1b[K%s%d %s, %.0f a second", bar, n, what, float64(n)/time.Since(began).Seconds())
	}
	return func() {
		if drawn {
			fmt.Fprint(a.err, "\r\x1b[K")
		}
	}
}
