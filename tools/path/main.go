// Command path measures how much of this module's source an operation of vaultd passes: packages, files and statements
// of a read, a put and a rotation.
//
//	go run ./tools/path         # a table
//	go run ./tools/path -v      # and the packages and files of each operation, with their statements
//
// It builds vaultd with coverage, runs it beside a vault in a PostgreSQL cluster of its own that it makes in a
// temporary folder and removes, and repeats each operation, one at a time. A statement is on the path of an operation
// if every repetition adds at least one run to those in a daemon that only starts and stops. Start-up and background
// rounds do not count, and neither does what one batch does for many operations, such as shipping records.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"text/tabwriter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "path:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("path", flag.ContinueOnError)
	verbose := flags.Bool("v", false, "name the packages and files of each operation")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	e, err := newEnv(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	idle, err := e.counts(ctx, "start-up", func(context.Context, *daemon) error { return nil })
	if err != nil {
		return err
	}
	var measured []figures
	for _, o := range operations {
		if err := e.prepare(ctx, o); err != nil {
			return fmt.Errorf("preparing the %s: %w", o.name, err)
		}
		counts, err := e.counts(ctx, o.name, func(ctx context.Context, d *daemon) error {
			for i := range repetitions {
				if err := o.do(ctx, e, d, o.secret(i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		measured = append(measured, figuresOf(o.name, counts, idle))
	}
	return table(out, measured, *verbose)
}

func table(out io.Writer, measured []figures, verbose bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "operation\tpackages\tfiles\tstatements")
	for _, p := range measured {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", p.operation, len(p.packages), len(p.files), p.statements)
	}
	if err := w.Flush(); err != nil || !verbose {
		return err
	}
	for _, p := range measured {
		fmt.Fprintf(out, "\n%s\n", p.operation)
		for _, name := range sorted(p.packages) {
			fmt.Fprintf(out, "  %-24s %4d\n", name, p.packages[name])
			for _, file := range sorted(p.files) {
				if path.Dir(file) == name {
					fmt.Fprintf(out, "    %-22s %4d\n", path.Base(file), p.files[file])
				}
			}
		}
	}
	return nil
}
