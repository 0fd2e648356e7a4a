package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hyperiondb/vault/internal/rotation"
)

const (
	programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// pipeGrace is how long a program that ended may leave its output open, in the hands of a child.
	pipeGrace = time.Second
)

// checkProgram refuses what a rotation at night would stumble over, and a program that anybody on the machine could replace.
func checkProgram(name string, argv []string) error {
	if !programName.MatchString(name) {
		return fmt.Errorf("%q is not a name: lower-case letters, digits, _ and -", name)
	}
	if len(argv) == 0 || !filepath.IsAbs(argv[0]) {
		return fmt.Errorf("%s: want a list that begins with an absolute path", name)
	}
	for _, argument := range argv {
		if strings.ContainsRune(argument, 0) {
			return fmt.Errorf("%s: an argument has a zero byte", name)
		}
	}
	info, err := os.Stat(argv[0])
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: %s is not an executable file", name, argv[0])
	case info.Mode()&0o002 != 0:
		return fmt.Errorf("%s: %s can be written by everybody", name, argv[0])
	}
	return nil
}

// exec runs the program, with the candidate on stdin and nowhere else. What it prints is counted and thrown away: a program
// that echoes its input, or a shell under set -x, would otherwise put the value into a log.
func (t *Targets) exec(ctx context.Context, step string, s Spec, c rotation.Change) error {
	argv, ok := t.programs[s.program]
	if !ok {
		return fmt.Errorf("no program %q under [exec_rotators] in vaultd's configuration", s.program)
	}
	if err := inTime(ctx); err != nil {
		return err
	}
	var printed counter
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.Candidate), &printed, &printed
	cmd.Env = []string{
		"PATH=" + programPath, "VAULT_SECRET=" + c.Secret, "VAULT_VERSION=" + strconv.Itoa(c.Version), "VAULT_STEP=" + step,
		"VAULT_JOB=" + strconv.FormatInt(c.Job, 10), "VAULT_ATTEMPT=" + strconv.Itoa(c.Attempt),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the group: its children too
	cmd.WaitDelay = pipeGrace
	err := cmd.Run()
	t.log.Debug("a rotation's program ended", "program", s.program, "secret", c.Secret, "step", step,
		"state", cmd.ProcessState.String(), "printed_bytes", printed.n.Load())
	return outcome(ctx, cmd, err, printed.n.Load())
}

// outcome goes by the exit code. A child that keeps the output open does not change it.
func outcome(ctx context.Context, cmd *exec.Cmd, err error, printed int64) error {
	switch {
	case cmd.ProcessState == nil:
		return fmt.Errorf("starting %s: %w", cmd.Path, err)
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s was killed (it printed %d bytes)", cmd.Path, printed)
	case cmd.ProcessState.Success():
		return errors.New("handing over the value failed")
	}
	return fmt.Errorf("%s: %s (it printed %d bytes, which are not shown as they may hold the value)", cmd.Path, cmd.ProcessState, printed)
}

// counter counts what is written to it.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
