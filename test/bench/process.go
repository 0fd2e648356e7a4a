package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 20 * time.Second
)

// process is a server that was started.
type process struct {
	name    string
	address string // host:port of the measured listener
	health  string // URL of vaultd's other listener
	log     string
	cmd     *exec.Cmd
	exited  chan error
}

// start runs a program and waits until ready is true. It inherits no variable but PATH and HOME: a setting would change
// the measurement, and a token must not reach it.
func start(ctx context.Context, name, log string, cmd *exec.Cmd,
	ready func(p *process) (bool, error)) (*process, error) {
	to, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	cmd.Stdout, cmd.Stderr = to, to
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches this program only
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, exited: make(chan error, 1)}
	go func() { p.exited <- cmd.Wait() }()
	if err := p.await(ctx, ready); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w\n%s", name, err, p.tail()), p.stop())
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) await(ctx context.Context, ready func(p *process) (bool, error)) error {
	return poll(ctx, startTimeout, shortPause, func() (bool, error) {
		select {
		case err := <-p.exited:
			p.exited <- err
			return false, errors.New("it ended at once")
		default:
			return ready(p)
		}
	})
}

const (
	shortPause = 10 * time.Millisecond
	longPause  = 250 * time.Millisecond // where a check would disturb the measurement
)

// poll calls look until it is done, for limit at most.
func poll(ctx context.Context, limit, pause time.Duration, look func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	again := time.NewTicker(pause)
	defer again.Stop()
	for {
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", limit, ctx.Err())
		case <-again.C:
		}
	}
}

// stop sends SIGTERM, waits, and then kills. A process that does not exit cleanly is an error.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already, which Wait reports
	select {
	case err := <-p.exited:
		p.exited <- err
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", p.name, err, p.tail())
		}
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("%s does not end within %s", p.name, stopTimeout), p.cmd.Process.Kill())
	}
}

func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return strings.TrimSpace(string(bytes.Join(lines[max(0, len(lines)-10):], []byte("\n"))))
}
