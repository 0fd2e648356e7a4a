package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// putting returns the subjects of puts: through package vault, as vaultctl makes them, and by pgbench with the same
// statements and bytes made beforehand.
func (s *env) putting(ctx context.Context, o options) ([]subject, error) {
	const each = 10 // names of each writer, which no other writer changes
	for who, subject := range map[string]string{"put": put, "pgbench": putPgbench} {
		if !o.only.MatchString(subject) {
			continue // saves hundreds of puts that no subject needs
		}
		for writer := range maxWriters {
			if err := s.fill(ctx, namesUnder(fmt.Sprintf("%s/%d/", who, writer), each), 1, o.bytes); err != nil {
				return nil, fmt.Errorf("filling: %w", err)
			}
		}
	}
	script, err := s.putScript(ctx, each, o.bytes)
	if err != nil {
		return nil, err
	}
	counts := []int{1, writers, maxWriters}
	return []subject{
		{put, counts, func(ctx context.Context, n int, slice time.Duration) (figures, error) {
			var l load
			f, err := s.cost([]int{self()}, func() (requests int, err error) {
				l, err = s.putFor(ctx, slice, n, each, o.bytes)
				return l.requests, err
			})
			if err != nil {
				return nil, err
			}
			return f.with(l), nil
		}},
		{putPgbench, counts, func(ctx context.Context, n int, slice time.Duration) (figures, error) {
			// A backend plans its first statements and compiles its functions, which takes 0.1 s; the writers' backends
			// have done so before.
			warm := time.Second + time.Duration(n)*60*time.Millisecond
			seconds := int((slice + warm + time.Second - 1) / time.Second)
			l, err := s.pgbench(ctx, operator, script, n, warm, "-T", strconv.Itoa(seconds))
			return l.figures(), err
		}},
	}, nil
}

// with adds the client's measurements.
func (f figures) with(l load) figures {
	for name, value := range l.figures() {
		f[name] = value
	}
	return f
}

func (s *env) putFor(ctx context.Context, slice time.Duration, writers, names, size int) (load, error) {
	until, cancel := context.WithTimeout(ctx, slice)
	defer cancel()
	loads := make([]load, writers)
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for writer := range writers {
		group.Go(func() (err error) {
			loads[writer], err = s.putMany(ctx, until, namesUnder(fmt.Sprintf("put/%d/", writer), names), size)
			return err
		})
	}
	err := group.Wait()
	all := load{took: time.Since(began), latency: newHistogram()}
	for _, l := range loads {
		all.requests += l.requests
		if l.latency != nil {
			all.latency.Merge(l.latency)
		}
	}
	return all, err
}

func (s *env) putMany(ctx, until context.Context, names []string, size int) (load, error) {
	l := load{latency: newHistogram()}
	for ; l.requests == 0 || until.Err() == nil; l.requests++ {
		name := names[l.requests%len(names)]
		value := valueOf(name, l.requests, size)
		began := time.Now()
		if _, err := s.put(ctx, name, value); err != nil {
			return l, err
		}
		if err := l.latency.RecordValue(int64(time.Since(began))); err != nil {
			return l, err
		}
	}
	return l, nil
}

// putScript writes the statements of one put, in the same round trips. pgbench cannot answer a challenge, so in this
// database every challenge is the same, for all clients, and its proof is in the script.
func (s *env) putScript(ctx context.Context, names, size int) (string, error) {
	nonce := make([]byte, 32)
	if err := s.exec(ctx, fmt.Sprintf(`ALTER TABLE vault.tx_context ALTER COLUMN nonce SET DEFAULT '\x%x'`,
		nonce)); err != nil {
		return "", err
	}
	text := fmt.Sprintf(`\set n random(0, %d)
SELECT name, current_version + 1 AS version, deleted_at FROM vault.secrets
  WHERE name = concat('pgbench/', :client_id::text, '/', :n::text) \gset
\startpipeline
BEGIN;
SELECT set_config('synchronous_commit', 'remote_apply', true),
  set_config('idle_in_transaction_session_timeout', '4000', true), set_config('lock_timeout', '8000', true);
SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int,
  coalesce(h.timeline, 0), h.epoch FROM (SELECT) AS one LEFT JOIN vault.heartbeat h ON true;
SELECT vault.challenge();
\endpipeline
\startpipeline
SELECT vault.authorize_proof('%s', '\x%x');
SELECT vault.put_version('put', :name, ROW(:version::int, 1, 'k', decode(repeat('01', 73), 'hex'),
  decode(repeat('00', 24), 'hex'), decode(repeat('11', %d), 'hex'), decode(repeat('22', 32), 'hex'),
  concat(:name::text, ':', :version::text))::vault.sealed_value, gen_random_uuid());
\endpipeline
\startpipeline
COMMIT;
SELECT pg_current_wal_flush_lsn();
\endpipeline
`, names-1, s.token.ID(), s.token.Prove(nonce), size+16)
	return s.file("put.sql"), os.WriteFile(s.file("put.sql"), []byte(text), 0o600)
}

// pgbench runs a script on connections of its own, and counts the transactions that ended after warm.
func (s *env) pgbench(ctx context.Context, role, script string, connections int, warm time.Duration,
	length ...string) (load, error) {
	program, err := exec.LookPath("pgbench")
	if err != nil {
		return load{}, errors.New("pgbench is not installed: it comes with Debian's postgresql-15")
	}
	logs, err := os.MkdirTemp(s.dir, "pgbench")
	if err != nil {
		return load{}, err
	}
	node := s.cluster.Primary()
	args := append([]string{"-n", "-M", "prepared", "-h", node.SocketDir(), "-p", strconv.Itoa(node.Port()), "-U", role,
		"-c", strconv.Itoa(connections), "-j", "2", "-f", script, "-l", "--log-prefix", filepath.Join(logs, "log")},
		length...)
	if out, err := exec.CommandContext(ctx, program, append(args, database)...).CombinedOutput(); err != nil {
		return load{}, fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	return readTransactions(logs, warm)
}

// transaction is a line of pgbench's log.
type transaction struct {
	took  time.Duration
	ended time.Duration // since 1970
}

func readTransactions(dir string, warm time.Duration) (load, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*")) // one of each thread
	if err != nil {
		return load{}, err
	}
	var all []transaction
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return load{}, err
		}
		for line := range strings.Lines(string(text)) {
			var client, number, took, script, seconds, micros int64
			if _, err := fmt.Sscan(line, &client, &number, &took, &script, &seconds, &micros); err != nil {
				return load{}, fmt.Errorf("pgbench's log: %q: %w", line, err)
			}
			all = append(all, transaction{time.Duration(took) * time.Microsecond,
				time.Duration(seconds)*time.Second + time.Duration(micros)*time.Microsecond})
		}
	}
	return loadOf(all, warm)
}

func loadOf(all []transaction, warm time.Duration) (load, error) {
	if len(all) == 0 {
		return load{}, errors.New("pgbench did nothing")
	}
	slices.SortFunc(all, func(a, b transaction) int { return cmp.Compare(a.ended, b.ended) })
	from := all[0].ended - all[0].took + warm
	l := load{took: all[len(all)-1].ended - from, latency: newHistogram()}
	for _, t := range all {
		if t.ended <= from {
			continue
		}
		l.requests++
		if err := l.latency.RecordValue(int64(t.took)); err != nil {
			return load{}, err
		}
	}
	if l.requests == 0 {
		return load{}, fmt.Errorf("pgbench did nothing after its first %s", warm)
	}
	return l, nil
}
