package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// client runs operations on a store with the packages of vaultctl and vaultd, on one connection for reads and one for
// writes, so that a statement may have its generic plan from the sixth execution on.
type client struct {
	*store
	reader *db.Reader
	writer *db.Writer
	conn   *pgx.Conn
	vault  *vault.Vault
	dice   *rand.Rand
}

func (s *store) client(ctx context.Context, role string) (c *client, err error) {
	c = &client{store: s, dice: rand.New(rand.NewPCG(3, 4))}
	options := db.Options{URL: s.url(role), ApplicationName: "bench", MaxConns: 1}
	if c.reader, err = db.NewReader(ctx, options); err != nil {
		return nil, err
	}
	if c.writer, err = db.NewWriter(ctx, options); err != nil {
		return nil, err
	}
	c.vault = vault.New(vault.Options{Reader: c.reader, Writer: c.writer, Keys: s.ring})
	c.conn, err = pgx.Connect(ctx, s.url(role))
	return c, err
}

func (c *client) close(ctx context.Context) {
	_ = c.conn.Close(context.WithoutCancel(ctx)) // nothing is under way
	c.vault.Close()
	c.writer.Close()
	c.reader.Close()
}

func (c *client) anyName() string { return nameAt(c.dice.IntN(c.secrets)) }

// operation is an operation of the vault on a number of things at a time.
type operation struct {
	name     string
	things   int                                       // its cost is shown for each
	rowsRead float64                                   // rows of one table that it may read; 0: a few for each thing
	once     func(ctx context.Context, s *store) error // as the superuser, before all of them; nil: nothing
	before   func(ctx context.Context, s *store) error // the same, before each
	do       func(ctx context.Context, c *client) error
}

func (o operation) limit() float64 {
	if o.rowsRead > 0 {
		return o.rowsRead
	}
	return 20 + 4*float64(o.things)
}

const (
	pageSize = 100
	claimed  = 50
	maxRuns  = smallVault / 2 / claimed // of an operation: the small vault's backlog has that many claims
)

// operations of a store. Those on many things at once take fewer things in a small store.
func operations(s *store) []operation {
	due, backlog, ended := min(10_000, max(smallVault/4, s.secrets/20)), min(100_000, s.secrets/2), min(1000, s.secrets/20)
	list := func(q db.ListQuery, want int) func(context.Context, *client) error {
		return func(ctx context.Context, c *client) error {
			q.Limit = pageSize
			return counted(want)(c.vault.List(ctx, q))
		}
	}
	folder := func(name string, want int, ranges ...db.NameRange) func(context.Context, *client) error {
		return func(ctx context.Context, c *client) error {
			entries, err := c.vault.Folder(ctx, db.FolderQuery{Folder: name, Ranges: ranges, Limit: 10_000}, nil)
			if err == nil && len(entries) != want {
				err = fmt.Errorf("got %d entries, want %d", len(entries), want)
			}
			return err
		}
	}
	inFlight := float64(maxRuns+4) * claimed // claimed jobs at the front of the index that a claim reads
	team := s.secrets / 100                  // names under prod/team-07/
	rest := min(pageSize, team) / 2
	return []operation{
		{name: "read", things: 1, do: func(ctx context.Context, c *client) error {
			secret, err := c.vault.Get(ctx, c.anyName(), vault.GetOptions{})
			secret.Wipe()
			return err
		}},
		{name: "verify, 3 live versions", things: 1, do: func(ctx context.Context, c *client) error {
			name := c.anyName()
			verdict, err := c.vault.Verify(ctx, name, valueOf(name, 1, scaleBytes), vault.VerifyOptions{})
			if err == nil && !verdict.Valid {
				err = fmt.Errorf("the first value of %q is not valid", name)
			}
			return err
		}},
		{name: "describe", things: 1, do: func(ctx context.Context, c *client) error {
			_, err := c.vault.Describe(ctx, c.anyName())
			return err
		}},
		{name: "history", things: 1, do: func(ctx context.Context, c *client) error {
			_, err := c.vault.History(ctx, c.anyName())
			return err
		}},
		{name: "list, first page", things: pageSize, do: list(db.ListQuery{}, pageSize)},
		{name: "list, a page in the middle", things: pageSize, do: list(db.ListQuery{After: "prod/team-25/"}, pageSize)},
		{name: "list a prefix, first page", things: pageSize,
			do: list(db.ListQuery{Prefix: "prod/team-07/"}, min(pageSize, team))},
		{name: "list a prefix, last page", things: pageSize, do: func(ctx context.Context, c *client) error {
			after, err := c.nameUnder(ctx, "prod/team-07/", team-rest-1)
			if err != nil {
				return err
			}
			return list(db.ListQuery{Prefix: "prod/team-07/", After: after}, rest)(ctx, c)
		}},
		{name: "list one folder, the root", things: 2, do: folder("", 2, db.Below(""))},
		{name: "list one folder of 50 folders", things: 50, do: folder("prod/", 50, db.Below(""))},
		{name: "list one folder, by 3 rules", things: 3, do: folder("prod/", 3, db.Below("prod/team-07/"),
			db.Below("prod/team-08/"), db.Below("prod/team-09/"))},
		{name: "put", things: 1, do: func(ctx context.Context, c *client) error {
			name := c.anyName()
			_, err := c.vault.Put(ctx, vault.PutRequest{Change: vault.Change{Token: c.token}, Name: name,
				Value: valueOf(name, 9, scaleBytes)})
			return err
		}},
		{name: "supervise, nothing is due", things: 1, do: supervise(0, 0)},
		{name: "enqueue what is due", things: due, before: func(ctx context.Context, s *store) error {
			return s.exec(ctx,
				`UPDATE vault.rotation_jobs SET state = 'superseded', finished_at = now() WHERE state IN ('queued', 'claimed')`,
				fmt.Sprintf(`UPDATE vault.secrets SET next_rotation_at = now() - interval '1 hour' WHERE id IN (
					SELECT id FROM vault.secrets WHERE kind = 'automatic' ORDER BY next_rotation_at LIMIT %d)`, due))
		}, do: supervise(due, 0)},
		{name: "claim 50 of the backlog", things: claimed, rowsRead: inFlight, once: queue(backlog), do: claim},
		{name: "claim 50, at the end of the backlog", things: claimed, rowsRead: inFlight,
			once: drainTo(maxRuns*claimed, backlog), do: claim},
		{name: "complete a rotation", things: 1, once: queue(claimed), do: complete},
		{name: "expire what grace has ended", things: ended, before: func(ctx context.Context, s *store) error {
			return s.exec(ctx,
				`UPDATE vault.secrets SET next_rotation_at = now() + interval '30 days' WHERE next_rotation_at <= now()`,
				fmt.Sprintf(`UPDATE vault.secret_versions SET expires_at = now() - interval '1 hour'
					WHERE (secret_id, version) IN (
						SELECT secret_id, version FROM vault.secret_versions
							WHERE removed_at IS NULL AND expires_at > now() ORDER BY expires_at LIMIT %d)`, ended))
		}, do: supervise(0, ended)},
		// It counts secrets and versions, by indexes after an autovacuum, for which a run as short as this does not
		// wait.
		{name: "status", things: 1, rowsRead: float64(versionsEach*s.secrets + 2*backlog),
			once: func(ctx context.Context, s *store) error {
				return s.exec(ctx, `VACUUM ANALYZE vault.secrets`, `VACUUM ANALYZE vault.secret_versions`)
			}, do: func(ctx context.Context, c *client) error {
				status, err := c.vault.Status(ctx)
				if err == nil && status.Secrets != int64(c.secrets) {
					err = fmt.Errorf("status counts %d secrets, want %d", status.Secrets, c.secrets)
				}
				return err
			}},
		// It reads the open jobs that the operations above have left, and no secret, since none is due.
		{name: "health", things: 1, rowsRead: inFlight, do: func(ctx context.Context, c *client) error {
			_, err := c.vault.Health(ctx)
			return err
		}},
	}
}

func counted(want int) func([]db.SecretRow, error) error {
	return func(rows []db.SecretRow, err error) error {
		if err == nil && len(rows) != want {
			err = fmt.Errorf("got %d secrets, want %d", len(rows), want)
		}
		return err
	}
}

// nameUnder is the n-th name under a prefix.
func (c *client) nameUnder(ctx context.Context, prefix string, n int) (string, error) {
	return c.queryValue(ctx, fmt.Sprintf(
		`SELECT name FROM vault.secrets WHERE name ^@ '%s' ORDER BY name OFFSET %d LIMIT 1`, prefix, n))
}

func supervise(enqueued, expired int) func(context.Context, *client) error {
	return func(ctx context.Context, c *client) error {
		got, err := c.writer.Supervise(ctx, max(enqueued, expired, 1000))
		if err == nil && (got.Enqueued != enqueued || got.Expired != expired) {
			err = fmt.Errorf("the supervisor did %+v, want %d enqueued and %d expired", got, enqueued, expired)
		}
		return err
	}
}

// queue fills the backlog up, as hours without a worker would.
func queue(backlog int) func(context.Context, *store) error {
	return func(ctx context.Context, s *store) error {
		return s.exec(ctx,
			`UPDATE vault.rotation_jobs SET state = 'superseded', finished_at = now() WHERE state = 'claimed'`,
			fmt.Sprintf(`INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after)
				SELECT id, name, current_version, now() - n * interval '1 second', now() - n * interval '1 second' FROM (
					SELECT s.*, row_number() OVER () AS n FROM vault.secrets s WHERE kind = 'automatic' AND NOT EXISTS (
						SELECT FROM vault.rotation_jobs j WHERE j.secret_id = s.id AND j.state = 'queued')
					LIMIT greatest(0, %d - (SELECT count(*) FROM vault.rotation_jobs WHERE state = 'queued'))) s`, backlog))
	}
}

// drainTo completes jobs of a backlog, in the order of workers, until left are queued.
func drainTo(left, backlog int) func(context.Context, *store) error {
	return func(ctx context.Context, s *store) error {
		if err := queue(backlog)(ctx, s); err != nil {
			return err
		}
		return s.exec(ctx, fmt.Sprintf(`DO $$ BEGIN
			WHILE (SELECT count(*) FROM vault.rotation_jobs WHERE state = 'queued') > %d LOOP
				PERFORM vault.claim_rotations('bench', least(1000,
					(SELECT count(*) FROM vault.rotation_jobs WHERE state = 'queued')::int - %d), interval '1 hour');
				UPDATE vault.rotation_jobs SET state = 'done', finished_at = now(), to_version = from_version + 1
					WHERE state = 'claimed';
				COMMIT;
			END LOOP; END $$`, left, left))
	}
}

func claim(ctx context.Context, c *client) error {
	jobs, err := c.writer.ClaimRotations(ctx, "bench", claimed, 0, time.Hour)
	if err == nil && len(jobs) != claimed {
		err = fmt.Errorf("got %d jobs, want %d", len(jobs), claimed)
	}
	return err
}

// complete is one rotation's transaction, with bytes made beforehand.
func complete(ctx context.Context, c *client) error {
	jobs, err := c.writer.ClaimRotations(ctx, "bench", 1, 0, time.Hour)
	if err != nil {
		return err
	}
	if len(jobs) != 1 {
		return fmt.Errorf("got %d jobs, want 1", len(jobs))
	}
	_, err = c.conn.Exec(ctx, `SELECT vault.complete_rotations(ARRAY[$1::bigint], ARRAY[$2::int],
		ARRAY[ROW($3, 1, 'k', '\x01', decode(repeat('00', 24), 'hex'), decode(repeat('11', 48), 'hex'),
			decode(repeat('22', 32), 'hex'), $4)::vault.sealed_value], ARRAY[gen_random_uuid()], true)`,
		jobs[0].ID, jobs[0].Attempt, jobs[0].FromVersion+1, envelope.AAD(jobs[0].Name, jobs[0].FromVersion+1))
	return err
}
