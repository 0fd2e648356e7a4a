package scripttest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// elsewhere are the pages whose blocks another test runs, which has machines or programs that this one lacks.
var elsewhere = map[string]string{"docs/APPS.md": "compat/docs_test.go", "docs/INSTALL.md": "packaging/inside"}

// lacks are the reasons for not running a block: what CI lacks, and what such a block has in it.
var lacks = map[string]*regexp.Regexp{
	"needs an AWS account":                        regexp.MustCompile(`(?m)^aws `),
	"needs Patroni, as test/chaos/patroni has it": regexp.MustCompile(`patronictl`),
	"needs pg_cron, as make test-cron has it":     regexp.MustCompile(`cron`),
	"needs root, and the network":                 regexp.MustCompile(`apt-get`),
	"runs every test, this one too":               regexp.MustCompile(`make test`),
}

// runnable are the languages of blocks that are run, still those of settings, of output and of programs in a file.
var (
	runnable = []string{"sh", "console", "sql"}
	still    = []string{"", "text", "ini", "toml", "yaml", "json", "python"}
)

// toRun returns the blocks to run, and what is wrong with the others.
func toRun(blocks []block) (runs []block, wrong []string) {
	complain := func(b block, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("line %d: %s", b.line, fmt.Sprintf(format, args...)))
	}
	for _, b := range blocks {
		evidence := lacks[b.notRun]
		switch {
		case b.notRun != "" && (evidence == nil || !evidence.MatchString(b.text)):
			complain(b, "%q is no reason to leave out this block", b.notRun)
		case b.notRun != "":
		case slices.Contains(runnable, b.language) || b.file != "":
			runs = append(runs, b)
		case !slices.Contains(still, b.language):
			complain(b, "blocks of %q are neither run nor known to be no commands", b.language)
		case b.language == "" || b.language == "text":
			for line := range strings.Lines(b.text) {
				if commandLike.MatchString(strings.TrimSpace(line)) {
					complain(b, "a command in a block of text: %s", line)
				}
			}
		}
	}
	return runs, wrong
}

// reader is who reads a page: what it has, and what has become of it by the blocks run so far.
type reader struct {
	t       *testing.T
	h       *harness
	page    string
	dir     string   // its folder
	environ []string // kept from block to block
	store   *vaulttest.Store
	rename  []rename            // of names, folders and keys that the page has for example
	on      map[string][]string // the environment of each machine of the page
	as      *syscall.Credential // nil: the caller
	before  map[string]func()   // of the first block below a heading, or that begins so
	reload  func(machine, file, text string)

	stopDaemon func() // of the last daemon
}

type rename struct {
	pattern *regexp.Regexp
	to      string
}

// RunPages runs every shell block of README.md and docs/, page by page in their order, in a vault of the page. A block
// that is not run says why, by a reason of the table lacks.
func RunPages(t *testing.T, root string) {
	pages, err := pagesOf(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_TEST_PG", "15")
	if _, err := os.Stat(filepath.Join(clientPrograms, "psql")); err != nil {
		t.Fatalf("%v; hint: tools/install-pages", err)
	}
	h := newHarness(t)
	for _, page := range pages {
		t.Run(page, func(t *testing.T) {
			if other := elsewhere[page]; other != "" {
				text, err := os.ReadFile(filepath.Join(root, other))
				if err != nil || !bytes.Contains(text, []byte(filepath.Base(page))) {
					t.Errorf("%s does not run %s: %v", other, page, err)
				}
				return
			}
			text, err := os.ReadFile(filepath.Join(root, page))
			if err != nil {
				t.Fatal(err)
			}
			blocks, err := blocksOf(string(text))
			if err != nil {
				t.Fatalf("%s: %v", page, err)
			}
			runPage(t, h, page, blocks)
		})
	}
}

// pagesOf lists the pages, by their paths below the root.
func pagesOf(root string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err == nil && len(files) < 10 {
		err = fmt.Errorf("only %d pages are below %s", len(files), root)
	}
	pages := []string{"README.md"}
	for _, file := range files {
		pages = append(pages, "docs/"+filepath.Base(file))
	}
	return pages, err
}

func runPage(t *testing.T, h *harness, page string, blocks []block) {
	runs, wrong := toRun(blocks)
	for _, w := range wrong {
		t.Errorf("%s: %s", page, w)
	}
	if len(runs) == 0 {
		return
	}
	world := worlds[page]
	if world == nil {
		t.Fatalf("%d blocks are to be run, and worlds has nothing for this page", len(runs))
	}
	r := &reader{t: t, h: h, page: page, dir: h.program.ClusterDir(), on: map[string][]string{},
		before: map[string]func(){}}
	r.environ = []string{"HOME=" + r.dir, "TZ=UTC", "LC_ALL=C", "AWS_EC2_METADATA_DISABLED=true",
		"GORACE=" + os.Getenv("GORACE"), "PATH=" + strings.Join([]string{r.dir + "/bin", h.bin, clientPrograms,
			"/usr/bin:/bin", os.Getenv("PATH")}, ":")}
	r.make(r.dir + "/bin")
	t.Cleanup(func() {
		if err := os.RemoveAll(r.dir); err != nil {
			t.Error(err)
		}
	})
	world(r)
	for _, b := range runs {
		for key, prepare := range r.before {
			if b.section == key || strings.HasPrefix(b.text, key) {
				delete(r.before, key)
				prepare()
			}
		}
		r.run(b)
		if t.Failed() {
			return // what follows builds on it
		}
	}
	for heading := range r.before {
		t.Errorf("no block is below %q", heading)
	}
}

func (r *reader) run(b block) {
	r.t.Helper()
	switch {
	case b.file != "":
		r.reload(b.on, b.file, r.here(b.text))
	case b.language == "sql":
		r.shell(b, "psql -v ON_ERROR_STOP=1 -d app <<'END'\n"+b.text+"END", 0)
	case b.keys != "":
		r.write(".typed", b.text, 0o700)
		r.shell(b, fmt.Sprintf("printf %%s %s | script -qec 'bash .typed' /dev/null", b.keys), b.exit)
	case b.language == "sh":
		r.shell(b, b.text, b.exit)
	default:
		steps, err := b.steps()
		if err != nil {
			r.t.Fatalf("%s:%d: %v", r.page, b.line, err)
		}
		for i, s := range steps {
			exit := b.exit
			if i < len(steps)-1 {
				exit = 0
			}
			r.compare(b, s, exit)
		}
	}
}

// onlyLooks are commands that change nothing. They are repeated until what they show is as documented, since servers
// and daemons get there in their own time.
var onlyLooks = regexp.MustCompile(`^(psql (-h \w+ )?-Atc "SELECT (pg_last|pg_is|\w+[, ])|` +
	`vaultctl (status|rotation list)|curl )`)

func (r *reader) compare(b block, s step, exit int) {
	r.t.Helper()
	documented := strings.Split(r.here(strings.Join(s.output, "\n")), "\n")
	for deadline := time.Now().Add(waitLimit / 4); ; time.Sleep(100 * time.Millisecond) { // between two looks
		output, code := r.attempt(b, s.command, exit)
		line, differs := missing(documented, output)
		if !differs && code == exit {
			return
		}
		if !onlyLooks.MatchString(s.command) || time.Now().After(deadline) {
			if code != exit {
				line = fmt.Sprintf("(exit code %d; got %d)", exit, code)
			}
			r.t.Errorf("%s:%d: $ %s\ngot:\n%s\nwithout a line like:\n%s", r.page, b.line, s.command, output, line)
			return
		}
	}
}

// shell runs commands as the reader types them, and keeps what they export.
func (r *reader) shell(b block, commands string, exit int) string {
	r.t.Helper()
	output, code := r.attempt(b, commands, exit)
	if code != exit {
		r.t.Fatalf("%s:%d: got exit code %d, want %d, of\n%s\n%s", r.page, b.line, code, exit, r.here(commands), output)
	}
	return output
}

func (r *reader) attempt(b block, commands string, exit int) (output string, code int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), waitLimit) // also to clean up
	defer cancel()
	kept := filepath.Join(r.dir, ".environment")
	machine, ok := r.on[b.on]
	if b.on != "" && !ok {
		r.t.Fatalf("%s:%d: there is no machine %q", r.page, b.line, b.on)
	}
	script := r.here(commands) + "\n"
	if b.on == "" && exit == 0 {
		script += "env -0 > " + kept
	}
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = r.dir, slices.Concat(r.environ, machine)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.as}
	cmd.WaitDelay = waitLimit / 4 // for the rest of the output, which a busy machine reads late
	out, err := cmd.CombinedOutput()
	output = anyToken.ReplaceAllString(string(out), "TOKEN")
	if err != nil {
		if code = cmd.ProcessState.ExitCode(); code == 0 {
			code = -1
		}
		output += fmt.Sprintf("(%v)", err)
	}
	if code != exit {
		return output, code
	}
	if b.on == "" && exit == 0 {
		text, err := os.ReadFile(kept)
		if err != nil {
			r.t.Fatal(err)
		}
		r.environ = strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	}
	return output, code
}

// here puts what this machine has in place of a page's examples.
func (r *reader) here(text string) string {
	for _, n := range r.rename {
		text = n.pattern.ReplaceAllString(text, n.to)
	}
	return text
}

// named adds examples and what they are here: pattern, text, pattern, text.
func (r *reader) named(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		r.rename = append(r.rename, rename{regexp.MustCompile(pairs[i]), strings.ReplaceAll(pairs[i+1], "$", "$$")})
	}
}

func (r *reader) setenv(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		r.environ = append(r.environ, pairs[i]+"="+pairs[i+1])
	}
}

// value is that of a variable of the reader.
func (r *reader) value(name string) string {
	for _, line := range slices.Backward(r.environ) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return value
		}
	}
	return os.Getenv(name)
}

// make makes a folder of the reader's, which servers may pass through.
func (r *reader) make(path string) {
	r.t.Helper()
	if err := os.MkdirAll(path, 0o711); err != nil {
		r.t.Fatal(err)
	}
	r.give(path)
}

// write makes a file of the reader's, by a path in its folder.
func (r *reader) write(name, text string, mode os.FileMode) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	r.make(filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
	r.give(path)
	return path
}

func (r *reader) give(path string) { r.giveTo(r.as, path) }

// giveTo makes a user the owner of a file; nil: the caller, who is it already.
func (r *reader) giveTo(user *syscall.Credential, path string) {
	r.t.Helper()
	if user != nil {
		if err := os.Chown(path, int(user.Uid), int(user.Gid)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// program makes a program of another author, as a shell script.
func (r *reader) program(name, script string) { r.write("bin/"+name, "#!/bin/sh\n"+script+"\n", 0o755) }

// typed runs commands of the preparation.
func (r *reader) typed(commands string) string {
	r.t.Helper()
	return r.shell(block{}, commands, 0)
}

// until repeats a command until it succeeds.
func (r *reader) until(command string) {
	r.t.Helper()
	r.typed(fmt.Sprintf("n=0; until { %[1]s; } >/dev/null 2>&1; do "+
		"n=$((n+1)); if [ $n = 600 ]; then %[1]s; fi; sleep 0.1; done", command))
}
