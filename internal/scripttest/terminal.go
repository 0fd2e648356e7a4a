package scripttest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// terminal start WxH | type TEXT | keys KEY ... | size WxH | sees REGEXP | screen: a real terminal (tmux) with a shell
// in it. type is a command line that is entered; sees waits until the screen shows it; screen is what it shows, on
// stdout.
func (h *harness) cmdTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if _, err := exec.LookPath("tmux"); err != nil {
		ts.Fatalf("no tmux in PATH\nhint: tools/install-tmux")
	}
	if len(args) == 0 {
		ts.Fatalf("usage: terminal start WxH | type TEXT | keys KEY ... | size WxH | sees REGEXP | screen")
	}
	s := h.of(ts)
	tmux := func(args ...string) string {
		ts.Check(ts.Exec("tmux", append([]string{"-S", filepath.Join(ts.Getenv("WORK"), ".tmux"), "-f", "/dev/null"},
			args...)...))
		return ts.ReadFile("stdout")
	}
	sees := func(want *regexp.Regexp) {
		for deadline := time.Now().Add(waitLimit); ; time.Sleep(20 * time.Millisecond) {
			screen := tmux("capture-pane", "-p")
			if want.MatchString(screen) {
				return
			}
			if time.Now().After(deadline) {
				ts.Fatalf("the terminal does not show %s:\n%s", want, screen)
			}
		}
	}
	switch rest := args[1:]; args[0] {
	case "start":
		width, height, _ := strings.Cut(rest[0], "x")
		ts.Setenv("PS1", "$ ")
		ts.Setenv("LC_ALL", "C.UTF-8")
		socket := filepath.Join(ts.Getenv("WORK"), ".tmux")
		// a script may have ended it
		s.cleanup = append(s.cleanup, func() { _ = exec.Command("tmux", "-S", socket, "kill-server").Run() })
		tmux("new-session", "-d", "-x", width, "-y", height, "sh")
		sees(regexp.MustCompile(`(?m)^[$#]`)) // text typed before the prompt would be shown twice
	case "type":
		tmux("send-keys", "-l", "--", rest[0])
		tmux("send-keys", "Enter")
	case "keys":
		tmux(append([]string{"send-keys", "--"}, rest...)...)
	case "size":
		width, height, _ := strings.Cut(rest[0], "x")
		tmux("resize-window", "-x", width, "-y", height)
	case "sees":
		sees(regexp.MustCompile("(?m)" + rest[0]))
	case "screen":
		fmt.Fprint(ts.Stdout(), tmux("capture-pane", "-p"))
	default:
		ts.Fatalf("terminal: unknown %q", args[0])
	}
}
