package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/hyperiondb/vault/internal/audit"
	readarchive "github.com/hyperiondb/vault/internal/audit/archive"
	"github.com/hyperiondb/vault/internal/audit/bucket"
)

// openArchive opens an archive that is only read.
func openArchive(ctx context.Context, where string) (*readarchive.Archive, error) {
	if where == "" {
		return nil, usage("--archive is empty")
	}
	kept, err := readarchive.Open(ctx, where, nil)
	if errors.Is(err, bucket.ErrURI) {
		return nil, usage("--archive: %s", err)
	}
	return kept, err
}

// archiveError names a folder that is not there.
func archiveError(where string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usage("--archive: there is no folder %q", where)
	case errors.Is(err, readarchive.ErrEmpty):
		return noReads(where)
	case errors.Is(err, readarchive.ErrDamaged):
		return hint(fmt.Errorf("--archive: %w", err), "vaultctl audit verify --archive %s lists all that does not fit", where)
	}
	return fmt.Errorf("--archive: %w", err)
}

func noReads(where string) error {
	return hint(attention("%q has no reads", where),
		"audit_archive of vaultd says where they are; below it is a folder reads")
}

func runArchiveList(ctx context.Context, a *app, where string, args []string, limit int) error {
	f, err := parseFilter(args)
	if err != nil {
		return err
	}
	kept, err := openArchive(ctx, where)
	if err != nil {
		return err
	}
	defer kept.Close()
	events, err := kept.List(ctx, f, limit)
	if err != nil {
		return archiveError(where, err)
	}
	switch {
	case a.json():
		return a.printJSON(events)
	case a.jsonl():
		return printLines(a, events)
	}
	rows := make([][]string, len(events))
	for i, e := range events {
		from, version, text := e.Client, "", ""
		if from == "" {
			from = "local"
		}
		if e.Version != 0 {
			version = strconv.Itoa(e.Version)
		}
		if len(e.Detail) > 0 {
			raw, err := json.Marshal(e.Detail)
			if err != nil {
				return err
			}
			text = detail(audit.Row{Action: e.Action, Detail: raw})
		}
		rows[i] = []string{at(e.At), e.Actor, e.Action, e.Secret, version, string(e.Outcome), e.Node, from, text}
	}
	return a.printEvents(f, rows)
}

type archiveVerdict struct {
	OK bool `json:"ok"`
	readarchive.Report
}

func runArchiveVerify(ctx context.Context, a *app, where string) error {
	kept, err := openArchive(ctx, where)
	if err != nil {
		return err
	}
	defer kept.Close()
	var options readarchive.Options
	options.Compare, err = comparison(ctx, a)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		a.note("the ends of the spools were not compared with the primary's: %s", printable(messageOf(err)))
	}
	done := a.progress("records", 0, &options.Progress)
	report, err := kept.Verify(ctx, options)
	done()
	if err != nil {
		return archiveError(where, err)
	}
	if report.Files == 0 && len(report.Faults) == 0 {
		return noReads(where)
	}
	if err := a.printArchiveVerdict(archiveVerdict{OK: len(report.Faults) == 0, Report: report}); err != nil {
		return err
	}
	if n := len(report.Faults); n > 0 {
		return hint(attention("%d of the archive's files or spools do not fit, the first: %s", n, report.Faults[0]),
			"compare with the audit log: vaultctl audit list action:audit.gap action:audit.damaged")
	}
	return nil
}

// comparison returns the function that reads what the database has of the spools, if it can.
func comparison(ctx context.Context, a *app) (func(context.Context) (readarchive.Compared, error), error) {
	log, err := a.log(ctx)
	if err != nil {
		return nil, err
	}
	compare := func(ctx context.Context) (with readarchive.Compared, err error) {
		if with.Cluster, err = log.Cluster(ctx); err != nil {
			return with, err
		}
		primary, err := log.IsPrimary(ctx)
		if err != nil {
			return with, err
		}
		with.Standby = !primary
		with.Ledgers, err = log.Ledgers(ctx)
		return with, err
	}
	_, err = compare(ctx)
	if err != nil {
		return nil, err
	}
	return compare, nil
}

func (a *app) printArchiveVerdict(v archiveVerdict) error {
	if a.json() {
		return a.printJSON(v)
	}
	answer := "fits"
	if !v.OK {
		answer = "DOES NOT FIT"
	}
	fields := []string{"archive", answer, "files", strconv.FormatInt(v.Files, 10), "reads",
		strconv.FormatInt(v.Records, 10), "bytes", strconv.FormatInt(v.Bytes, 10)}
	for _, s := range v.Spools {
		text := fmt.Sprintf("%s, records %d to %d", s.Boot, s.First, s.Next-1)
		if s.Until != nil {
			text += ", until " + at(*s.Until)
		}
		for _, more := range []struct {
			n    uint64
			what string
		}{
			{s.First - 1, "older ones have expired or were removed"}, {s.Repeated, "are in two files"},
			{s.Lost, "are on record as lost"}, {s.Behind, "newer ones are on the primary and not here yet"},
			{s.Ahead, "are not on this standby yet"},
		} {
			if more.n > 0 {
				text += fmt.Sprintf("; %d %s", more.n, more.what)
			}
		}
		if s.Unlisted {
			text += "; the primary does not know this spool"
		}
		fields = append(fields, "node "+printable(s.Node), text)
	}
	if v.Absent > 0 {
		fields = append(fields, "not archived", fmt.Sprintf("%d spools of which the primary has records", v.Absent))
	}
	if v.Others > 0 {
		fields = append(fields, "other files", strconv.Itoa(v.Others))
	}
	for _, f := range v.Faults {
		fields = append(fields, "fault", f.String())
	}
	return a.printFields(fields...)
}
