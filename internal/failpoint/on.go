//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

const variable = "VAULT_FAILPOINT"

// armed is read once, when the process starts. A misspelt name would be a test that tests nothing, so the process ends.
var armed = mustArm(os.Getenv(variable))

type point struct {
	name string
	left atomic.Int64 // hits until the process is killed
}

func mustArm(setting string) *point {
	p, err := arm(setting)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return p
}

// arm reads "name" or "name:N". An empty setting is a point that no hit names.
func arm(setting string) (*point, error) {
	p := new(point)
	if setting == "" {
		return p, nil
	}
	name, count, counted := strings.Cut(setting, ":")
	n := int64(1)
	if counted {
		var err error
		if n, err = strconv.ParseInt(count, 10, 64); err != nil || n < 1 {
			return nil, fmt.Errorf("%s: %q is not a number of hits from 1", variable, count)
		}
	}
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("%s: no failpoint %q; there are %s", variable, name, strings.Join(Names(), ", "))
	}
	p.name = name
	p.left.Store(n)
	return p, nil
}

// Hit kills this process if this is the step and the hit that VAULT_FAILPOINT names. It does not return then.
func Hit(name string) {
	if armed.name != name || armed.left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) // cannot fail for one's own process
	select {}                                           // until the signal ends the process
}
