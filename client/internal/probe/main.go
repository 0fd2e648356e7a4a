// Command probe is a program that uses package client, for the tests against real daemons: it writes what it has into a
// file each time that something changes, until it is interrupted.
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hyperiondb/vault/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	urls := flags.String("url", "", "nodes")
	names := flags.String("names", "", "secrets, separated by commas")
	state := flags.String("state", "", "file for what it has")
	cache := flags.String("cache", "", "cache file")
	tokenFile := flags.String("token-file", "", "file of the token")
	poll := flags.Duration("poll", time.Second, "time between two looks")
	maxAge := flags.Duration("max-cache-age", 0, "of cached values")
	start := flags.Duration("start", 20*time.Second, "time limit of the start")
	once := flags.Bool("once", false, "end after the start")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r := &report{path: *state, names: strings.Split(*names, ",")}
	config := client.Config{URL: *urls, Names: r.names, Poll: *poll, TokenFile: *tokenFile, MaxCacheAge: *maxAge,
		OnError: r.failed}
	if *cache != "" {
		config.Cache = client.File(*cache)
	}
	starting, cancel := context.WithTimeout(ctx, *start)
	defer cancel()
	c, err := client.New(starting, config)
	if err != nil {
		return err
	}
	defer c.Close()
	r.started(c)
	if *once {
		return nil
	}
	var watching sync.WaitGroup
	for _, name := range r.names {
		watching.Go(func() {
			for range c.Watch(ctx, name) {
				r.write()
			}
		})
	}
	watching.Wait()
	return nil
}

// report is the file. It has a digest of each value, and the values only as package fmt prints them.
type report struct {
	path  string
	names []string

	mu     sync.Mutex
	client *client.Client
	last   error
}

func (r *report) failed(err error) {
	r.mu.Lock()
	r.last = err
	r.mu.Unlock()
	r.write()
}

func (r *report) started(c *client.Client) {
	r.mu.Lock()
	r.client = c
	r.mu.Unlock()
	r.write()
}

func (r *report) write() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	if r.client != nil {
		for _, name := range r.names {
			s := r.client.Secret(name)
			v := s.Value()
			fmt.Fprintf(&b, "%s version %d sha256 %.8x printed %v %+v %#v %+v\n", name, v.Version(), sha256.Sum256(v.Bytes()), s,
				v, *s, struct{ v client.Value }{v})
		}
	}
	if r.last != nil {
		fmt.Fprintf(&b, "last error: %v\n", r.last)
	}
	partial := r.path + ".partial"
	if err := os.WriteFile(partial, []byte(b.String()), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		return
	}
	if err := os.Rename(partial, r.path); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
	}
}
