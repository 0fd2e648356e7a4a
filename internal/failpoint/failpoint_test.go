package failpoint_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hyperiondb/vault/internal/failpoint"
	"github.com/hyperiondb/vault/internal/testfolder"
)

// mustBuild builds the commands and returns their paths.
func mustBuild(t *testing.T, args ...string) (vaultctl, vaultd string) {
	t.Helper()
	dir, err := testfolder.Build(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "vaultctl"), filepath.Join(dir, "vaultd")
}

// Released binaries cannot be made to kill themselves: they hold neither the variable nor a name. The build with the
// tag shows that the search would have found them.
func TestShippedBinariesHaveNone(t *testing.T) {
	words := append(failpoint.Names()[:4], "VAULT_FAILPOINT")
	shippedCtl, shippedD := mustBuild(t)
	ctl, d := mustBuild(t, "-tags=failpoints")
	for _, c := range []struct {
		want  bool
		paths []string
	}{{false, []string{shippedCtl, shippedD}}, {true, []string{ctl, d}}} {
		for _, path := range c.paths {
			binary, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range words {
				if got := bytes.Contains(binary, []byte(word)); got != c.want {
					t.Errorf("%s contains %q: got %v, want %v", path, word, got, c.want)
				}
			}
		}
	}
}

func TestEnvironmentIsChecked(t *testing.T) {
	vaultctl, _ := mustBuild(t, "-tags=failpoints")
	for _, c := range []struct{ setting, want string }{
		{"write.comitted", `VAULT_FAILPOINT: no failpoint "write.comitted"`},
		{"write.committed:0", `VAULT_FAILPOINT: "0" is not a number of hits from 1`},
		{"write.committed:x", `VAULT_FAILPOINT: "x" is not a number of hits from 1`},
		{"write.committed:", `VAULT_FAILPOINT: "" is not a number of hits from 1`},
	} {
		command := exec.Command(vaultctl, "--version")
		command.Env = []string{"VAULT_FAILPOINT=" + c.setting}
		out, err := command.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.HasPrefix(string(out), c.want) {
			t.Errorf("%s: got %v %q, want exit code 2 and %q", c.setting, err, out, c.want)
		}
	}
}

// The Nth hit kills, and no earlier one.
func TestHitKills(t *testing.T) {
	probe := filepath.Join(t.TempDir(), "probe")
	build := testfolder.Go("build", "-tags", "failpoints", "-o", probe, "./testdata/probe")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	for _, c := range []struct {
		setting string
		lines   int
		killed  bool
	}{{"", 4, false}, {"seal.done", 0, true}, {"seal.done:3", 2, true}, {"seal.done:5", 4, false},
		{"write.begun", 4, false}} {
		command := exec.Command(probe)
		command.Env = []string{"VAULT_FAILPOINT=" + c.setting}
		out, err := command.Output()
		killed := false
		if err != nil {
			status := command.ProcessState.Sys().(syscall.WaitStatus)
			killed = status.Signaled() && status.Signal() == syscall.SIGKILL
		}
		if lines := bytes.Count(out, []byte("\n")); lines != c.lines || killed != c.killed {
			t.Errorf("%q: got %d lines, killed %v, error %v; want %d, %v", c.setting, lines, killed, err, c.lines, c.killed)
		}
	}
}

// A name in the code that is not in the list could never be chosen; one that is in the list only would never be hit.
func TestListIsWhatTheCodeHits(t *testing.T) {
	found := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			name, ok := hit(n)
			if ok {
				found[name] = true
				if !slices.Contains(failpoint.Names(), name) {
					t.Errorf("%s hits %q, which is not in the list", path, name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range failpoint.Names() {
		if !found[name] {
			t.Errorf("nothing hits %q", name)
		}
	}
}

// hit returns the name in failpoint.Hit("name"); anything but a literal there counts as "".
func hit(n ast.Node) (name string, ok bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return "", false
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != "Hit" || len(call.Args) != 1 {
		return "", false
	}
	if pkg, ok := selector.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
		return "", false
	}
	if literal, ok := call.Args[0].(*ast.BasicLit); ok {
		name, _ = strconv.Unquote(literal.Value)
	}
	return name, true
}
