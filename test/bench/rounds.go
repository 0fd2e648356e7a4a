package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The subjects, as the table calls them.
const (
	bareHTTP      = "bare"
	oneQuery      = "query"
	readOff       = "read off"
	readInterval  = "read interval"
	readOther     = "read other" // as interval, by the program of -other
	readAsked     = "read asked" // as interval, but each read asks the node: read_confirm = "0"
	readAlways    = "read always"
	readToken     = "read token"
	readPaced     = "read token, paced"
	readFlooded   = "read token, flooded"
	verify        = "verify"
	peerRead      = "peer"
	idle          = "idle" // a daemon without requests
	put           = "put"
	putPgbench    = "put, pgbench"
	rotate        = "rotate"
	rotatePgbench = "rotate, pgbench"
	readRotating  = "read, rotating"
	cliVersion    = "vaultctl version" // a whole process, as the next three
	cliGet        = "vaultctl get"
	cliPut        = "vaultctl put"
	peerPut       = "peer kv put"
)

// subject is measured for a slice at a time.
type subject struct {
	name        string
	connections []int
	measure     func(ctx context.Context, connections int, slice time.Duration) (figures, error)
}

func runRounds(ctx context.Context, o options, out, progress io.Writer) (err error) {
	r := &report{Began: time.Now().UTC(), CPUs: runtime.NumCPU(), Go: goVersion(), Rounds: o.rounds,
		Slice: o.slice.Seconds(), Secrets: o.secrets, Bytes: o.bytes, Apps: o.apps}
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return fmt.Errorf("-profile: %w", err)
		}
	}
	s, err := newEnv(ctx, 1, "1GB")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if r.Postgres, err = s.queryValue(ctx, `SELECT current_setting('server_version')`); err != nil {
		return err
	}
	fmt.Fprintf(progress, "bench: filling %d secrets\n", o.secrets)
	subjects, err := s.subjects(ctx, o)
	if err != nil {
		return err
	}
	subjects = slices.DeleteFunc(subjects, func(s subject) bool { return !o.only.MatchString(s.name) })
	if len(subjects) == 0 {
		return fmt.Errorf("no subject matches %q", o.only)
	}
	plan := plan(subjects)
	got, err := s.rounds(ctx, o, plan, progress)
	if err != nil {
		return err
	}
	r.Rows, r.Aims = got.rows(cellsOf(plan)), got.verdicts()
	return errors.Join(r.print(out), r.save(o.jsonFile))
}

// step is a cell to be measured.
type step struct {
	cell
	subject subject
}

func plan(subjects []subject) []step {
	var steps []step
	for _, s := range subjects {
		for _, n := range s.connections {
			steps = append(steps, step{cell{s.name, n}, s})
		}
	}
	return steps
}

// rounds measures every step in every round, each round beginning with another step, so that other load on the machine
// does not always disturb the same subject. A round before the first fills caches and is not counted.
func (s *env) rounds(ctx context.Context, o options, steps []step, progress io.Writer) (results, error) {
	got := results{}
	for round := range o.rounds + 1 {
		began, slice := time.Now(), o.slice
		if round == 0 {
			slice = min(o.slice, 200*time.Millisecond)
		}
		if err := s.exec(ctx, `CHECKPOINT`); err != nil {
			return nil, err
		}
		for i := range steps {
			step := steps[(i+max(round-1, 0)*len(steps)/o.rounds)%len(steps)]
			if round == 0 && step.subject.name != bareHTTP && len(step.subject.connections) == 1 {
				continue // writes have no cache to fill
			}
			f, err := step.subject.measure(ctx, step.Connections, slice)
			if err != nil {
				return nil, fmt.Errorf("%s at %d: %w", step.Subject, step.Connections, err)
			}
			if round > 0 {
				got[step.cell] = append(got[step.cell], f)
			}
		}
		if round > 0 {
			fmt.Fprintf(progress, "bench: round %d of %d took %s\n", round, o.rounds, time.Since(began).Round(time.Second))
		}
	}
	return got, nil
}

// subjects fills the vault, starts all servers, and learns every expected answer.
func (s *env) subjects(ctx context.Context, o options) ([]subject, error) {
	reads, verifies := namesUnder("read/", o.secrets), namesUnder("verify/", o.secrets)
	if err := errors.Join(s.fill(ctx, reads, 1, o.bytes), s.fill(ctx, verifies, 2, o.bytes)); err != nil {
		return nil, fmt.Errorf("filling: %w", err)
	}
	if err := s.exec(ctx, `VACUUM ANALYZE`); err != nil {
		return nil, err
	}
	all, err := s.readers(ctx, o, reads, verifies)
	if err != nil {
		return nil, err
	}
	if o.wants(idle) {
		resting, err := s.resting(ctx, o)
		if err != nil {
			return nil, err
		}
		all = append(all, resting)
	}
	if o.peerProgram != "" {
		made, p, err := s.startPeer(ctx, o.peerProgram)
		if err != nil {
			return nil, fmt.Errorf("-peer: %w", err)
		}
		all = append(all, subject{peerRead, o.at, func(ctx context.Context, n int, slice time.Duration) (figures, error) {
			return s.drive(ctx, slice, p, false, n, made.next)
		}}, s.running(peerPut, made.client, func(run int) ([]string, []byte) {
			return []string{"kv", "put", "-mount=secret", fmt.Sprintf("cli/%d", run%10), "value=-"},
				valueOf(peerPut, run, o.bytes)
		}))
	}
	if o.peer != nil {
		all = append(all, subject{peerRead, o.at, func(ctx context.Context, n int, slice time.Duration) (figures, error) {
			l, err := driveFor(ctx, slice, o.peer.address, n, o.peer.next)
			return l.figures(), err
		}})
	}
	puts, err := s.putting(ctx, o)
	if err != nil {
		return nil, err
	}
	all = append(append(all, puts...), s.commands(o, reads)...)
	if !o.wants(rotate, rotatePgbench, readRotating) {
		return all, nil
	}
	rotations, err := s.rotating(ctx, o, reads)
	return append(all, rotations...), err
}

// noBackgroundWork keeps a daemon from working by itself in a slice. The longest audit_window seldom ends in one;
// endWindow ends it after the slice.
var noBackgroundWork = []string{`rotation_workers = 0`, `scan_interval = "1h"`, `heartbeat_interval = "0s"`,
	`audit_window = "60s"`}

func (s *env) readers(ctx context.Context, o options, reads, verifies []string) ([]subject, error) {
	var all []subject
	add := func(name string, p *process, audited bool, exchanges []exchange) {
		all = append(all, subject{name, o.at, func(ctx context.Context, n int, slice time.Duration) (figures, error) {
			return s.drive(ctx, slice, p, audited, n, random(exchanges))
		}})
	}
	query, err := s.startBaseline(ctx, "query", "-database", s.url(daemon), "-key", s.key())
	if err != nil {
		return nil, err
	}
	recorded, err := recordReads(ctx, query.address, reads, 1, o.bytes, "")
	if err != nil {
		return nil, err
	}
	bare, err := s.startBaseline(ctx, "bare", "-size", strconv.Itoa(len(recorded[0].body)))
	if err != nil {
		return nil, err
	}
	same, err := recordBare(ctx, bare.address, reads)
	if err != nil {
		return nil, err
	}
	add(bareHTTP, bare, false, same)
	add(oneQuery, query, false, recorded)
	own := filepath.Join(s.bin, "vaultd")
	for _, mode := range []struct {
		subject string
		program string // "": there is none
		lines   []string
	}{
		{readOff, own, []string{`audit = "off"`}}, {readInterval, own, []string{`audit_sync = "interval"`}},
		{readOther, o.other, []string{`audit_sync = "interval"`}}, {readAlways, own, []string{`audit_sync = "always"`}},
		{readAsked, own, []string{`audit_sync = "interval"`, `read_confirm = "0s"`}},
	} {
		if mode.program == "" {
			continue
		}
		if !o.wants(mode.subject) && (mode.subject != readInterval || !o.wants(verify, readRotating)) {
			continue
		}
		settings := o.profiled(mode.subject, append(slices.Clip(noBackgroundWork), mode.lines...))
		p, err := s.startProgram(ctx, mode.program, mode.subject, s.url(daemon), settings...)
		if err != nil {
			return nil, err
		}
		recorded, err := recordReads(ctx, p.address, reads, 1, o.bytes, "")
		if err != nil {
			return nil, err
		}
		add(mode.subject, p, mode.subject != readOff, recorded)
		if mode.subject != readInterval || !o.wants(verify) {
			continue
		}
		if recorded, err = recordVerifies(ctx, p.address, verifies, o.bytes); err != nil {
			return nil, err
		}
		add(verify, p, true, recorded)
	}
	if !o.wants(readToken, readPaced, readFlooded) {
		return all, nil
	}
	tokens, err := s.tokenReaders(ctx, o, reads)
	return append(all, tokens...), err
}

// wants reports whether one of these subjects is to run. What only others need is not started: it would take minutes.
func (o options) wants(subjects ...string) bool {
	return slices.ContainsFunc(subjects, o.only.MatchString)
}

// profiled adds the file for the CPU profile of a daemon, if profiles are wanted.
func (o options) profiled(subject string, settings []string) []string {
	if o.profiles == "" {
		return settings
	}
	file := filepath.Join(o.profiles, subject+".pprof")
	return append(slices.Clip(settings), fmt.Sprintf(`cpu_profile = %q`, file))
}

// warmUp is how long a daemon rests before it is measured. PostgreSQL plans the statements of a function anew at its
// first five calls in a session, and the supervisor has a round every ten seconds.
const warmUp = 80 * time.Second

// resting is a daemon with its usual rounds and no requests, for ten slices. The figure is its processor time and that
// of its own sessions, once it is warm; that of the time before, with its start, is a figure apart. So is what both
// nodes take as a whole, with those sessions and with what they do without a daemon.
func (s *env) resting(ctx context.Context, o options) (subject, error) {
	p, err := s.startVaultd(ctx, idle, s.url(idleDaemon), `audit_sync = "interval"`)
	if err != nil {
		return subject{}, err
	}
	if err := pause(ctx, o.rest); err != nil {
		return subject{}, err
	}
	sessions, err := s.sessionsOf(ctx, idleDaemon)
	if err != nil {
		return subject{}, err
	}
	warming, err := cpuOfAll(append(sessions, p.pid())...)
	if err != nil {
		return subject{}, err
	}
	return subject{idle, []int{1}, func(ctx context.Context, _ int, slice time.Duration) (figures, error) {
		sessions, err := s.sessionsOf(ctx, idleDaemon)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		f, err := s.cost(append(sessions, p.pid()), func() (int, error) { return 1, pause(ctx, 10*slice) })
		if err != nil {
			return nil, err
		}
		took := micros(time.Since(began))
		m, err := memoryOf(p.pid())
		return figures{corePercent: 100 * f[daemonCPU] / took, postgresPercent: 100 * f[postgresCPU] / took,
			warmingPercent: 100 * warming.Seconds() / o.rest.Seconds(), residentMB: m.Resident, peakMB: m.Peak}, err
	}}, nil
}

// sessionsOf are the processes of a role's sessions on the primary.
func (s *env) sessionsOf(ctx context.Context, role string) ([]int, error) {
	text, err := s.queryValue(ctx, `SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE usename = '`+role+`'`)
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(text) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("role %q has no session", role)
	}
	return pids, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drive measures a server for a slice, and the cost of shipping its records afterwards.
func (s *env) drive(ctx context.Context, slice time.Duration, p *process, audited bool, connections int,
	next func() *exchange) (figures, error) {
	var l load
	f, err := s.cost([]int{p.pid()}, func() (int, error) {
		var err error
		l, err = driveFor(ctx, slice, p.address, connections, next)
		return l.requests, err
	})
	if err != nil {
		return nil, err
	}
	m, err := memoryOf(p.pid())
	if err != nil {
		return nil, err
	}
	for name, value := range l.figures() {
		f[name] = value
	}
	f[residentMB], f[peakMB] = m.Resident, m.Peak
	if !audited {
		return f, nil
	}
	began := time.Now()
	after, err := s.cost([]int{p.pid()}, func() (int, error) { return l.requests, shipped(ctx, p) })
	if err != nil {
		return nil, err
	}
	f[shippingCPU], f[shippingS] = after[daemonCPU]+after[postgresCPU], time.Since(began).Seconds()
	return f, nil
}

func driveFor(ctx context.Context, slice time.Duration, address string, connections int,
	next func() *exchange) (load, error) {
	until, cancel := context.WithTimeout(ctx, slice)
	defer cancel()
	return drive(ctx, until, address, connections, 0, next)
}

// cost is the processor time of processes and of PostgreSQL during work, divided by its requests.
func (s *env) cost(pids []int, work func() (requests int, err error)) (figures, error) {
	own, err := cpuOfAll(pids...)
	if err != nil {
		return nil, err
	}
	servers, err := s.cpu()
	if err != nil {
		return nil, err
	}
	requests, err := work()
	if err != nil {
		return nil, err
	}
	ownAfter, err := cpuOfAll(pids...)
	if err != nil {
		return nil, err
	}
	serversAfter, err := s.cpu()
	return figures{daemonCPU: each(ownAfter-own, requests), postgresCPU: each(serversAfter-servers, requests)}, err
}

func recordBare(ctx context.Context, address string, names []string) ([]exchange, error) {
	body, err := fetch(ctx, "GET", "http://"+address+"/", nil, "")
	var recorded []exchange
	for _, name := range names {
		recorded = append(recorded, exchange{request: getRequest(name, ""), body: body})
	}
	return recorded, err
}

func self() int { return os.Getpid() }
