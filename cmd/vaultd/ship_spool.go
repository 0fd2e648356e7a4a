package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/awsclient"
	"github.com/hyperiondb/vault/internal/db"
)

func newShipSpoolCmd(path *string, out, errOut io.Writer) *cobra.Command {
	var asNew bool
	cmd := &cobra.Command{
		Use:   "ship-spool DIR",
		Short: "Ship the reads in a spool's folder that no daemon uses any more",
		Long: `Ship the reads in a spool's folder that no daemon uses any more: of a dead node's disk, or one that was moved
away. They go to the primary's audit log (primary_database_url), each once however often this runs, and to audit_archive
if it is configured. Run it with the configuration of a daemon whose database role began the spool, or of one that was
granted that role. The folder stays; remove it when the command has succeeded. It has to be writable: copy a read-only
disk first.

A segment that cannot be read whole is renamed (*.seg.damaged), and what can be read of it is shipped. The command then
ships the rest and fails, exit code 1, each time it runs on that folder: the missing reads are audit.gap rows of the
audit log, or an audit.damaged row if their number is not known. Keep the folder until you know what they were.

A folder that was put back to an earlier state has other records under numbers that the primary has, and is refused.
With --as-new its records become those of a spool of their own: those from before are in the log twice then, and the
first record says so.`,
		Example: `  vaultd ship-spool --config /etc/vault/vaultd.toml /mnt/db3/var/lib/vaultd/spool
  vaultd ship-spool --config /etc/vault/vaultd.toml --as-new /var/lib/vaultd/spool.before-restore`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%w: ship-spool takes one folder", errConfig)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := loadConfig(*path, os.Environ())
			if err != nil {
				return err
			}
			return shipSpool(cmd.Context(), config, args[0], asNew, out, newLogger(errOut, config.LogFormat, config.level))
		},
	}
	cmd.Flags().BoolVar(&asNew, "as-new", false, "ship a folder that was put back to an earlier state as another spool")
	return cmd
}

func shipSpool(ctx context.Context, c Config, dir string, asNew bool, out io.Writer, log *slog.Logger) error {
	if err := isFolder(dir); err != nil {
		return err
	}
	fence, err := openFence(c.StateDir, log)
	if err != nil {
		return err
	}
	reader, err := db.NewReader(ctx, db.Options{URL: c.DatabaseURL, ApplicationName: applicationName, Fence: fence})
	if err != nil {
		return err
	}
	defer reader.Close()
	writer, err := db.NewWriter(ctx, db.Options{URL: c.writerURL(), ApplicationName: applicationName, Fence: fence})
	if err != nil {
		return err
	}
	defer writer.Close()
	auditLog := auditdb.New(reader, writer)
	kept, err := openArchive(awsclient.WithCredentialsFile(ctx, c.AWSCredentialsFile), c, auditLog)
	if err != nil {
		return err
	}
	s, err := spool.Open(spool.Options{Dir: dir, Existing: true, Archived: kept != nil,
		// Nothing is removed, and there is room for the spool's own notes.
		KeepShipped: math.MaxInt64, MaxBytes: math.MaxInt64,
	})
	switch {
	case errors.Is(err, spool.ErrInUse):
		return fmt.Errorf("%q: %w: it ships its reads itself", dir, err)
	case errors.Is(err, spool.ErrNoSpool):
		return fmt.Errorf("%w: %q: %w (*.seg)", errConfig, dir, spool.ErrNoSpool)
	case err != nil:
		return fmt.Errorf("%q: %w", dir, err)
	}
	defer s.Close()
	var to spool.Archive // nil without an archive, which a nil *archive.Archive in it would not be
	if kept != nil {
		to = kept
	}
	if err := drainSpool(ctx, &spool.Shipper{Spool: s, Primary: auditLog, Log: log}, to, asNew, out); err != nil {
		return err
	}
	return whole(s, dir)
}

// errSetAside is of a folder that was shipped as far as it can be read.
var errSetAside = errors.New("it has damaged segments")

const asideShown = 3 // names of files in one error

// whole fails if a segment of the folder could not be read whole.
func whole(s *spool.Spool, dir string) error {
	aside, err := s.SetAside()
	if err != nil {
		return fmt.Errorf("%q: %w", dir, err)
	}
	if len(aside) == 0 {
		return nil
	}
	more := ""
	if n := len(aside) - asideShown; n > 0 {
		aside, more = aside[:asideShown], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Errorf("%q: %w: %s%s; some of their records cannot be read, all others are shipped", dir, errSetAside,
		strings.Join(aside, ", "), more)
}

// isFolder refuses a path that is no folder before anything is made there.
func isFolder(dir string) error {
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no folder %q", errConfig, dir)
	case err != nil:
		return fmt.Errorf("%w: %w", errConfig, err)
	case !info.IsDir():
		return fmt.Errorf("%w: %q is not a folder", errConfig, dir)
	}
	return nil
}

func drainSpool(ctx context.Context, shipper *spool.Shipper, kept spool.Archive, asNew bool, out io.Writer) error {
	stats := shipper.Spool.Stats()
	if asNew {
		boot, records, err := shipper.DrainAsNew(ctx)
		if err != nil {
			return fmt.Errorf("shipping: %w", err)
		}
		_, err = fmt.Fprintf(out, "%d records of node %q are on the primary as spool %s; they were those of %s\n", records,
			stats.Node, boot, stats.Boot)
		return err
	}
	records, err := shipper.Drain(ctx)
	if err != nil {
		return fmt.Errorf("shipping: %w", err)
	}
	aside, err := shipper.Spool.SetAside()
	if err != nil {
		return err
	}
	all := "all records"
	if len(aside) > 0 {
		all = "all records that can be read"
	}
	if _, err := fmt.Fprintf(out, "%s of node %q (spool %s) are on the primary, %d of them now\n", all, stats.Node,
		stats.Boot, records); err != nil {
		return err
	}
	if kept == nil {
		return nil
	}
	archiver := &spool.Archiver{Spool: shipper.Spool, Archive: kept, Log: shipper.Log}
	if err := archiver.Finish(ctx); err != nil {
		return fmt.Errorf("archiving: %w", err)
	}
	_, err = fmt.Fprintf(out, "they are in the archive, in %d files of this folder\n", archiver.State().Segments)
	return err
}
