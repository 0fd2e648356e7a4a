package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func newAuditArchiveCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "archive FILE",
		Short: "Write the audit log with its seals to a file",
		Long: `Write the whole audit log with its seals to a new file, mode 0600: JSON lines, each seal before the rows it
covers. The file can be checked without a database: vaultctl audit verify --export FILE.`,
		Example: `  vaultctl audit archive audit.jsonl`,
		Args:    exactArgs("FILE"),
		RunE:    func(cmd *cobra.Command, args []string) error { return runAuditArchive(cmd.Context(), a, args[0]) },
	}
}

func runAuditArchive(ctx context.Context, a *app, path string) error {
	log, err := a.log(ctx)
	if err != nil {
		return err
	}
	of, err := log.Estimate(ctx)
	if err != nil {
		return err
	}
	var tick func(int64)
	done := a.progress("rows", of, &tick)
	archive, err := writeArchive(ctx, log, path, archiving{progress: tick})
	done()
	switch {
	case errors.Is(err, vault.ErrRefused):
		return hint(err, "vaultctl grant ROLE --as auditor, by an operator with an admin token")
	case err != nil:
		return err
	}
	if a.json() {
		return a.printJSON(map[string]any{"file": path, "rows": archive.Rows, "sha256": fmt.Sprintf("%x", archive.SHA256)})
	}
	a.note("wrote %d rows to %q", archive.Rows, path)
	return nil
}

type auditPruneOptions struct {
	olderThan *time.Duration
	export    string
	action    string
	yes       bool
}

func newAuditPruneCmd(a *app) *cobra.Command {
	var o auditPruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Export old months of the audit log, and drop them",
		Long: `Export old months of the audit log, and drop them. A month is dropped when all of it is older than
--older-than and sealed. First it is written to FILE-YYYY-MM.jsonl beside FILE, flushed to disk and checked as audit
verify --export would; then it is dropped, and the SHA-256 of the file kept. The seals stay, so that the rest of the
log can still be verified. With --action only the rows of that action are dropped, reads for instance; their leaf
hashes stay.

It takes an admin token without a scope, and a database role that may read the log.`,
		Example: `  vaultctl audit prune --older-than 400d --export /archive/audit
  vaultctl audit prune --older-than 90d --action read --export /archive/reads --yes`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.olderThan == nil:
				return usage("--older-than is missing")
			case o.export == "":
				return usage("--export is missing: nothing is dropped that was not written to a file")
			case strings.HasPrefix(o.action, "audit."):
				return usage("--action %q: what the log says about itself goes with its whole month only", o.action)
			}
			return runAuditPrune(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.Var(durationFlag{&o.olderThan}, "older-than", "months that ended this long ago: 400d, ...")
	flags.StringVar(&o.export, "export", "", "beginning of the `file` names to export to")
	flags.StringVar(&o.action, "action", "", "only rows of this `action`")
	flags.BoolVar(&o.yes, "yes", false, "do not ask")
	return cmd
}

func runAuditPrune(ctx context.Context, a *app, o auditPruneOptions) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	log, err := a.log(ctx)
	if err != nil {
		return err
	}
	token := change.Token.Credential()
	if err := log.PreparePrune(ctx, token, uuid.New()); err != nil {
		return err
	}
	months, err := log.Months(ctx)
	if err != nil {
		return err
	}
	before := time.Now().Add(-*o.olderThan)
	var old []time.Time
	for _, m := range months {
		if !m.AddDate(0, 1, 0).After(before) {
			old = append(old, m)
		}
	}
	if len(old) == 0 {
		a.note("no month of the audit log is older than that")
		return a.printPruned([]auditdb.Pruned{})
	}
	what := fmt.Sprintf("%d months of the audit log, %s to %s,", len(old), monthName(old[0]), monthName(old[len(old)-1]))
	if o.action != "" {
		what = fmt.Sprintf("the rows of action %q of %s", o.action, what)
	}
	if err := a.confirm(ctx, o.yes, "prune", what+" go to files and leave the database."); err != nil {
		return err
	}
	pruned := []auditdb.Pruned{}
	for _, m := range old {
		p, err := pruneMonth(ctx, log, token, m, o)
		if err != nil {
			return errors.Join(fmt.Errorf("pruning %s: %w", monthName(m), err), a.printPruned(pruned))
		}
		if p.Rows > 0 {
			pruned = append(pruned, p)
		}
	}
	return a.printPruned(pruned)
}

// pruneMonth exports a month and drops it. The commit point is Prune's: a crash before it leaves a file and every
// row.
func pruneMonth(ctx context.Context, log *auditdb.Log, token db.Credential, month time.Time,
	o auditPruneOptions) (auditdb.Pruned, error) {
	path := fmt.Sprintf("%s-%s.jsonl", o.export, monthName(month))
	archive, err := writeArchive(ctx, log, path, archiving{month: month, action: o.action})
	if err != nil {
		return auditdb.Pruned{}, err
	}
	if archive.Rows == 0 {
		return auditdb.Pruned{}, os.Remove(path)
	}
	err = checkArchive(ctx, path)
	var pruned auditdb.Pruned
	if err == nil {
		pruned, err = log.Prune(ctx, token, uuid.New(), archive.Pruning)
	}
	if err != nil && !errors.Is(err, vault.ErrOutcomeUnknown) {
		os.Remove(path) // every row is still in the database
	}
	return pruned, err
}

// checkArchive verifies the written file as a reader will, once the rows are dropped.
func checkArchive(ctx context.Context, path string) error {
	file, err := seal.OpenFile(path)
	if err != nil {
		return err
	}
	report, err := seal.Verify(ctx, file, seal.Options{Partial: file.Partial()})
	switch {
	case errors.Is(err, seal.ErrTampered):
		return hint(attention("%s; nothing was dropped", err), "vaultctl audit verify")
	case err == nil && report.Unsealed > 0:
		return hint(conflict("%d rows are not sealed", report.Unsealed),
			"the sealer runs in vaultd on the primary: audit_seal_key")
	}
	return err
}

func monthName(m time.Time) string { return m.Format("2006-01") }

func (a *app) printPruned(pruned []auditdb.Pruned) error {
	if a.json() {
		return a.printJSON(pruned)
	}
	for _, p := range pruned {
		a.note("pruned %s: %d rows, sha256 %s", p.Month, p.Rows, p.SHA256)
	}
	return nil
}

// archiving chooses what is written: everything, a month, or the rows of one action in a month with the leaf hashes of
// its other rows.
type archiving struct {
	month    time.Time
	action   string
	progress func(int64)
}

// archive describes a written file. Its Leaves replace the rows of the action.
type archive struct{ auditdb.Pruning }

// writeArchive makes a new file, complete and flushed to disk, or none.
func writeArchive(ctx context.Context, log *auditdb.Log, path string, o archiving) (archive, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return archive{}, hint(conflict("file %q exists", path), "another name: an export is never overwritten")
	}
	if err != nil {
		return archive{}, fmt.Errorf("writing the archive: %w", err)
	}
	sum := sha256.New()
	x, err := copyArchive(ctx, log, io.MultiWriter(file, sum), o)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(path) // half an archive is useless; err is what to report
		return archive{}, err
	}
	x.Month, x.Action, x.SHA256 = o.month, o.action, sum.Sum(nil)
	return x, nil
}

func copyArchive(ctx context.Context, log *auditdb.Log, to io.Writer, o archiving) (archive, error) {
	var x archive
	source := log.Source(o.month)
	cluster, err := source.Cluster(ctx)
	if err != nil {
		return x, err
	}
	prunes, err := source.Prunes(ctx)
	if err != nil {
		return x, err
	}
	w, err := seal.NewWriter(to, seal.Header{Cluster: cluster, Partial: !o.month.IsZero(), Prunes: prunes})
	if err != nil {
		return x, fmt.Errorf("writing the archive: %w", err)
	}
	for e, err := range source.Entries(ctx, nil) {
		if err == nil {
			err = x.add(w, e, o)
		}
		if err != nil {
			return x, err
		}
		if o.progress != nil && e.Row != nil {
			o.progress(w.Rows())
		}
	}
	x.Rows = w.Rows()
	if err := w.Close(); err != nil {
		return x, fmt.Errorf("writing the archive: %w", err)
	}
	return x, nil
}

// add writes an entry, and packs the leaf hashes that will replace the rows of the action.
func (x *archive) add(w *seal.Writer, e seal.Entry, o archiving) error {
	var err error
	switch {
	case e.Seal != nil:
		x.LastSeal = max(x.LastSeal, e.Seal.ID)
		if o.action != "" && (len(x.Leaves) == 0 || len(x.Leaves[len(x.Leaves)-1]) > 0) {
			x.Seals, x.Leaves = append(x.Seals, 0), append(x.Leaves, nil)
		}
		if o.action != "" {
			x.Seals[len(x.Seals)-1] = e.Seal.ID
		}
	case e.Row != nil && o.action != "" && e.Row.Action != o.action:
		leaf, err := e.Row.Leaf()
		if err != nil {
			return err
		}
		e = seal.Entry{Leaf: &seal.Leaf{SystemID: e.Row.SystemID, Month: seal.Month(e.Row.At.Time), Tx: e.Row.Tx,
			ID: e.Row.ID, Hash: leaf}}
	case e.Row != nil && len(x.Leaves) > 0:
		last := &x.Leaves[len(x.Leaves)-1]
		*last, err = auditdb.PackLeaf(*last, e.Row)
	}
	if err != nil {
		return err
	}
	if err := w.Write(e); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
