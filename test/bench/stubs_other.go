//go:build !linux

package main

import (
	"context"
	"errors"
	"time"
)

var errLinux = errors.New("the bench runs on Linux only: it waits with epoll and reads /proc")

func drive(context.Context, context.Context, string, int, int, func() *exchange) (load, error) {
	return load{}, errLinux
}

func cpuOfAll(...int) (time.Duration, error)     { return 0, errLinux }
func cpuOfServers(...int) (time.Duration, error) { return 0, errLinux }
func memoryOf(int) (memory, error)               { return memory{}, errLinux }
