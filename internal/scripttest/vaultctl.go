package scripttest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// concurrent are the first words of the commands that share work among goroutines, and of exec, whose process becomes
// another program. Under the race detector scripts run the others without it: a process takes 20 ms of processor time
// then instead of 45 and more, and scripts start two thousand. What goroutines the others have are those of packages
// that have tests under the race detector. The command everycommand runs each with it, and so does a script's "exec
// vaultctl".
var concurrent = []string{"dev", "doctor --restore", "exec", "export", "import", "rewrap"}

func (h *harness) vaultctlFor(args []string) string {
	words := strings.Join(args, " ") + " "
	if slices.ContainsFunc(concurrent, func(first string) bool { return strings.HasPrefix(words, first+" ") }) {
		return filepath.Join(h.bin, "vaultctl")
	}
	return filepath.Join(h.plain, "vaultctl")
}

// vaultctl [!] args: the real binary, its stderr searched for the canary afterwards. $CODE is its exit code.
func (h *harness) cmdVaultctl(ts *testscript.TestScript, neg bool, args []string) {
	code := 0
	if len(args) > 1 && strings.HasPrefix(args[0], "=") { // vaultctl =5 put ...: exactly this exit code
		var err error
		code, err = strconv.Atoi(args[0][1:])
		ts.Check(err)
		args = args[1:]
		neg = code != 0
	}
	err := ts.Exec(h.vaultctlFor(args), args...)
	h.of(ts).record(ts.ReadFile("stderr"))
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("running vaultctl: %v", err)
	}
	switch {
	case neg && got == 0:
		ts.Fatalf("vaultctl succeeded")
	case !neg && got != 0:
		ts.Fatalf("vaultctl: exit code %d", got)
	case code != 0 && got != code:
		ts.Fatalf("vaultctl: exit code %d, want %d", got, code)
	case !neg && got == 0:
		return
	}
	if strings.Contains(ts.ReadFile("stderr"), canary) {
		ts.Fatalf("the error shows the value")
	}
}

// capture NAME REGEXP: the first group of a match in stdout becomes $NAME.
func (h *harness) cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: capture NAME REGEXP")
	}
	m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if m == nil {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// unsteady matches text that differs between two runs of one script.
var unsteady = []struct {
	pattern *regexp.Regexp
	put     string
}{
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`"lsn": "[0-9A-F]+/[0-9A-F]+"`), `"lsn": "LSN"`},
	{anyToken, "TOKEN"},
	{regexp.MustCompile(`local:[0-9a-f]{32}`), "KEY"},
	{regexp.MustCompile(`"server_version": "[^"]*"`), `"server_version": "VERSION"`},
	{regexp.MustCompile(`"(id|job|schema_version|compatible_since|binary_version|from_version)":( ?)\d+`), `"$1":${2}N`},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
}

// steady FILE: writes stdout with unsteady text replaced, for: cmp FILE golden.
func (h *harness) cmdSteady(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: steady FILE")
	}
	text := strings.NewReplacer(ts.Getenv("WORK"), "WORK", ts.Getenv("KEK"), "KEK").Replace(ts.ReadFile("stdout"))
	for _, u := range unsteady {
		text = u.pattern.ReplaceAllString(text, u.put)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// bytes all|COUNT FILE: all 256 byte values, or COUNT printable bytes.
func (h *harness) cmdBytes(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: bytes all|COUNT FILE")
	}
	var content []byte
	if args[0] == "all" {
		for b := range 256 {
			content = append(content, byte(b))
		}
	} else {
		n, err := strconv.Atoi(args[0])
		ts.Check(err)
		content = bytes.Repeat([]byte("x"), n)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), content, 0o600))
}
