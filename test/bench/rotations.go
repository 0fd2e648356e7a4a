package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const rotationsAtOnce = 32 // over two daemons, and pgbench's clients

// rotating returns the subjects of rotations. Two daemons rotate secrets that all become due at one moment, as after a
// long downtime, alone and during reads. pgbench completes as many jobs that were claimed beforehand, by the same
// statements with bytes made beforehand: PostgreSQL's cost when claiming and sealing cost nothing.
func (s *env) rotating(ctx context.Context, o options, reads []string) ([]subject, error) {
	r := &rotations{env: s, due: o.due}
	if err := r.fill(ctx); err != nil {
		return nil, fmt.Errorf("filling: %w", err)
	}
	subjects := []subject{
		{rotate, []int{rotationsAtOnce}, func(ctx context.Context, _ int, _ time.Duration) (figures,
			error) {
			return r.rotateAll(ctx)
		}},
		{rotatePgbench, []int{rotationsAtOnce}, func(ctx context.Context, n int, _ time.Duration) (figures,
			error) {
			return r.byPgbench(ctx, n)
		}},
	}
	if !o.wants(readRotating) {
		return subjects, nil
	}
	i := slices.IndexFunc(s.processes, func(p *process) bool { return p.name == readInterval })
	reader := s.processes[i]
	recorded, err := recordReads(ctx, reader.address, reads, 1, o.bytes, "")
	return append(subjects, subject{readRotating, []int{16}, func(ctx context.Context, n int, _ time.Duration) (figures,
		error) {
		return r.readWhileRotating(ctx, reader, n, random(recorded))
	}}), err
}

type rotations struct {
	*env
	due     int
	version int // of all secrets
}

// fill writes rows as a superuser, with fixed bytes: their values are never opened, rotation replaces them.
func (r *rotations) fill(ctx context.Context) error {
	r.version = 1
	return r.exec(ctx,
		fmt.Sprintf(`INSERT INTO vault.secrets (name, kind, generator, rotation_interval, current_version, rotated_at,
				next_rotation_at)
			SELECT 'rotate/' || n, 'automatic', 'hex:32', '30 days', 1, now(), now() + interval '30 days'
				FROM generate_series(1, %d) n`, r.due),
		`INSERT INTO vault.secret_versions (secret_id, name, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext,
				key_commit, aad, request_id, created_by, next_rotation_at)
			SELECT id, name, 1, 1, 'k', '\x01', decode(repeat('00', 24), 'hex'), decode(repeat('11', 80), 'hex'),
				decode(repeat('22', 32), 'hex'), name || ':1', gen_random_uuid(), 'bench', next_rotation_at
				FROM vault.secrets WHERE name ^@ 'rotate/'`,
		`ANALYZE`)
}

// makeDue makes all secrets due in an open transaction, and returns the function that enqueues them and commits, so
// that no daemon's supervisor enqueues any before.
func (r *rotations) makeDue(ctx context.Context) (enqueue func() error, err error) {
	conn, err := pgx.Connect(ctx, r.url(superuser))
	if err != nil {
		return nil, err
	}
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 hour' WHERE name ^@ 'rotate/'`)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return func() error {
		defer conn.Close(context.WithoutCancel(ctx))
		var got int
		if err := tx.QueryRow(ctx, `SELECT (vault.supervise($1) ->> 'enqueued')::int`, r.due).Scan(&got); err != nil {
			return err
		}
		if got != r.due {
			return fmt.Errorf("%d rotations were enqueued, want %d", got, r.due)
		}
		return tx.Commit(ctx)
	}, nil
}

// rotateAll measures from the moment that all are due until two running daemons have rotated them.
func (r *rotations) rotateAll(ctx context.Context) (f figures, err error) {
	stop, pids, err := r.startRotators(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	enqueue, err := r.makeDue(ctx)
	if err != nil {
		return nil, err
	}
	l := load{requests: r.due}
	f, err = r.cost(pids, func() (int, error) {
		began := time.Now()
		err := enqueue()
		if err == nil {
			err = r.awaitDrained(ctx)
		}
		l.took = time.Since(began)
		return r.due, err
	})
	if err != nil {
		return nil, err
	}
	return f.with(l), errors.Join(r.checkVersions(ctx), r.vacuum(ctx))
}

// vacuum runs the vacuum and the checkpoint that a drain causes, which would otherwise slow the next subject.
func (r *rotations) vacuum(ctx context.Context) error {
	return r.exec(ctx, `VACUUM ANALYZE`, `CHECKPOINT`)
}

func (r *rotations) startRotators(ctx context.Context) (stop func() error, pids []int, err error) {
	var started []*process
	stop = func() (err error) {
		for _, p := range started {
			err = errors.Join(err, p.stop())
			r.processes = slices.DeleteFunc(r.processes, func(other *process) bool { return other == p })
		}
		return err
	}
	for _, name := range []string{"rotator one", "rotator two"} {
		p, err := r.startVaultd(ctx, name, r.url(daemon), `audit = "off"`,
			fmt.Sprintf("rotation_workers = %d", rotationsAtOnce/2), `scan_interval = "1s"`)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		started, pids = append(started, p), append(pids, p.pid())
	}
	return stop, pids, nil
}

// awaitDrained waits until no job is open, along the index of the open ones: counting them would be a load of its own.
func (r *rotations) awaitDrained(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, r.url(superuser))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return poll(ctx, time.Minute+time.Duration(r.due)*20*time.Millisecond, shortPause, func() (bool, error) {
		var open bool
		err := conn.QueryRow(ctx,
			`SELECT EXISTS (SELECT FROM vault.rotation_jobs WHERE state IN ('queued', 'claimed'))`).Scan(&open)
		return !open, err
	})
}

// checkVersions checks that every secret has been rotated, and none twice.
func (r *rotations) checkVersions(ctx context.Context) error {
	r.version++
	got, err := r.queryValue(ctx,
		`SELECT concat_ws(' ', count(*), min(current_version), max(current_version))
			FROM vault.secrets WHERE name ^@ 'rotate/'`)
	if want := fmt.Sprintf("%d %d %d", r.due, r.version, r.version); err == nil && got != want {
		err = fmt.Errorf("got secrets and their lowest and highest version %q, want %q: each rotates once", got, want)
	}
	return err
}

func (r *rotations) readWhileRotating(ctx context.Context, reader *process, connections int,
	next func() *exchange) (f figures, err error) {
	stop, _, err := r.startRotators(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	enqueue, err := r.makeDue(ctx)
	if err != nil {
		return nil, err
	}
	until, done := context.WithCancel(ctx)
	defer done()
	var l load
	var reads errgroup.Group
	reads.Go(func() (err error) {
		l, err = drive(ctx, until, reader.address, connections, 0, next)
		return err
	})
	if err = enqueue(); err == nil {
		err = r.awaitDrained(ctx)
	}
	done()
	if err = errors.Join(err, reads.Wait()); err != nil {
		return nil, err
	}
	return l.figures(), errors.Join(r.checkVersions(ctx), shipped(ctx, reader), r.vacuum(ctx))
}

// byPgbench measures a number of jobs that divides evenly among the clients, and completes the rest.
func (r *rotations) byPgbench(ctx context.Context, clients int) (figures, error) {
	enqueue, err := r.makeDue(ctx)
	if err == nil {
		err = enqueue()
	}
	if err != nil {
		return nil, err
	}
	err = r.exec(ctx,
		`UPDATE vault.rotation_jobs SET state = 'claimed', attempt = 1, claimed_by = 'pgbench', claimed_at = now()
			WHERE state = 'queued'`,
		`DROP TABLE IF EXISTS public.claimed; DROP SEQUENCE IF EXISTS public.next_claimed`,
		`CREATE TABLE public.claimed AS SELECT row_number() OVER () AS n, id, name, from_version + 1 AS version
			FROM vault.rotation_jobs WHERE state = 'claimed'`,
		`ALTER TABLE public.claimed ADD PRIMARY KEY (n)`, `CREATE SEQUENCE public.next_claimed`,
		`GRANT SELECT ON public.claimed TO vaultd; GRANT USAGE ON public.next_claimed TO vaultd`,
		`VACUUM ANALYZE public.claimed`, `CHECKPOINT`)
	if err != nil {
		return nil, err
	}
	script := r.file("rotate.sql")
	if err := os.WriteFile(script, []byte(rotateScript), 0o600); err != nil {
		return nil, err
	}
	l, err := r.pgbench(ctx, daemon, script, clients, 0, "-t", strconv.Itoa(r.due/clients))
	if err != nil {
		return nil, err
	}
	if left := r.due % clients; left > 0 {
		if _, err := r.pgbench(ctx, daemon, script, left, 0, "-t", "1"); err != nil {
			return nil, err
		}
	}
	return l.figures(), errors.Join(r.checkVersions(ctx), r.vacuum(ctx))
}

const rotateScript = `SELECT nextval('public.next_claimed') AS n \gset
SELECT id, name, version FROM public.claimed WHERE n = :n \gset
BEGIN;
SET LOCAL synchronous_commit = remote_apply;
SELECT vault.complete_rotations(ARRAY[:id::bigint], '{1}',
  ARRAY[ROW(:version, 1, 'k', '\x01', decode(repeat('00', 24), 'hex'), decode(repeat('11', 80), 'hex'),
    decode(repeat('22', 32), 'hex'), concat(:name::text, ':', :version::text))::vault.sealed_value],
  ARRAY[gen_random_uuid()], true);
COMMIT;
SELECT pg_current_wal_insert_lsn();
`
