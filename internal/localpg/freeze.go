package localpg

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Freeze halts the server and its child processes: it still takes connections, as the kernel does that, and answers
// nothing. This is what a hung disk or a paused machine looks like from outside. Thaw undoes it; so does Kill.
func (n *Node) Freeze() error {
	// The server first, so that it cannot have another child between the list and the signal.
	return n.signalAll(unix.SIGSTOP, true)
}

// Thaw continues a frozen server.
func (n *Node) Thaw() error { return n.signalAll(unix.SIGCONT, false) }

func (n *Node) signalAll(signal unix.Signal, serverFirst bool) error {
	pid := n.Pid()
	if pid == 0 {
		return n.failure("signalling it", errNotRunning)
	}
	send := func(pid int) error {
		if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("sending %v to process %d: %w", signal, pid, err)
		}
		return nil
	}
	if serverFirst {
		if err := send(pid); err != nil {
			return err
		}
	}
	all, err := children(pid)
	for _, child := range all {
		err = errors.Join(err, send(child))
	}
	if !serverFirst {
		err = errors.Join(err, send(pid))
	}
	return err
}
