package main

import (
	"fmt"
	"os"
	"runtime/pprof"
)

// profile writes where this process spends its time, until stop. A profile holds the names of functions and nothing
// else.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: cpu_profile: %w", errConfig, err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		_ = file.Close() // nothing was written
		return nil, fmt.Errorf("%w: cpu_profile: %w", errConfig, err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = file.Close() // a profile that is cut short says so when it is read
	}, nil
}
