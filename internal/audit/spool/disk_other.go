//go:build !linux

package spool

import "os"

func datasync(f *os.File) error { return f.Sync() }

func links(f *os.File) (uint64, error) { return statLinks(f) }
