package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// terminal is a browser in tmux.
type terminal struct {
	ctx    context.Context
	socket string
}

func (w *env) terminal(ctx context.Context, width, height int, url string) (*terminal, error) {
	dir, err := os.MkdirTemp(w.dir, "tmux") // a server that is ending still holds its socket
	if err != nil {
		return nil, err
	}
	t := &terminal{ctx, filepath.Join(dir, "socket")}
	_, err = t.tmux("new-session", "-d", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height),
		"env", "LC_ALL=C.UTF-8", "TZ=UTC", "VAULTCTL_DATABASE_URL="+url, w.vaultctl, "audit")
	return t, err
}

func (t *terminal) tmux(args ...string) (string, error) {
	out, err := exec.CommandContext(t.ctx, "tmux", append([]string{"-S", t.socket, "-f", "/dev/null"},
		args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("tmux %s: %w: %s", args[0], err, out)
	}
	return string(out), nil
}

// close ends the terminal. It is no error if the browser has ended already.
func (t *terminal) close() { _, _ = t.tmux("kill-server") }

// press sends keys once the screen is stable, and returns the next stable screen.
func (t *terminal) press(keys ...string) (string, error) {
	if _, err := t.rest(); err != nil {
		return "", err
	}
	for _, k := range keys {
		if _, err := t.tmux("send-keys", "--", k); err != nil {
			return "", err
		}
	}
	return t.rest()
}

// rest waits until several captures of the screen, a little apart, are equal.
func (t *terminal) rest() (string, error) {
	last, same := "", 0
	for range 600 {
		screen, err := t.tmux("capture-pane", "-p")
		if err != nil {
			return "", err
		}
		if same++; screen != last {
			last, same = screen, 0
		}
		busy := strings.Contains(screen, "counting ...") || strings.Contains(screen, "asking ...")
		drawn := strings.Contains(screen, "Events") && strings.Contains(screen, "Secrets")
		if same >= 8 && !busy && drawn {
			return screen, nil
		}
		time.Sleep(40 * time.Millisecond)
	}
	return "", fmt.Errorf("the browser does not come to rest:\n%s", last)
}

var mostMemory = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// memory is the browser's peak memory, in MB.
func (t *terminal) memory() (int, error) {
	pid, err := t.tmux("list-panes", "-F", "#{pane_pid}")
	if err != nil {
		return 0, err
	}
	status, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/status")
	if err != nil {
		return 0, err
	}
	m := mostMemory.FindSubmatch(status)
	if m == nil {
		return 0, fmt.Errorf("no VmHWM in %s", status)
	}
	kb, err := strconv.Atoi(string(m[1]))
	return kb / 1024, err
}
