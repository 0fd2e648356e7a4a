//go:build !linux

package testfolder

const memory = ""

func room() int64 { return 0 }
