// Command bench measures the vault as its users meet it: real vaultd processes beside a PostgreSQL primary with a
// standby, all made in a temporary folder and removed, driven over loopback.
//
//	go run ./test/bench              reads, verifies, puts and rotations against baselines: a table, and JSON
//	go run ./test/bench -quick       the same once and short: a test, no measurement
//	go run ./test/bench -conns 64 -only '^read' -profile FOLDER   a part, with a CPU profile of each vaultd
//	go run ./test/bench scale        what a million secrets cost against a thousand, every plan checked
//	go run ./test/bench sustained    three minutes of reads: what a node can sustain of its burst, and its rows and WAL
//	go run ./test/bench sustained -table     the same by audit_window and number of names, from short runs
//
// # What a figure is worth
//
// The load generator, the daemon and PostgreSQL share the machine, so a number of requests a second says little; a
// ratio says more. So every subject runs in every round, for a short slice, and each round begins with another one.
// A round's ratio is against the baselines of that round, and the table shows the median with the lowest and highest.
// The baselines are processes like the daemon:
//
//	bare    net/http that answers a body of the same size
//	query   net/http, the allowlist, one pgx query, XChaCha20-Poly1305, encoding/json: a simple vault
//
// The generator ([drive]) is one thread that waits for all connections at once and costs little more than their system
// calls: it is part of both sides of a ratio, so an expensive one would flatter the slower side. It compares each
// answer, byte for byte, with one that was checked beforehand; a wrong answer ends the run.
//
// Shipping the records of reads to the primary happens between the slices, and its cost is reported apart.
//
// -other takes the vaultd of another commit: old and new in the same rounds, which says more than two runs.
//
// -peer starts a Vault-compatible server beside the others, and compares its kv put with vaultctl put.
// BENCH_PEER_URL, BENCH_PEER_TOKEN and BENCH_PEER_PATH name a running server instead. It is driven in the same rounds:
// GET URL+PATH with the token in X-Vault-Token.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	command := "rounds"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	switch command {
	case "rounds":
		o, err := parseRounds(args, os.Environ(), progress)
		if err != nil {
			return err
		}
		return runRounds(ctx, o, out, progress)
	case "scale":
		o, err := parseScale(args, progress)
		if err != nil {
			return err
		}
		return runScale(ctx, o, out, progress)
	case "sustained":
		o, err := parseSustained(args, progress)
		if err != nil {
			return err
		}
		return runSustained(ctx, o, out, progress)
	case "serve": // a baseline, started by rounds
		return serveBaseline(ctx, args, out, progress)
	}
	return fmt.Errorf("no command %q: scale, sustained, or none", command)
}

// options of the rounds.
type options struct {
	rounds   int
	slice    time.Duration
	rest     time.Duration // of a daemon without requests, before it is measured
	secrets  int
	bytes    int // of a value
	due      int
	apps     int // of ten credentials each
	only     *regexp.Regexp
	at       []int  // connections of the subjects that read
	profiles string // folder for a CPU profile of each vaultd; "": none
	jsonFile string
	peer     *peer // nil: none

	peerProgram string // "": none is started
	other       string // another build of vaultd to compare with; "": none
}

func parseRounds(args, environ []string, progress io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(progress)
	flags.IntVar(&o.rounds, "rounds", 5, "how often each subject runs")
	flags.DurationVar(&o.slice, "slice", 2*time.Second, "how long each time")
	flags.IntVar(&o.secrets, "secrets", 1000, "names to read at random")
	flags.IntVar(&o.bytes, "bytes", 32, "length of a value")
	flags.IntVar(&o.due, "due", 10_000, "rotations that become due at once")
	flags.IntVar(&o.apps, "apps", 1000, "apps of ten credentials each, beside reads with a token")
	flags.DurationVar(&o.rest, "rest", warmUp, "how long a daemon without requests rests before it is measured")
	only := flags.String("only", "", "`regexp` of the subjects to run; a baseline left out leaves its ratios out")
	at := flags.String("conns", "1,16,64", "`connections` to read by")
	flags.StringVar(&o.profiles, "profile", "", "`folder` for a CPU profile of each vaultd, for go tool pprof")
	flags.StringVar(&o.peerProgram, "peer", "",
		"`program` of a Vault-compatible server, such as bao, to run and compare with")
	flags.StringVar(&o.other, "other", "",
		"`program`: another build of vaultd, which the subject \"read other\" runs as \"read interval\" runs this one")
	flags.StringVar(&o.jsonFile, "json", "bin/bench.json", "`file` for the figures; \"\" = none")
	quick := flags.Bool("quick", false, "one round of short slices: to see that it works")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		o.rounds, o.slice, o.secrets, o.due, o.apps, o.rest = 1, 500*time.Millisecond, 100, 320, 8, 6*time.Second
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	if o.at, err = parseConnections(*at); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected %q", flags.Arg(0))
	case o.rounds < 1, o.slice < 50*time.Millisecond, o.secrets < 1, o.due < rotationsAtOnce:
		return o, fmt.Errorf("at least one round, 50ms a slice, one secret and %d due rotations", rotationsAtOnce)
	case o.rest < time.Second:
		return o, errors.New("-rest: at least a second")
	case o.apps < 1 || o.apps > 100_000:
		return o, errors.New("-apps: from 1 to 100000")
	case o.bytes < 1 || o.bytes > 32<<10:
		return o, errors.New("-bytes: from 1 to 32768")
	}
	if o.other != "" {
		if _, err := exec.LookPath(o.other); err != nil {
			return o, fmt.Errorf("-other: %w", err)
		}
	}
	if o.peer, err = peerFrom(environ); err == nil && o.peer != nil && o.peerProgram != "" {
		return o, errors.New("-peer: BENCH_PEER_URL names another one")
	}
	return o, err
}

func parseConnections(list string) ([]int, error) {
	var all []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1024 || slices.Contains(all, n) {
			return nil, fmt.Errorf("-conns: %q is not a list of different numbers from 1 to 1024", list)
		}
		all = append(all, n)
	}
	return all, nil
}
