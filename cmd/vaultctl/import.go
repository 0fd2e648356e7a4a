package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/strictjson"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	// A batch is one transaction: so many secrets at most, and so many bytes of values, whichever comes first.
	importBatch      = 100
	importBatchBytes = 512 << 10
	// connectionTries of the last writer take half a minute if the server has no free connection.
	connectionTries = 6
)

type importOptions struct {
	file        string
	format      string // jsonl, env or one of documentFormats
	name        string // of the secret, if the input does not say it
	prefix      string
	onConflict  string
	dryRun      bool
	stopOnError bool
	concurrency int
}

func newImportCmd(a *app) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Store many secrets from a file",
		Long: `Store many secrets from a file, or from standard input (-). It is read as a stream, however long it is, and
stored in batches by several writers: at most --concurrency, fewer if the server gives fewer connections.

  jsonl   a JSON object a line: {"name": ..., "value": ...}, or "value_base64" for what is not text. Settings may
          follow, in the notation of put's flags: "generator", "rotate_every", "grace", "rotator", "window". export
          writes this.
  env     NAME=value lines, as in a .env file. What programs read differently ($, #, escapes, blanks) is refused:
          NAME='value' takes all but a quote, "${", a carriage return and two backslashes as it stands.

  vault-kv, aws, chamber, infisical, sops, json
          documents that other programs write; docs/MIGRATE.md has the commands. They are read whole, up to 64 MiB.
          Of vault-kv, FILE may be a folder of files NAME.json, or links to such; any other entry fails. json is an
          object of values; one inside it is a folder.

The file's name decides between jsonl and env, or --format says it. Values are taken byte for byte.

A name that exists with the same value is left as it is; with another one the line fails, unless --on-conflict is skip
(existing secrets are left, and not compared) or update (they get a new version). A line that fails is named by its
number, a secret of a document also by its name, and in a folder by its file; the others go on, and the exit code is 7,
as for an input without secrets. After an interruption, run the same command again: stored secrets are skipped.
--dry-run checks every line or secret and shows what exists.`,
		Example: `  vaultctl import secrets.jsonl
  vaultctl import .env --prefix prod/app/ --dry-run
  aws secretsmanager get-secret-value --secret-id prod/db | vaultctl import - --format aws
  vaultctl export --prefix prod/ - --database-url postgres://old/vault | vaultctl import - --format jsonl`,
		Args:              exactArgs("FILE"),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(args[0]); err != nil {
				return err
			}
			return runImport(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.format, "format", "", strings.Join(importFormats(), ", ")+" (default: by the file's name)")
	flags.StringVar(&o.name, "name", "", "the `NAME` of the secret, for one document of vault-kv (default: the file's)")
	flags.StringVar(&o.prefix, "prefix", "", "put `PREFIX` before every name, e.g. prod/app/")
	flags.StringVar(&o.onConflict, "on-conflict", string(vault.FailOnConflict),
		"what to do with names that exist: fail, skip or update")
	flags.BoolVar(&o.dryRun, "dry-run", false, "check everything and show what exists; store nothing")
	flags.BoolVar(&o.stopOnError, "stop-on-error", false, "read no further after a line or a secret that fails")
	flags.IntVar(&o.concurrency, "concurrency", 8,
		"how many batches are stored at the same time, 1 to 64, each over one connection")
	completeWords(cmd, "format", importFormats()...)
	completeWords(cmd, "on-conflict", "fail", "skip", "update")
	completeNameFlag(a, cmd, "prefix")
	return cmd
}

func (o *importOptions) parse(file string) error {
	o.file = file
	if o.format == "" {
		o.format = formatOf(file)
	}
	switch {
	case o.format == "":
		return hint(usage("the format of %q is not known by its name", file), "--format %s",
			strings.Join(importFormats(), ", "))
	case !slices.Contains(importFormats(), o.format):
		return usage("--format takes %s, not %q", strings.Join(importFormats(), ", "), o.format)
	case o.name != "" && o.format != "vault-kv":
		return usage("--name goes with --format vault-kv: other formats have names")
	case o.name != "" && envelope.CheckName(o.prefix+o.name) != nil:
		return envelope.CheckName(o.prefix + o.name)
	}
	switch vault.OnConflict(o.onConflict) {
	case vault.FailOnConflict, vault.SkipOnConflict, vault.UpdateOnConflict:
	default:
		return usage("--on-conflict takes fail, skip or update, not %q", o.onConflict)
	}
	if o.concurrency < 1 || o.concurrency > 64 {
		return usage("--concurrency is 1 to 64")
	}
	if o.prefix != "" && envelope.CheckName(o.prefix+"x") != nil {
		return usage("--prefix is what names begin with, such as prod/app/, not %q", o.prefix)
	}
	return nil
}

// importFormats are the values of --format.
func importFormats() []string {
	return append([]string{"jsonl", "env"}, slices.Sorted(maps.Keys(documentFormats))...)
}

func formatOf(file string) string {
	switch base := filepath.Base(file); {
	case file == "-":
		return ""
	case strings.HasSuffix(base, ".jsonl"), strings.HasSuffix(base, ".ndjson"):
		return "jsonl"
	case strings.HasSuffix(base, ".env"), strings.HasPrefix(base, ".env."):
		return "env"
	}
	return ""
}

func completeFile(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// completeWords offers the words that a flag takes.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	// It fails only if the flag does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// importing is one run and its answer in JSON.
type importing struct {
	DryRun    bool            `json:"dry_run"`
	Entries   int64           `json:"entries"` // read, with any result
	Created   int64           `json:"created"`
	Updated   int64           `json:"updated"`
	Unchanged int64           `json:"unchanged"`
	Skipped   int64           `json:"skipped"`
	Existing  int64           `json:"existing"` // of a dry run: not compared
	Failed    int64           `json:"failed"`
	Failures  []importFailure `json:"failures"` // the first of them

	a      *app
	vault  *vault.Vault
	change vault.Change
	token  db.TokenRow
	o      importOptions
	input  *importInput

	mu         sync.Mutex // guards the counts, the terminal and the next three
	writers    int
	handedOver [][]entry // batches of writers that ended early
	fields     bool      // an unknown field was found, and the known ones were printed

	tick func(int64)
	done func()     // removes what tick shows
	stop func()     // ends reading
	seen *seenNames // used by the reading goroutine only
}

type importFailure struct {
	File  string `json:"file,omitempty"` // of a folder
	Line  int    `json:"line,omitempty"` // none if the file as a whole cannot be read
	Name  string `json:"name,omitempty"`
	Error string `json:"error"`
}

func runImport(ctx context.Context, a *app, o importOptions) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.primary(ctx, o.concurrency)
	if err != nil {
		return err
	}
	token, err := v.OwnToken(ctx, change) // for its scope, and to reject a bad token before a long file is read
	if err != nil {
		return err
	}
	input, err := o.open(ctx, a)
	if err != nil {
		return err
	}
	defer input.close()
	r := &importing{DryRun: o.dryRun, Failures: []importFailure{}, a: a, vault: v, change: change, token: token, o: o,
		input: input, seen: newSeenNames()}
	r.done = a.progressBy("secrets", input.partRead(), &r.tick)
	err = r.run(ctx)
	r.done()
	if errors.Is(err, errUsage) { // the input cannot be read, so there is nothing to count
		return err
	}
	return errors.Join(r.print(), r.outcome(err))
}

// importInput is what an import reads.
type importInput struct {
	entries
	lines     *lines     // nil of documents
	documents *documents // nil of lines
	folder    bool       // of files
	file      *os.File
	size      int64 // 0 if it is not known
}

func (o importOptions) open(ctx context.Context, a *app) (*importInput, error) {
	in := &importInput{file: a.in}
	if info, err := os.Stat(o.file); err == nil && info.IsDir() && o.format == "vault-kv" {
		if o.name != "" {
			return nil, usage("--name is of one document, and %q is a folder of files NAME.json", o.file)
		}
		sources, err := folderOf(o.file)
		in.documents = &documents{sources: sources, format: vaultKV}
		in.entries, in.folder = in.documents, true
		return in, err
	}
	if o.file == "-" {
		if term.IsTerminal(int(a.in.Fd())) {
			return nil, usage("standard input is the terminal: what is typed there can be seen")
		}
	} else if err := in.openFile(a, o.file); err != nil {
		return nil, err
	}
	if format, ok := documentFormats[o.format]; ok {
		name := o.name
		if name == "" && o.file != "-" {
			name = strings.TrimSuffix(filepath.Base(o.file), ".json")
		}
		from := io.NopCloser(newInterruptible(ctx, in.file))
		in.documents = &documents{format: format, named: o.name != "", sources: []documentSource{{"", name,
			func() (io.ReadCloser, error) { return from, nil }}}}
		in.entries = in.documents
		return in, nil
	}
	in.lines = newLines(newInterruptible(ctx, in.file))
	if o.format == "env" {
		in.entries = dotenv{in.lines}
	} else {
		in.entries = jsonLines{in.lines}
	}
	return in, nil
}

func (in *importInput) openFile(a *app, path string) (err error) {
	if in.file, err = os.Open(path); err != nil {
		return fmt.Errorf("reading %q: %w", path, reason(err))
	}
	info, err := in.file.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("reading %q: %w", path, reason(err))
	case info.IsDir():
		return usage("%q is a folder", path)
	case info.Mode().IsRegular():
		if in.size = info.Size(); info.Mode().Perm()&0o077 != 0 {
			a.note("warning: others can read %q (mode %04o): chmod 600 %s", path, info.Mode().Perm(), shellPath(path))
		}
	}
	return nil
}

func (in *importInput) close() {
	if in.lines != nil {
		in.lines.wipe()
	}
	if in.documents != nil {
		in.documents.wipe()
	}
	in.file.Close()
}

// partRead returns the part of the file that has been read; nil if its size is unknown.
func (in *importInput) partRead() func(int64) float64 {
	if in.size == 0 || in.lines == nil {
		return nil
	}
	return func(int64) float64 { return float64(in.lines.read.Load()) / float64(in.size) }
}

// run reads until the end, the first error that all other batches would meet too, or, with --stop-on-error, the first
// line that fails. It finishes the batches under way, which bound its memory.
func (r *importing) run(ctx context.Context) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	r.stop = stop
	batches := make(chan []entry)
	var group errgroup.Group
	group.Go(func() error {
		defer close(batches)
		return r.read(ctx, reading, batches)
	})
	r.writers = r.o.concurrency
	for range r.o.concurrency {
		group.Go(func() error {
			err := r.write(ctx, batches)
			if err != nil {
				stop()
			}
			return err
		})
	}
	err := group.Wait()
	for _, batch := range r.handedOver { // after an error
		wipeEntries(batch)
	}
	return err
}

// write stores batches, then those that other writers handed over.
func (r *importing) write(ctx context.Context, batches <-chan []entry) error {
	for batch := range batches {
		if more, err := r.storeAll(ctx, batch); err != nil || !more {
			return err
		}
	}
	for {
		batch := r.takeHandedOver()
		if batch == nil {
			return nil
		}
		if more, err := r.storeAll(ctx, batch); err != nil || !more {
			return err
		}
	}
}

// storeAll stores a batch. A writer for which the server has no connection leaves its batch to the others and ends; the
// last writer tries connectionTries times.
func (r *importing) storeAll(ctx context.Context, batch []entry) (more bool, err error) {
	for try := 1; ; try++ {
		batch, err = r.store(ctx, batch)
		switch {
		case !db.IsFull(err) || ctx.Err() != nil:
			wipeEntries(batch)
			return true, err
		case r.handOver(batch):
			return false, nil
		case try == connectionTries:
			wipeEntries(batch)
			return false, err
		}
	}
}

// handOver gives a batch to the other writers. It returns false if there is none.
func (r *importing) handOver(batch []entry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writers == 1 {
		return false
	}
	r.writers--
	r.handedOver = append(r.handedOver, batch)
	return true
}

// takeHandedOver returns a batch that another writer handed over. If there is none it returns nil and the writer ends:
// the last writer hands none over, so none is lost.
func (r *importing) takeHandedOver() []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.handedOver) == 0 {
		r.writers--
		return nil
	}
	batch := r.handedOver[0]
	r.handedOver = r.handedOver[1:]
	return batch
}

func (r *importing) read(ctx, reading context.Context, batches chan<- []entry) error {
	for {
		batch, err := r.batch(reading)
		if len(batch) > 0 {
			select {
			case batches <- batch:
			case <-reading.Done():
				wipeEntries(batch)
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errStopped):
			return nil
		case reading.Err() != nil:
			return ctx.Err() // nil if a writer stopped the reading: write returns its error
		case err != nil:
			return fmt.Errorf("reading %s: %w", inputName(r.o.file), reason(err))
		}
	}
}

func inputName(file string) string {
	if file == "-" {
		return "standard input"
	}
	return strconv.Quote(file)
}

// errStopped ends the reading at a line that failed, with --stop-on-error.
var errStopped = errors.New("stopped at a line that failed")

// batch reads the next entries. Entries returned together with an error are valid.
func (r *importing) batch(reading context.Context) (batch []entry, err error) {
	size := 0
	for len(batch) < importBatch && size < importBatchBytes && reading.Err() == nil {
		e, err := r.input.next()
		var ofLine *lineError
		if err != nil && !errors.As(err, &ofLine) {
			return batch, err
		}
		if err == nil {
			e.Name = r.o.prefix + e.Name
			if err := r.admit(e); err != nil {
				clear(e.Value)
				ofLine = &lineError{e.place, r.inDocument(e.Name, err)}
			}
		}
		if ofLine == nil {
			batch, size = append(batch, e), size+len(e.Value)
			continue
		}
		if r.fail(ofLine.place, "", ofLine.err); r.o.stopOnError {
			return batch, errStopped
		}
	}
	return batch, nil
}

// admit rejects entries that the vault would reject, before a data key is made for them.
func (r *importing) admit(e entry) error {
	if err := envelope.CheckName(e.Name); err != nil {
		return err
	}
	if !strings.HasPrefix(e.Name, r.token.Scope) {
		return fmt.Errorf("%q is outside of the token's scope %q", e.Name, r.token.Scope)
	}
	switch first, seen := r.seen.again(e.Name, e.place); {
	case seen && first.file != "":
		return fmt.Errorf("%q is in %s already", e.Name, first)
	case seen:
		return fmt.Errorf("%q is on %s already", e.Name, first)
	}
	return nil
}

// inDocument names a secret of a document, which may have all of them on one line. Of a line the number is enough, and
// its name may be a value in the wrong place.
func (r *importing) inDocument(name string, err error) error {
	if r.input.documents == nil || strings.Contains(err.Error(), strconv.Quote(name)) {
		return err
	}
	return inSource(name, err)
}

// store returns, with an error, the entries it did not get to. It wipes the values of the others.
func (r *importing) store(ctx context.Context, batch []entry) (rest []entry, err error) {
	request := vault.ImportRequest{Change: r.change, OnConflict: vault.OnConflict(r.o.onConflict), DryRun: r.o.dryRun}
	for _, e := range batch {
		request.Items = append(request.Items, e.ImportItem)
	}
	results, err := r.vault.Import(ctx, request)
	for i, result := range results {
		if result == (vault.ImportResult{}) {
			rest = append(rest, batch[i])
			continue
		}
		clear(batch[i].Value)
		if result.Err == nil {
			r.count(result.Did)
			continue
		}
		r.fail(batch[i].place, batch[i].Name, r.inDocument(batch[i].Name, result.Err))
		if r.o.stopOnError {
			r.stop()
		}
	}
	return rest, err
}

func wipeEntries(batch []entry) {
	for _, e := range batch {
		clear(e.Value)
	}
}

func (r *importing) count(did vault.ImportDid) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch did {
	case vault.Created:
		r.Created++
	case vault.Updated:
		r.Updated++
	case vault.Unchanged:
		r.Unchanged++
	case vault.Skipped:
		r.Skipped++
	case vault.Existing:
		r.Existing++
	}
	r.countEntry()
}

func (r *importing) fail(at place, name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Failed++
	if len(r.Failures) < listedFailures {
		r.Failures = append(r.Failures, importFailure{at.file, at.line, name, messageOf(err)})
	}
	if !r.a.json() {
		r.done()
		r.a.note("failed: %s: %s", at, printable(messageOf(err)))
		if errors.Is(err, strictjson.ErrUnknownField) && !r.fields {
			r.fields = true
			r.a.note("the fields are %s", strings.Join(itemFields, ", "))
		}
	}
	r.countEntry()
}

func (r *importing) countEntry() {
	if r.Entries++; r.tick != nil {
		r.tick(r.Entries)
	}
}

// outcome is the error of the whole run.
func (r *importing) outcome(err error) error {
	unit := "line"
	if r.input.documents != nil {
		unit = "secret"
	}
	switch {
	case err != nil:
		return hint(fmt.Errorf("the import ended early: %w", err), "run the same command again; stored secrets are skipped")
	case r.Entries == 0:
		return hint(attention("the input has no secrets"), "did the program that writes it fail?")
	case r.Failed > 0 && r.input.folder && !r.o.stopOnError:
		return hint(attention("%s not imported", plural(int(r.Failed), "entry of the folder was",
			"entries of the folder were")), "fix or remove them and run the same command again; stored secrets are skipped")
	case r.Failed > 0 && r.o.stopOnError:
		return hint(attention("the import stopped at a %s that failed", unit),
			"fix the %s and run the same command again; stored secrets are skipped", unit)
	case r.Failed > 0:
		return hint(attention("%s not imported", plural(int(r.Failed), unit+" was", unit+"s were")),
			"fix the %ss and run the same command again; stored secrets are skipped", unit)
	}
	return nil
}

func (r *importing) print() error {
	if r.a.json() {
		return r.a.printJSON(r)
	}
	if r.DryRun {
		r.a.note("%s would be created, %d exist, %d failed; nothing was stored", plural(int(r.Created), "secret", "secrets"),
			r.Existing+r.Skipped, r.Failed)
		return nil
	}
	line := fmt.Sprintf("%s created", plural(int(r.Created), "secret", "secrets"))
	for _, part := range []struct {
		n    int64
		what string
	}{{r.Updated, "updated"}, {r.Unchanged, "unchanged"}, {r.Skipped, "skipped"}, {r.Failed, "failed"}} {
		if part.n > 0 {
			line += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	r.a.note("%s", line)
	return nil
}
