package target

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mustScript makes a program and the targets that may run it, as "program".
func mustScript(t *testing.T, text string, arguments ...string) *Targets {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	programs := map[string][]string{"program": append([]string{path}, arguments...)}
	if err := Check(Options{Programs: programs}); err != nil {
		t.Fatal(err)
	}
	return newTargets(Options{Programs: programs})
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAProgramGetsTheValueOnStdinAndNowhereElse(t *testing.T) {
	t.Setenv("VAULTD_DATABASE_URL", "postgres://vaultd:hunter2@h/db")
	dir := t.TempDir()
	targets := mustScript(t, `
cat > "$1/stdin.$VAULT_STEP"
tr '\0' '\n' < /proc/$$/environ | sort > "$1/environ"
tr '\0' '\n' < /proc/$$/cmdline > "$1/cmdline"
pwd > "$1/pwd"
`, dir, "second argument")
	for _, candidate := range []string{"value", "lines\nand\x00zeros\xff\r\n", strings.Repeat("\x00\n", 32<<10)} {
		c := change(candidate)
		mustSet(t, targets, "exec program=program", c)
		mustTest(t, targets, "exec program=program", c)
		for _, step := range []string{"set", "test"} {
			if got := mustRead(t, filepath.Join(dir, "stdin."+step)); got != candidate {
				t.Errorf("%s: got %d bytes on stdin, want the %d of the value", step, len(got), len(candidate))
			}
		}
	}
	want := "PATH=" + programPath +
		"\nPWD=/\nVAULT_ATTEMPT=1\nVAULT_JOB=42\nVAULT_SECRET=app/db\nVAULT_STEP=test\nVAULT_VERSION=7\n"
	if got := mustRead(t, filepath.Join(dir, "environ")); strings.ReplaceAll(got, "PWD=/\n",
		"") != strings.ReplaceAll(want, "PWD=/\n", "") {
		t.Errorf("got environment\n%swant\n%s", got, want)
	}
	arguments := strings.Split(strings.TrimSpace(mustRead(t, filepath.Join(dir, "cmdline"))), "\n")
	if !slices.Equal(arguments[len(arguments)-2:], []string{dir, "second argument"}) || len(arguments) != 4 {
		t.Errorf("got arguments %q", arguments)
	}
	if got := mustRead(t, filepath.Join(dir, "pwd")); got != "/\n" {
		t.Errorf("it ran in %q", got)
	}
}

func TestTheExitCodeDecidesAndNothingPrintedIsShown(t *testing.T) {
	const candidate = "the-candidate-itself"
	for text, says := range map[string]string{
		"cat; cat >&2; exit 3":      "exit status 3 (it printed 20 bytes",
		"exit 1":                    "exit status 1 (it printed 0 bytes",
		"kill -9 $$":                "signal: killed (it printed 0 bytes",
		"set -x; x=$(cat); exit $x": "exit status",
	} {
		targets := mustScript(t, text)
		wantRefusal(t, targets.Set(t.Context(), "exec program=program", change(candidate)), says, candidate)
		wantRefusal(t, targets.Test(t.Context(), "exec program=program", change(candidate)), says, candidate)
	}
	for _, text := range []string{"cat >/dev/null", "exit 0", "exec <&-; exit 0",
		"head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; cat"} {
		targets := mustScript(t, text)
		mustSet(t, targets, "exec program=program", change(strings.Repeat("v", 64<<10)))
	}
}

func TestWhatAProgramPrintsIsOnlyCounted(t *testing.T) {
	targets := mustScript(t, "head -c 5000000 /dev/zero; exit 4")
	wantRefusal(t, targets.Set(t.Context(), "exec program=program", change("value")), "it printed 5000000 bytes")
}

// The program hangs, and so does a child of it that has its output open.
func TestAProgramThatHangsIsKilledWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	targets := mustScript(t, `sleep 600 & echo $! > "$1/child"; echo $$ > "$1/self"; cat > /dev/null; wait`, dir)
	started := time.Now()
	wantRefusal(t, targets.Set(t.Context(), "exec program=program", change("the-candidate-itself")),
		"not done in time", "the-candidate-itself")
	if took := time.Since(started); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	for _, name := range []string{"self", "child"} {
		pid, err := strconv.Atoi(strings.TrimSpace(mustRead(t, filepath.Join(dir, name))))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" is gone", func() bool { return gone(t, pid) })
	}
}

// gone: an orphan that was killed may wait for init to collect it.
func gone(t *testing.T, pid int) bool {
	t.Helper()
	if err := syscall.Kill(pid, 0); err != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

// A daemon that a program starts and that keeps the output open neither delays the rotation nor fails it.
func TestAChildThatKeepsTheOutputOpenIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	targets := mustScript(t, `cat > /dev/null; sleep 600 & echo $! > "$1/child"`, dir)
	started := time.Now()
	mustSet(t, targets, "exec program=program timeout=25s", change("value"))
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(mustRead(t, filepath.Join(dir, "child"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the child is gone: %v", err)
	}
}

func TestOnlyConfiguredProgramsRun(t *testing.T) {
	targets := mustScript(t, "exit 0")
	wantRefusal(t, targets.Set(t.Context(), "exec program=other", change("value")),
		`no program "other" under [exec_rotators]`)
	targets = newTargets(Options{Programs: map[string][]string{"gone": {"/nowhere/program"}}})
	wantRefusal(t, targets.Set(t.Context(), "exec program=gone", change("the-candidate-itself")), "no such file",
		"the-candidate-itself")
}

func TestProgramsThatWouldFailAtNightAreRefused(t *testing.T) {
	dir := t.TempDir()
	mustFile := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := mustFile("good", 0o755)
	for says, program := range map[string]struct {
		name string
		argv []string
	}{
		"is not a name":          {"/bin/sh", []string{good}},
		"an absolute path":       {"p", nil},
		"absolute path":          {"p", []string{"sh", "-c", "x"}},
		"no such file":           {"p", []string{"/nowhere/program"}},
		"is not an executable":   {"p", []string{mustFile("plain", 0o644)}},
		"not an executable file": {"p", []string{dir}},
		"written by every user":  {"p", []string{mustFile("open", 0o757)}},
		"zero byte":              {"p", []string{good, "a\x00b"}},
	} {
		wantRefusal(t, Check(Options{Programs: map[string][]string{program.name: program.argv}}), says)
	}
	if err := Check(Options{Programs: map[string][]string{"p-1_x": {good, "argument"}}}); err != nil {
		t.Error(err)
	}
}

// The scenario: another user of the machine replaces the configured program. Siblings: the file, each folder on its
// path, the target of a link, the folders on the path to it and of the link itself, groups, owners.
func TestAProgramThatOthersCouldReplaceIsRefused(t *testing.T) {
	for says, spoil := range map[string]func(t *testing.T, root string) (program string){
		"program can be written by every user": func(t *testing.T, root string) string {
			return mustMode(t, root,
				"a/b/program", 0o757)
		},
		"program can be written by its group": func(t *testing.T, root string) string {
			return mustGroup(t, root,
				"a/b/program", 0o775)
		},
		"b can be written by every user": func(t *testing.T, root string) string {
			return mustMode(t, root, "a/b",
				0o777)
		},
		"a can be written by every user": func(t *testing.T, root string) string {
			return mustMode(t, root, "a",
				0o777)
		},
		"a can be written by its group": func(t *testing.T, root string) string {
			return mustGroup(t, root, "a",
				0o2775)
		},
		"other can be written by every user": func(t *testing.T, root string) string {
			return mustLink(t, root, "a/b/link", root+"/other/program", "other", 0o777)
		},
		"links can be written by every user": func(t *testing.T, root string) string {
			return mustLink(t, root, "links/link", root+"/a/b/program", "links", 0o777)
		},
		"loose can be written by every user": func(t *testing.T, root string) string {
			return mustLink(t, root, "a/b/link", "../../loose/program", "loose", 0o777)
		},
		"its path has a .. in it": func(t *testing.T, root string) string { return root + "/a/../a/b/program" },
		"the path it leads to has a .. in it": func(t *testing.T, root string) string {
			return mustLink(t, root, "a/b/link", root+"/a/../a/b/program", "a", 0o755)
		},
		"too many links": func(t *testing.T, root string) string {
			return mustLink(t, root, "a/b/link", "link", "a",
				0o755)
		},
	} {
		t.Run(says, func(t *testing.T) {
			root := t.TempDir()
			for _, folder := range []string{"a/b", "other", "links", "loose"} {
				mustDoFile(t, os.MkdirAll(filepath.Join(root, folder), 0o755))
				mustDoFile(t, os.WriteFile(filepath.Join(root, folder, "program"), []byte("#!/bin/sh\n"), 0o755))
			}
			program := spoil(t, root)
			if says == "too many links" {
				wantRefusal(t, checkPath(program, maxLinks), says)
				return
			}
			wantRefusal(t, Check(Options{Programs: map[string][]string{"p": {program}}}), says)
			// Also where it was changed after the start.
			err := newTargets(Options{Programs: map[string][]string{"p": {program}}}).Set(t.Context(), "exec program=p",
				change("the-candidate-itself"))
			wantRefusal(t, err, says, "the-candidate-itself")
		})
	}
	for name, program := range map[string]func(t *testing.T, root string) string{
		"a sticky folder": func(t *testing.T, root string) string {
			mustDoFile(t, os.Chmod(filepath.Join(root, "a"), 0o777|os.ModeSticky))
			return filepath.Join(root, "a/b/program")
		},
		"links": func(t *testing.T, root string) string {
			mustLink(t, root, "way", "a", "a", 0o755)
			return mustLink(t, root, "a/b/link", "../b/program", "a", 0o755)
		},
	} {
		root := t.TempDir()
		mustDoFile(t, os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
		mustDoFile(t, os.WriteFile(filepath.Join(root, "a/b/program"), []byte("#!/bin/sh\n"), 0o755))
		if err := Check(Options{Programs: map[string][]string{"p": {program(t, root)}}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkOwned("theirs", owned{uid: 12345, mode: 0o755}); err == nil || !strings.Contains(err.Error(),
		"belongs to another user (12345)") {
		t.Errorf("got %v, want a complaint about the owner", err)
	}
	if err := checkOwned("root's", owned{mode: 0o775}); err != nil {
		t.Errorf("the group of root: %v", err)
	}
}

func mustDoFile(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustMode(t *testing.T, root, name string, mode os.FileMode) string {
	t.Helper()
	mustDoFile(t, os.Chmod(filepath.Join(root, name), mode))
	return filepath.Join(root, "a/b/program")
}

// mustGroup gives a file to a group that is not root's.
func mustGroup(t *testing.T, root, name string, mode os.FileMode) string {
	t.Helper()
	group := os.Getegid()
	if group == 0 {
		group = 12345
	}
	mustDoFile(t, os.Chown(filepath.Join(root, name), -1, group))
	return mustMode(t, root, name, mode)
}

func mustLink(t *testing.T, root, link, to, folder string, mode os.FileMode) string {
	t.Helper()
	mustDoFile(t, os.Symlink(to, filepath.Join(root, link)))
	mustMode(t, root, folder, mode)
	return filepath.Join(root, link)
}

// owned is a file of another user, whom a test without root cannot make.
type owned struct {
	os.FileInfo
	uid  uint32
	mode os.FileMode
}

func (o owned) Mode() os.FileMode { return o.mode }
func (o owned) Sys() any          { return &syscall.Stat_t{Uid: o.uid} }
