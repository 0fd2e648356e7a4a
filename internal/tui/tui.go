package tui

import (
	"context"
	"errors"
	"os"
	"time"
)

const Deadline = 15 * time.Second

var ErrTheme = errors.New("theme")

type Options struct {
	Source  Source
	Filter  string
	Theme   string
	In, Out *os.File
	Now     func() time.Time
}

func Run(ctx context.Context, o Options) error { return nil }
