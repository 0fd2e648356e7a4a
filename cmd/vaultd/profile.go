package main

import (
	"fmt"
	"os"
	"runtime/pprof"
)

// profile writes a CPU profile until stop. It holds names of functions, no values.
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
		_ = file.Close() // pprof reports an incomplete profile
	}, nil
}
