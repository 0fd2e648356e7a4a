//go:build !linux

package scripttest

import (
	"errors"
	"syscall"
)

// Only Linux has namespaces of processes.
func firstProcess() *syscall.SysProcAttr { return nil }

func onlyChild(int) error { return errors.New("there are no process namespaces here") }
