//go:build !linux

package scripttest

import (
	"errors"
	"syscall"
)

// Namespaces of processes are Linux'.
func firstProcess() *syscall.SysProcAttr { return nil }

func onlyChild(int) error { return errors.New("there are no process namespaces here") }
