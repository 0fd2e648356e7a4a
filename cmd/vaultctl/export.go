package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/strictjson"
	"github.com/hyperiondb/vault/internal/vault"
)

// exportPage is how many secrets are read, put on record and written together.
const exportPage = 100

type exportOptions struct {
	file     string
	prefix   string
	format   string
	name     string // of the Kubernetes Secret
	settings bool
	force    bool
	yes      bool
	record   onRecord
}

func newExportCmd(a *app) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write the values of many secrets, in the clear",
		Long: `Write the current values of many secrets to FILE, or to standard output (-), in the order of the names.

  jsonl       a JSON object a line, which import reads. Values that are not text are in "value_base64".
  dotenv      NAME='value' lines in a spelling that all programs read alike; --prefix is left out of the names, which
              become those of variables: prod/app/db-password under prod/app/ is DB_PASSWORD
  json        one JSON object of names and values
  kubernetes  the manifest of the Secret of --name, for kubectl apply -f; --prefix is left out of its keys, and "/"
              is "."

A secret that cannot be opened, or that the format cannot hold, is named, and the exit code is 7. jsonl then has the
others, if there are any. No other format makes a FILE, since it would look complete. On standard output a JSON document
stops at that secret and is not valid, and dotenv has the others' lines: set -o pipefail, or take a FILE. No secret at
all is an error, exit code 3, and nothing is written.

FILE is readable by its owner alone. It replaces an existing file only with --force. It holds the secrets in the clear:
pipe the output into a program that encrypts it, or remove FILE soon.

Each read is recorded at the primary before the value is written, as with get; --unaudited reads without a record. Any
node will do. A secret that is changed meanwhile has its old or its new value.

--settings adds what else import can set. Leave it out for a second vault beside this one: both would rotate the same
targets.`,
		Example: `  vaultctl export --prefix prod/ - | age -r age1... > prod.jsonl.age
  vaultctl export --settings all.jsonl
  vaultctl export --prefix prod/app/ --format dotenv app.env
  vaultctl export --prefix prod/app/ --format kubernetes --name app - | kubectl apply -f -
  vaultctl export - --database-url postgres://old/vault | vaultctl import - --format jsonl`,
		Args:              exactArgs("FILE"),
		ValidArgsFunction: completeFile,
		Annotations:       map[string]string{streamsKey: "jsonl"},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			if err := o.checkFormat(); err != nil {
				return err
			}
			if cmd.Flags().Changed("output") && a.output != o.format {
				return usage("--output %s does not go with export: --format says what it writes, here %s", a.output, o.format)
			}
			return runExport(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.prefix, "prefix", "", "only secrets whose names begin with `PREFIX`")
	flags.StringVar(&o.format, "format", "jsonl", strings.Join(exportFormats, ", "))
	flags.StringVar(&o.name, "name", "", "the `NAME` of the Kubernetes Secret")
	completeWords(cmd, "format", exportFormats...)
	flags.BoolVar(&o.settings, "settings", false, "add generator, rotate_every, grace, rotator and window")
	flags.BoolVar(&o.force, "force", false, "replace FILE if it is there")
	flags.BoolVar(&o.yes, "yes", false, "write values to a terminal")
	o.record.register(cmd)
	completeNameFlag(a, cmd, "prefix")
	return cmd
}

func runExport(ctx context.Context, a *app, o exportOptions) error {
	if o.file == "-" && !o.yes && term.IsTerminal(int(a.out.Fd())) {
		return hint(declined("the values would be on the screen"), "vaultctl export FILE, or --yes")
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	x := &exporting{a: a, vault: v, o: o, format: o.formatter(), buffer: make([]byte, 0, longestLine)}
	defer func() { clear(x.buffer[:cap(x.buffer)]) }()
	if x.done, err = x.progress(ctx); err != nil {
		return err
	}
	o.record.warnUnaudited(a)
	if o.file == "-" {
		x.screen.to = a.shown()
		err = x.run(ctx, &x.screen)
		x.endLine()
	} else {
		err = writeWhole(o.file, o.force, func(w io.Writer) error { return x.run(ctx, w) })
		if errors.Is(err, vault.ErrConflict) && !o.force {
			err = hint(err, "another name, or --force to replace it")
		}
	}
	x.done()
	return x.outcome(err)
}

// errNothing and errIncomplete end an export whose output must not be taken for a complete one, so that no file gets
// its name.
var (
	errNothing    = errors.New("no secret was found")
	errIncomplete = errors.New("a secret is missing")
)

// outcome reports what was written, and is the error of the whole run.
func (x *exporting) outcome(err error) error {
	missing := plural(x.failed, "secret is", "secrets are") + " missing"
	switch {
	case errors.Is(err, errNothing):
		what := "no secret that this role sees"
		if x.o.prefix != "" {
			what = "no secret" + under(x.o.prefix)
		}
		return hint(&kindError{vault.ErrNotFound, what}, "vaultctl list")
	case errors.Is(err, errIncomplete) && x.o.file != "-":
		return attention("%s, so %q was not written", missing, x.o.file)
	case errors.Is(err, errIncomplete) && !x.begun:
		return attention("%s, so nothing was written", missing)
	case errors.Is(err, errIncomplete):
		return attention("%s, so the output was cut off: it is no valid JSON", missing)
	case err != nil:
		return err
	}
	if x.o.file != "-" {
		x.a.note("%s in %s", plural(x.written, "secret", "secrets"), x.o.file)
	}
	if x.failed > 0 {
		return attention("%s from the export", missing)
	}
	return nil
}

// exporting is one run.
type exporting struct {
	a      *app
	vault  *vault.Vault
	o      exportOptions
	format exportFormat

	buffer          []byte // of one line, wiped at the end
	written, failed int
	begun           bool // the beginning of the format was written
	tick            func(int64)
	done            func()
	screen          lineWriter // of standard output
}

// lineWriter knows whether the line that was written last is still open.
type lineWriter struct {
	to   io.Writer
	open bool
}

func (l *lineWriter) Write(text []byte) (int, error) {
	if len(text) > 0 {
		l.open = text[len(text)-1] != '\n'
	}
	return l.to.Write(text)
}

// endLine puts a message on a terminal into a line of its own: white space between the parts of a JSON text is free.
func (x *exporting) endLine() {
	if x.screen.open && term.IsTerminal(int(x.a.out.Fd())) {
		fmt.Fprintln(&x.screen)
	}
}

func (x *exporting) progress(ctx context.Context) (done func(), err error) {
	// A bar would be drawn over values that are shown.
	if !term.IsTerminal(int(x.a.err.Fd())) || x.o.file == "-" && term.IsTerminal(int(x.a.out.Fd())) {
		return func() {}, nil
	}
	total, err := x.vault.CountLive(ctx, x.o.prefix)
	return x.a.progress("secrets", total, &x.tick), err
}

// run writes nothing before the first secret.
func (x *exporting) run(ctx context.Context, w io.Writer) error {
	if err := x.pages(ctx, w); err != nil {
		return err
	}
	switch {
	case x.written == 0 && x.failed == 0:
		return errNothing
	case x.failed > 0 && (x.written == 0 || x.format.whole() || x.o.file != "-" && x.o.format != "jsonl"):
		return errIncomplete
	}
	return x.write(w, []byte(x.format.end()))
}

func (x *exporting) write(w io.Writer, text []byte) error {
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("writing the values: %w", reason(err))
	}
	return nil
}

func (x *exporting) pages(ctx context.Context, w io.Writer) error {
	after := ""
	for {
		page, err := x.vault.Export(ctx, x.o.prefix, after, exportPage)
		if err != nil {
			return err
		}
		err = x.page(ctx, w, page)
		vault.WipeAll(page)
		if err != nil {
			return err
		}
		if len(page) < exportPage {
			return nil
		}
		after = page[len(page)-1].Name
	}
}

func (x *exporting) page(ctx context.Context, w io.Writer, page []vault.Exported) error {
	var events []audit.Event
	for _, e := range page {
		events = append(events, eventOf(e))
	}
	if err := x.o.record.recordReads(ctx, x.a, events); err != nil {
		return err
	}
	for _, e := range page {
		err := e.Err
		if err == nil {
			x.buffer, err = x.format.append(x.buffer[:0], e)
		}
		if err != nil {
			x.failed++
			x.done()
			x.endLine()
			x.a.note("failed: %q: %s", e.Name, printable(messageOf(err)))
			continue
		}
		if x.failed > 0 && x.format.whole() { // the rest is read for the names of those that fail too
			continue
		}
		if !x.begun {
			x.begun = true
			if err := x.write(w, []byte(x.format.begin())); err != nil {
				return err
			}
		}
		if err := x.write(w, x.buffer); err != nil {
			return err
		}
		if x.written++; x.tick != nil {
			x.tick(int64(x.written))
		}
	}
	return nil
}

// eventOf is the audit event of one read in bulk.
func eventOf(e vault.Exported) audit.Event {
	if e.Err == nil {
		return vault.AuditedGet(e.Name, &e.Secret)
	}
	return audit.Event{Action: audit.Read, Secret: e.Name, Version: e.Version, Outcome: audit.Failed,
		Detail: map[string]any{"reason": failureReason(e.Err)}}
}

func failureReason(err error) string {
	switch {
	case errors.Is(err, vault.ErrIntegrity):
		return "integrity"
	case errors.Is(err, vault.ErrKeyRefused):
		return "key_refused"
	}
	return "unavailable"
}

// appendExported writes a line that import reads. The buffer has room for any line, so it never grows and leaves no
// copy of a value.
func appendExported(line []byte, e vault.Exported, settings bool) []byte {
	line = strictjson.AppendString(append(line, `{"name":`...), []byte(e.Name))
	if utf8.Valid(e.Value) {
		line = strictjson.AppendString(append(line, `,"value":`...), e.Value)
	} else {
		line = append(line, `,"value_base64":"`...)
		line = append(base64.StdEncoding.AppendEncode(line, e.Value), '"')
	}
	if settings {
		line = appendSettings(line, e.Settings)
	}
	return append(line, "}\n"...)
}

func appendSettings(line []byte, s vault.Settings) []byte {
	interval := func(d *time.Duration) *string {
		if d == nil {
			return nil
		}
		text := rotation.FormatInterval(*d)
		return &text
	}
	for _, field := range []struct {
		name string
		text *string
	}{{"generator", s.Generator}, {"rotate_every", interval(s.RotateEvery)}, {"grace", interval(s.Grace)},
		{"rotator", s.Rotator}, {"window", s.Window}} {
		if field.text != nil {
			line = append(line, `,"`+field.name+`":`...)
			line = strictjson.AppendString(line, []byte(*field.text))
		}
	}
	return line
}
