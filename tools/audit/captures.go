package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
)

// screens are the captures of the page, by name. Each starts a browser of its own.
var screens = []struct {
	name          string
	width, height int
	keys          []string
}{
	{"events", 120, 24, []string{"4"}},
	{"details", 120, 24, []string{"4", "e", "Enter"}},
	{"filter", 80, 20, []string{"/", "a", "c", "t", "i", "o", "n", ":", "r", "e", "Tab", "p", "r", "o", "d", "/", "Down"}},
	{"follow", 80, 18, []string{"f"}},
	{"secrets", 100, 16, []string{"Tab", "Down", "Down"}},
	{"small", 60, 15, []string{"4"}},
	{"help", 120, 30, []string{"?"}},
}

// captures writes the browser's screens into the page, between "<!-- capture NAME -->" and "<!-- end -->".
func captures(ctx context.Context, w *env, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := sample(ctx, w); err != nil {
		return fmt.Errorf("making the sample: %w", err)
	}
	for _, p := range screens {
		begin := []byte("<!-- capture " + p.name + " -->\n")
		before, rest, found := bytes.Cut(text, begin)
		_, after, ends := bytes.Cut(rest, []byte("<!-- end -->"))
		if !found || !ends {
			return fmt.Errorf("%s has no place for %q", path, p.name)
		}
		screen, err := w.screen(ctx, p.width, p.height, p.keys)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		text = fmt.Appendf(nil, "%s%s```\n%s```\n<!-- end -->%s", before, begin, screen, after)
	}
	return os.WriteFile(path, text, 0o644)
}

func (w *env) screen(ctx context.Context, width, height int, keys []string) (string, error) {
	t, err := w.terminal(ctx, width, height, w.cluster.Primary().URL("sample", superuser))
	if err != nil {
		return "", err
	}
	defer t.close()
	screen, err := t.press(keys...)
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(screen, "\n") + "\n") {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String(), err
}

// sample makes a vault of a few secrets, with two months of its log.
func sample(ctx context.Context, w *env) error {
	primary := w.cluster.Primary()
	if err := db.EnsureDatabase(ctx, primary.URL("postgres", superuser), "sample"); err != nil {
		return err
	}
	url := primary.URL("sample", superuser)
	if _, err := db.Migrate(ctx, url, "audit", ""); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range []string{
		`SELECT vault._audit_partitions()`,
		`SELECT vault._audit_partition((now() - make_interval(months => m))::date) FROM generate_series(1, 3) m`,
		`SELECT setseed(0.4)`,
		`INSERT INTO vault.secrets (name, kind, generator, rotation_interval, current_version, rotated_at,
				next_rotation_at, rotation_paused_at) VALUES
			('billing/smtp', 'manual', NULL, NULL, 3, now() - interval '40 days', NULL, NULL),
			('prod/api/stripe', 'manual', NULL, NULL, 12, now() - interval '9 days', NULL, NULL),
			('prod/db/password', 'automatic', 'chars:32:alnum', '30 days', 7, now() - interval '31 days',
				now() - interval '1 day', NULL),
			('prod/web/session', 'automatic', 'hex:32', '7 days', 41, now() - interval '2 days',
				now() + interval '5 days', NULL),
			('test/db/password', 'automatic', 'chars:32:alnum', '1 day', 230, now() - interval '3 hours',
				now() + interval '21 hours', now())`,
		`INSERT INTO vault.rotation_jobs (secret_id, name, from_version, state, attempt, due_at, run_after, last_error)
			SELECT id, name, current_version, 'failed', 10, next_rotation_at, next_rotation_at,
				'postgres-role app: connection refused' FROM vault.secrets WHERE name = 'prod/db/password'`,
		`INSERT INTO vault.audit_log (at, recorded_at, actor, db_role, client, node, action, secret, version,
				outcome, request_id, detail)
			SELECT at, at + interval '900 ms', actor, 'vaultd', client::inet, 'db' || 1 + n % 2, action, secret,
				1 + (random() * 40)::int,
				CASE WHEN denied THEN 'denied' ELSE 'ok' END, gen_random_uuid(),
				CASE WHEN denied THEN '{"reason": "the address is not on the allowlist"}'
					WHEN action = 'verify' THEN '{"valid": true, "match": "grace"}'
					ELSE '{"seq": ' || n || '}' END::jsonb
			FROM (SELECT n, now() - interval '60 days' * random() * random() AS at,
				(ARRAY['client:10.0.0.5', 'client:10.0.1.17', 'client:10.0.1.18'])[1 + n % 3] AS actor,
				(ARRAY['10.0.0.5', '10.0.1.17', '10.0.1.18'])[1 + n % 3] AS client,
				(ARRAY['read', 'read', 'read', 'verify'])[1 + n % 4] AS action,
				(ARRAY['prod/db/password', 'prod/api/stripe', 'prod/web/session', 'test/db/password',
					'prod/db/password'])[1 + (random() * 4)::int] AS secret, random() < 0.02 AS denied
				FROM generate_series(1, 4000) n) reads`,
		`INSERT INTO vault.audit_log (at, recorded_at, actor, db_role, client, node, action, secret, version,
				request_id, detail)
			SELECT at, at, CASE WHEN n % 3 = 0 THEN 'token:alice' ELSE 'worker:db1-2207' END,
				CASE WHEN n % 3 = 0 THEN 'operator' ELSE 'vaultd' END, CASE WHEN n % 3 = 0 THEN '10.0.9.4'::inet END,
				'db1', CASE WHEN n % 3 = 0 THEN 'put' ELSE 'rotate' END,
				(ARRAY['test/db/password', 'prod/web/session', 'prod/api/stripe'])[1 + n % 3], 40 + n,
				gen_random_uuid(), '{"kms_key_id": "awskms:///alias/vault"}'
			FROM (SELECT n, now() - interval '1 minute' - n * interval '13 hours' AS at FROM generate_series(0, 100) n) changes`,
		`VACUUM ANALYZE vault.audit_log`,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
