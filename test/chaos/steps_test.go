package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/kms/kmsfake"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

func TestMain(m *testing.M) { os.Exit(vaulttest.Main(m)) }

// bench is a vault on the shared cluster, with a proxy for every statement and a key service that can fail.
type bench struct {
	Cluster
	store    *vaulttest.Store
	proxy    *pgproxy.Proxy
	fake     *kmsfake.Fake
	ledger   Ledger
	timeline Timeline
}

func mustBench(t *testing.T) *bench {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	b := &bench{store: vaulttest.New(t), fake: kmsfake.New("eu-west-1", "vault")}
	kmsURL, err := b.fake.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.fake.Close)
	node := b.store.Cluster.Primary()
	if b.proxy,
		err = pgproxy.New("unix", filepath.Join(node.SocketDir(), ".s.PGSQL."+strconv.Itoa(node.Port()))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.proxy.Close)
	b.Cluster = Cluster{Token: vaulttest.AdminToken(t), Synchronous: true,
		KMSKeys: []string{"awskms:///alias/vault?region=eu-west-1&endpoint=" + kmsURL},
		WriteURL: fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable target_session_attrs=read-write",
			b.proxy.Port(), vaulttest.Daemon, b.store.Database),
		SuperuserURL: b.store.URL(vaulttest.Superuser)}
	return b
}

func (b *bench) mustOpen(t *testing.T) *vault.Vault {
	t.Helper()
	v, err := b.openPrimary(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.close)
	return v.Vault
}

// mustBeWhole fails unless the oracle's verdict is good.
func (b *bench) mustBeWhole(t *testing.T) Verdict {
	t.Helper()
	report, err := Conclude(t.Context(), b.Cluster, &b.ledger, &b.timeline)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range report.Verdict.Violations {
		t.Error(text)
	}
	return report.Verdict
}

// Each step of a put, failed, and done with the answer lost. Each ends definitely: a step lost before COMMIT is
// repeated, and a lost COMMIT is resolved.
func TestEveryStepOfAPut(t *testing.T) {
	b := mustBench(t)
	v := b.mustOpen(t)
	w := &Workload{Cluster: b.Cluster, Ledger: &b.ledger, Timeline: &b.timeline}
	for _, step := range []struct {
		sql  string
		want Outcome
	}{
		{"deleted_at FROM vault.secrets", Failed}, // the look-up of the version: nothing was begun
		{`^begin(?s:.*)vault.challenge`, Acked},
		{"vault.authorize_proof(?s:.*)vault.put_version", Acked},
		{`^commit`, Acked},
	} {
		for _, when := range []pgproxy.When{pgproxy.Before, pgproxy.After} {
			t.Run(step.sql+" "+when.String(), func(t *testing.T) {
				name := fmt.Sprintf("step%d", b.proxy.CutsMade())
				if got := w.put(t.Context(), v, 1, Write{Action: "put", Name: name, Expect: 0}); got.Outcome != Acked {
					t.Fatalf("the put before: %s: %s", got.Outcome, got.Why)
				}
				before := b.proxy.CutsMade()
				b.proxy.Cut(pgproxy.Cut{SQL: step.sql, When: when, How: pgproxy.RST, Times: 1})
				got := w.put(t.Context(), v, 1, Write{Action: "put", Name: name, Expect: 1})
				if b.proxy.CutsMade() != before+1 {
					t.Fatalf("a put makes no request with %q any more", step.sql)
				}
				if got.Outcome != step.want {
					t.Errorf("got %s: %s, want %s", got.Outcome, got.Why, step.want)
				}
				if after := w.put(t.Context(), v, 1, Write{Action: "put", Name: name, Expect: -1}); after.Outcome != Acked {
					t.Errorf("the put after: %s: %s", after.Outcome, after.Why)
				}
				b.mustBeWhole(t)
			})
		}
	}
}

// The step before the database: a data key that was not made, or was made and lost on the way. The put requests
// another.
func TestDataKeyStepOfAPut(t *testing.T) {
	for name, kind := range map[string]kmsfake.Kind{"failed": kmsfake.Reset, "done, reply lost": kmsfake.LostReply} {
		t.Run(name, func(t *testing.T) {
			b := mustBench(t)
			w := &Workload{Cluster: b.Cluster, Ledger: &b.ledger, Timeline: &b.timeline}
			if err := b.fake.Inject(kmsfake.Fault{Kind: kind, Op: "GenerateDataKey", Times: 1}); err != nil {
				t.Fatal(err)
			}
			if got := w.put(t.Context(), b.mustOpen(t), 1, Write{Action: "put", Name: "a", Expect: 0}); got.Outcome != Acked {
				t.Errorf("got %s: %s, want it acknowledged", got.Outcome, got.Why)
			}
			if calls := b.fake.Calls()["GenerateDataKey"]; calls != 2 {
				t.Errorf("the key service was asked %d times, want 2", calls)
			}
			b.mustBeWhole(t)
		})
	}
}

// COMMIT without an answer, in each way that a network can lose it; a client that hangs must time out first.
func TestEveryWayToLoseACommit(t *testing.T) {
	for _, how := range []pgproxy.Ending{pgproxy.FIN, pgproxy.Hang} { // RST is among the steps
		for _, when := range []pgproxy.When{pgproxy.Before, pgproxy.After} {
			t.Run(how.String()+" "+when.String(), func(t *testing.T) {
				b := mustBench(t)
				v := b.mustOpen(t)
				w := &Workload{Cluster: b.Cluster, Ledger: &b.ledger, Timeline: &b.timeline}
				b.proxy.Cut(pgproxy.Cut{SQL: `^commit`, When: when, How: how, Times: 1, For: 2 * time.Second})
				if got := w.put(t.Context(), v, 1, Write{Action: "put", Name: "a", Expect: 0}); got.Outcome != Acked {
					t.Errorf("got %s: %s, want it resolved", got.Outcome, got.Why)
				}
				b.mustBeWhole(t)
			})
		}
	}
}

// memory is a target that keeps its value, and all values that it was set to before.
type memory struct {
	mu   sync.Mutex
	now  string
	sets []string
}

var _ rotation.Target = (*memory)(nil)

func (m *memory) Check(_ context.Context, _ string, c rotation.Change) (rotation.Found, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now != "" && m.now == string(c.Candidate) {
		return rotation.FoundCandidate, nil
	}
	return rotation.FoundCurrent, nil
}

func (m *memory) Restore(context.Context, string, rotation.Change) error {
	return errors.New("it was given a value that it does not have")
}

func (m *memory) Shape(_ string, _, generated []byte) ([]byte, error) {
	return append([]byte("shaped-"), generated...), nil
}

func (m *memory) Set(_ context.Context, _ string, c rotation.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = string(c.Candidate)
	m.sets = append(m.sets, m.now)
	return nil
}

func (m *memory) Test(_ context.Context, _ string, c rotation.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now != string(c.Candidate) {
		return errors.New("it has another value")
	}
	return nil
}

// Each step of a rotation, failed, and done with the answer lost, without and with a target. Each time there is one new
// version, and the target was set to that value and no other.
func TestEveryStepOfARotation(t *testing.T) {
	generated := []string{"vault.supervise", "vault.claim_rotations", `^begin`, "vault.complete_rotation", `^commit`}
	targeted := []string{"vault.supervise", "vault.claim_rotations", "vault.rotation_candidate", "vault.store_candidate",
		`^begin`, `^commit`, "vault.finish_rotation"}
	for kind, steps := range map[string][]string{"generated": generated, "with a target": targeted} {
		t.Run(kind, func(t *testing.T) {
			b := mustBench(t)
			v := b.mustOpen(t)
			w := &Workload{Cluster: b.Cluster, Ledger: &b.ledger, Timeline: &b.timeline, RotateEvery: time.Hour}
			if kind == "with a target" {
				w.Rotator = "exec program=memory"
			}
			made := 0
			for _, sql := range steps {
				for _, when := range []pgproxy.When{pgproxy.Before, pgproxy.After} {
					passed := t.Run(sql+" "+when.String(), func(t *testing.T) {
						b.mustSurvive(t, w, v, made, pgproxy.Cut{SQL: sql, When: when, How: pgproxy.RST, Times: 1})
					})
					if !passed {
						return // its job may be open
					}
					made++
				}
			}
		})
	}
}

// mustSurvive rotates one more secret than were made, and cuts one request of that.
func (b *bench) mustSurvive(t *testing.T, w *Workload, v *vault.Vault, made int, cut pgproxy.Cut) {
	t.Helper()
	secret := 4 * made // which has a rotator
	target := &memory{}
	if err := w.prepareDue(t.Context(), v, secret); err != nil {
		t.Fatal(err)
	}
	defer w.leaveDue()
	if err := w.makeDueUnder(t.Context(), dueName(secret), 1); err != nil {
		t.Fatal(err)
	}
	before := b.proxy.CutsMade()
	b.proxy.Cut(cut)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	log := slog.New(slog.DiscardHandler)
	supervisor := &rotation.Supervisor{Vault: v, Interval: 100 * time.Millisecond, Log: log}
	worker := &rotation.Worker{Vault: v, Target: target, ID: "w", Concurrency: 1, Poll: 100 * time.Millisecond,
		ClaimTimeout: 3 * time.Second, Log: log}
	running.Go(func() { supervisor.Run(ctx) })
	running.Go(func() { worker.Run(ctx) })
	b.mustRotate(t, dueName(secret))
	stop()
	running.Wait()
	if b.proxy.CutsMade() != before+1 {
		t.Fatalf("a rotation makes no request with %q any more", cut.SQL)
	}
	if verdict := b.mustBeWhole(t); verdict.Rotations != made+1 || verdict.Versions != 2*(made+1) {
		t.Errorf("got %d rotations and %d versions of %d secrets, want one and two of each", verdict.Rotations,
			verdict.Versions, made+1)
	}
	if w.Rotator != "" {
		target.mustHave(t, v, dueName(secret))
	}
}

// mustRotate waits until a secret has its second version, and makes a delayed retry due now.
func (b *bench) mustRotate(t *testing.T, name string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), b.SuperuserURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	err = until(t.Context(), 2*time.Minute, "it is rotated", func() (bool, error) {
		var version int
		err := conn.QueryRow(t.Context(), `WITH hurried AS (UPDATE vault.rotation_jobs SET run_after = now()
				WHERE state = 'queued' AND run_after > now())
			SELECT current_version FROM vault.secrets WHERE name = $1`, name).Scan(&version)
		return version == 2, err
	})
	if err != nil {
		t.Fatalf("%v: %s", err, b.store.MustQuery(t, `SELECT jsonb_agg(j) FROM vault.rotation_jobs j`))
	}
}

// mustHave fails unless the target has the current value, and was set to no other.
func (m *memory) mustHave(t *testing.T, v *vault.Vault, name string) {
	t.Helper()
	current, err := v.Get(t.Context(), name, vault.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer current.Wipe()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, value := range m.sets {
		if value != string(current.Value) {
			t.Errorf("the target was given another value, %d of %d", i+1, len(m.sets))
		}
	}
	if m.now != string(current.Value) {
		t.Error("the target does not have the current value")
	}
}

// A put whose COMMIT got no answer is repeated, and the second attempt meets a server without room for its audit row.
// That error says nothing about the first attempt, which was committed.
func TestErrorOfASecondAttemptSaysNothingOfTheFirst(t *testing.T) {
	for name, trigger := range map[string]string{
		"before COMMIT": `CREATE TRIGGER no_room BEFORE INSERT ON vault.audit_log FOR EACH ROW`,
		"at COMMIT": `CREATE CONSTRAINT TRIGGER no_room AFTER INSERT ON vault.audit_log
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW`,
	} {
		t.Run(name, func(t *testing.T) {
			b := mustBench(t)
			w := &Workload{Cluster: b.Cluster, Ledger: &b.ledger, Timeline: &b.timeline}
			// A sequence does not roll back, so the third replay succeeds.
			b.store.MustExec(t, `CREATE SEQUENCE public.replays`, `CREATE FUNCTION public.no_room()
				RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
				IF nextval('public.replays') <= 2 THEN
					RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100';
				END IF;
				RETURN NEW; END $$`, trigger+` WHEN (NEW.action = 'put.replay') EXECUTE FUNCTION public.no_room()`)
			b.proxy.Cut(pgproxy.Cut{SQL: `^commit`, When: pgproxy.After, How: pgproxy.RST, Times: 1})
			if got := w.put(t.Context(), b.mustOpen(t), 1, Write{Action: "put", Name: "a", Expect: 0}); got.Outcome != Acked {
				t.Errorf("got %s: %s, want it acknowledged", got.Outcome, got.Why)
			}
			if got := b.store.MustQuery(t, `SELECT last_value FROM public.replays`); got != "3" {
				t.Errorf("got %s replays, want 3", got)
			}
			b.mustBeWhole(t)
		})
	}
}

// The oracle reads a real database, and finds what a superuser removed from it.
func TestOracleSeesWhatWasTakenOut(t *testing.T) {
	b := mustBench(t)
	v := b.mustOpen(t)
	w := &Workload{Cluster: b.Cluster, Ledger: &b.ledger, Timeline: &b.timeline}
	for version := range 3 {
		if got := w.put(t.Context(), v, 1, Write{Action: "put", Name: "a", Expect: version}); got.Outcome != Acked {
			t.Fatalf("%s: %s", got.Outcome, got.Why)
		}
	}
	b.mustBeWhole(t)
	b.store.MustExec(t, `ALTER TABLE vault.audit_log DISABLE TRIGGER ALL; DELETE FROM vault.audit_log WHERE version = 1`,
		`ALTER TABLE vault.secret_versions DISABLE TRIGGER ALL; DELETE FROM vault.secret_versions WHERE version = 2;
		UPDATE vault.secret_versions SET kms_key_id = 'k' WHERE version = 3`)
	report, err := Conclude(t.Context(), b.Cluster, &b.ledger, &b.timeline)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(report.Verdict.Violations, "\n")
	for _, want := range []string{`lost: put of "a" was acknowledged as version 2`,
		`gap: "a" has version 3 where 2 belongs`,
		`audit: "a" version 1 has 0 rows`, `audit: a row says that "a" version 2 was made`,
		`sealed for good: "a" version 3 does not open`} {
		if !strings.Contains(all, want) {
			t.Errorf("no complaint %q among\n%s", want, all)
		}
	}
}
