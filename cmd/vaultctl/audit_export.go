package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

func newAuditExportCmd(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [FILTER]",
		Short: "Write all events of a filter as lines of JSON, oldest first",
		Long: `Write all events of a filter as lines of JSON, oldest first, to standard output or to a new file. It reads in
short transactions, so that a long export delays neither vacuum nor a standby. It ends with the last event recorded
when it began.

` + filterHelp,
		Example: `  vaultctl audit export since:2026-11-01 until:2026-11-30 --to november.jsonl
  vaultctl audit export secret:prod/* | jq -r .actor | sort | uniq -c`,
		Args:              filterArgs,
		ValidArgsFunction: completeFilter(a),
		Annotations:       map[string]string{streamsKey: "jsonl"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output != "jsonl" && cmd.Flags().Changed("output") {
				return usage("audit export writes jsonl only")
			}
			return asAuditor(runAuditExport(cmd.Context(), a, args, output))
		},
	}
	cmd.Flags().StringVar(&output, "to", "", "write to a new `FILE`, complete or not at all")
	return cmd
}

func runAuditExport(ctx context.Context, a *app, args []string, output string) error {
	f, err := parseFilter(args)
	if err != nil {
		return err
	}
	log, err := a.log(ctx)
	if err != nil {
		return err
	}
	bar := a.newBar(output != "", func() (int64, error) { return estimate(ctx, log, f) })
	defer bar.clear()
	var events int64
	write := func(w io.Writer) error {
		return exportEvents(ctx, log, f, w, func(n int64) { events = n; bar.show(n) })
	}
	if output == "" {
		err = write(a.shown())
	} else {
		err = writeWhole(output, false, write)
	}
	if err != nil {
		return err
	}
	bar.clear()
	a.noteUnknownActions(f, int(events))
	if output != "" {
		a.note("%d events in %s", events, output)
	}
	return nil
}

// writeWhole writes a file completely or not at all, readable by its owner alone. Without replace, an existing file
// stays and is an error. A part that a killed command has left beside it is removed first.
func writeWhole(path string, replace bool, write func(io.Writer) error) error {
	switch info, err := os.Lstat(path); {
	case err == nil && !replace:
		return hint(conflict("%q is there already", path), "choose another name, or remove it")
	case err == nil && !info.Mode().IsRegular():
		return conflict("%q is not a regular file", path)
	}
	removeParts(path)
	file, err := os.CreateTemp(filepath.Dir(path), partPrefix(path)+"*")
	if err != nil {
		return fmt.Errorf("making %q: %w", path, reason(err))
	}
	defer os.Remove(file.Name()) // after a success the file has its other name
	defer file.Close()
	// Where a file system has no locks, removeParts gets none either, and removes nothing.
	_ = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	buffered := bufio.NewWriterSize(file, 1<<16)
	err = write(buffered)
	if err == nil {
		err = errors.Join(buffered.Flush(), file.Sync())
	}
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	if replace {
		err = os.Rename(file.Name(), path)
	} else if err = os.Link(file.Name(), path); errors.Is(err, fs.ErrExist) { // never over another file
		return conflict("%q is there already", path)
	}
	if err != nil {
		return fmt.Errorf("naming %q: %w", path, reason(err))
	}
	return nil
}

// partPrefix is how the names of the parts of a file begin; CreateTemp adds digits.
func partPrefix(path string) string { return "." + filepath.Base(path) + ".vaultctl-" }

// removeParts removes what commands that were killed have left of a file: parts that no process has locked. They may
// hold values. Its errors are those of a convenience.
func removeParts(path string) {
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), partPrefix(path))
		if !ok || digits == "" || strings.Trim(digits, "0123456789") != "" || !e.Type().IsRegular() {
			continue
		}
		part, err := os.OpenFile(filepath.Join(filepath.Dir(path), e.Name()), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(part.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(part.Name())
		}
		part.Close()
	}
}

// exportAtOnce is how many events one transaction reads.
const exportAtOnce = 2000

// exportEvents writes in the order of time, page by page.
func exportEvents(ctx context.Context, log *auditdb.Log, f filter.Filter, w io.Writer, progress func(int64)) error {
	if f.Until().IsZero() {
		f = f.With(filter.Term{Key: filter.Until, Time: time.Now()})
	}
	q := audit.Query{Filter: f, Newer: true, Limit: exportAtOnce}
	var written int64
	for {
		page, err := log.Events(ctx, q)
		if err != nil {
			return err
		}
		slices.Reverse(page.Rows)
		if err := writeLines(w, page.Rows); err != nil {
			return fmt.Errorf("writing the answer: %w", reason(err))
		}
		written += int64(len(page.Rows))
		progress(written)
		if q.From = page.Next; page.Next == nil {
			return nil
		}
	}
}

// estimate returns about how many events match.
func estimate(ctx context.Context, log *auditdb.Log, f filter.Filter) (int64, error) {
	to := f.Until()
	if to.IsZero() {
		to = time.Now()
	}
	counts, err := log.Counts(ctx, f, f.Since(), to, 60)
	var sum int64
	for _, c := range counts.Buckets {
		sum += c.Events
	}
	return sum, err
}

// bar shows progress on a terminal, and nothing elsewhere.
type bar struct {
	a     *app
	on    bool
	of    int64
	shown time.Time
}

const barEvery = 100 * time.Millisecond

// newBar queries the total only if the bar is visible.
func (a *app) newBar(toFile bool, estimate func() (int64, error)) *bar {
	b := &bar{a: a, on: term.IsTerminal(int(a.err.Fd())) && (toFile || !term.IsTerminal(int(a.out.Fd())))}
	if b.on {
		b.of, _ = estimate() // an error shows at the first page
	}
	return b
}

func (b *bar) show(n int64) {
	if !b.on || time.Since(b.shown) < barEvery {
		return
	}
	b.shown = time.Now()
	share := 0.0
	if b.of > 0 {
		share = min(float64(n)/float64(b.of), 0.99) // the total is an estimate
	}
	done := int(share * 30)
	fmt.Fprintf(b.a.err, "\r[%s%s] %3.0f%%  %d events\x1b[K", strings.Repeat("#", done), strings.Repeat(".", 30-done),
		share*100, n)
}

func (b *bar) clear() {
	if b.on {
		fmt.Fprint(b.a.err, "\r\x1b[K")
	}
	b.on = false
}
