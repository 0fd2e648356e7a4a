package chaos

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/vault"
)

// Settle waits until no rotation is open and no secret is due, since the supervisor enqueues a due secret in its next
// round. It makes delayed retries due now, as vaultctl rotation retry does. Rotations that are still open at the limit
// are no error: the oracle sees them.
func Settle(ctx context.Context, c Cluster, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.SuperuserURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var open int
		err := conn.QueryRow(ctx, `
			WITH hurried AS (UPDATE vault.rotation_jobs SET run_after = now() WHERE state = 'queued' AND run_after > now())
			SELECT (SELECT count(*) FROM vault.rotation_jobs WHERE state IN ('queued', 'claimed'))
				+ (SELECT count(*) FROM vault.secrets WHERE next_rotation_at <= now() AND deleted_at IS NULL)`).Scan(&open)
		if err == nil && open == 0 || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wait(ctx, 200*time.Millisecond)
	}
}

// Facts are the rows of the surviving primary, before they are judged.
type Facts struct {
	Secrets  []SecretFact
	Versions []VersionFact
	Audit    []AuditFact
	Jobs     []JobFact
	Apps     []AppFact
}

// SecretFact is a row of vault.secrets.
type SecretFact struct {
	Name    string
	Current int
}

// VersionFact is a row of vault.secret_versions and the result of opening it.
type VersionFact struct {
	Name    string
	Version int
	Request uuid.UUID
	Current bool   // it has no end
	Live    bool   // it must open
	Hash    Hash   `db:"-"`
	OpenErr string `db:"-"`
}

// AuditFact is a row of vault.audit_log that says a version was made.
type AuditFact struct {
	Name    string
	Version int
	Request uuid.UUID
}

// JobFact is a row of vault.rotation_jobs.
type JobFact struct {
	ID        int64
	Name      string
	State     string
	Due       time.Time
	To        int // the version it made
	Finished  time.Time
	LastError string
}

// Gather reads the facts from the present primary, and opens every live version as a client does.
func Gather(ctx context.Context, c Cluster) (Facts, error) {
	conn, err := pgx.Connect(ctx, c.SuperuserURL)
	if err != nil {
		return Facts{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// one snapshot for all
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return Facts{}, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it only read
	var f Facts
	if f.Secrets, err = gather[SecretFact](ctx, tx, `SELECT name, current_version FROM vault.secrets`); err != nil {
		return f, err
	}
	if f.Versions, err = gather[VersionFact](ctx, tx, `SELECT name, version, request_id, expires_at IS NULL,
			removed_at IS NULL AND (expires_at IS NULL OR expires_at > now() + interval '10 minutes')
			FROM vault.secret_versions`); err != nil {
		return f, err
	}
	if f.Audit, err = gather[AuditFact](ctx, tx, `SELECT secret, version, request_id FROM vault.audit_log
			WHERE outcome = 'ok' AND action IN ('put', 'rotate', 'rollback')`); err != nil {
		return f, err
	}
	if f.Jobs, err = gather[JobFact](ctx, tx, `
		SELECT id, name, state, due_at, coalesce(to_version, 0), coalesce(finished_at, 'epoch'),
			coalesce(last_error, '') FROM vault.rotation_jobs`); err != nil {
		return f, err
	}
	if f.Apps, err = gatherApps(ctx, tx); err != nil {
		return f, err
	}
	return f, openAll(ctx, c, f.Versions)
}

func gather[T any](ctx context.Context, tx pgx.Tx, sql string) ([]T, error) {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

func openAll(ctx context.Context, c Cluster, versions []VersionFact) error {
	const atOnce = 4
	v, err := c.openPrimary(ctx, atOnce)
	if err != nil {
		return err
	}
	defer v.close()
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range versions {
		f := &versions[i]
		if !f.Live {
			continue
		}
		group.Go(func() error {
			secret, err := v.Get(ctx, f.Name, vault.GetOptions{Version: f.Version})
			if err != nil {
				f.OpenErr = err.Error()
				return ctx.Err()
			}
			defer secret.Wipe()
			f.Hash = sha256.Sum256(secret.Value)
			return nil
		})
	}
	return group.Wait()
}

// Conclude waits for open rotations, gathers the facts and judges them.
func Conclude(ctx context.Context, c Cluster, l *Ledger, t *Timeline) (Report, error) {
	if err := Settle(ctx, c, time.Minute); err != nil {
		return Report{}, fmt.Errorf("waiting for the rotations to settle: %w", err)
	}
	facts, err := Gather(ctx, c)
	if err != nil {
		return Report{}, fmt.Errorf("gathering the facts: %w", err)
	}
	r := Report{Verdict: Judge(facts, l, t, c.Synchronous), Faults: t.Faults(),
		Failovers: Recoveries(t, l.Writes(), facts.Jobs), Async: !c.Synchronous}
	if c.Synchronous {
		v := &r.Verdict
		var violations []string
		v.Names, v.Operations, violations = Linearizable(l.Writes(), t.settledReads(l.Reads()), 30*time.Second)
		v.Violations = append(v.Violations, violations...)
	}
	return r, nil
}

// Verdict is the oracle's result. It is good if there are no violations.
type Verdict struct {
	Violations []string

	Acked, Failed, Unknown int
	Made, NotMade          int // of the unknown writes
	Lost                   int // acknowledged, and absent or with another value
	Doubled                int // one write in two versions, one due time rotated twice
	Unresolved             int // rotations that never settled
	Versions, Secrets      int
	Rotations              int // completed
	DueTimes               int
	ReadsOK, ReadsAll      int // on nodes without a fault, while the primary was dead
	Reads                  int // answered, of all nodes
	Names, Operations      int // whose histories were checked for linearizability
	Apps                   AppVerdict
}

func (v *Verdict) fail(format string, args ...any) {
	v.Violations = append(v.Violations, fmt.Sprintf(format, args...))
}

// Judge compares the ledger with the facts. Without synchronous replication an acknowledged write may be lost in a
// failover: it is counted, and no violation.
func Judge(f Facts, l *Ledger, t *Timeline, synchronous bool) Verdict {
	v := Verdict{Versions: len(f.Versions), Secrets: len(f.Secrets)}
	writes := l.Writes()
	v.judgeWrites(f, writes, synchronous)
	v.judgeOrigin(f, writes)
	v.judgeShape(f)
	v.judgeAudit(f)
	v.judgeRotations(f, l.Dues(), synchronous)
	v.judgeReads(f, l, t, synchronous)
	v.judgeApps(f, l, t, synchronous)
	return v
}

type place struct {
	name    string
	version int
}

// judgeWrites compares each write with the versions that have its value.
func (v *Verdict) judgeWrites(f Facts, writes []Write, synchronous bool) {
	byHash := map[Hash][]VersionFact{}
	byRequest := map[uuid.UUID]VersionFact{}
	for _, fact := range f.Versions {
		if fact.Live && fact.OpenErr == "" {
			byHash[fact.Hash] = append(byHash[fact.Hash], fact)
		}
		byRequest[fact.Request] = fact
	}
	for _, w := range writes {
		found := byHash[w.Hash]
		if len(found) > 1 {
			v.Doubled++
			v.fail("doubled: %s of %q is version %d and version %d", w.Action, w.Name, found[0].Version, found[1].Version)
		}
		_, requested := byRequest[w.Request]
		there := len(found) > 0 || (w.Request != uuid.Nil && requested)
		switch w.Outcome {
		case Acked:
			v.Acked++
			at, ok := byRequest[w.Request]
			if ok && at.Name == w.Name && at.Version == w.Version && at.Hash == w.Hash {
				continue
			}
			v.Lost++
			if synchronous {
				v.fail("lost: %s of %q was acknowledged as version %d (request %s) and is not there", w.Action, w.Name,
					w.Version, w.Request)
			}
		case Failed:
			v.Failed++
			if there {
				v.fail("present: %s of %q was said to have failed (%s), and is there", w.Action, w.Name, w.Why)
			}
		case Unknown:
			v.Unknown++
			if there {
				v.Made++
			} else {
				v.NotMade++
			}
		}
	}
}

// judgeOrigin looks for versions without a write or rotation.
func (v *Verdict) judgeOrigin(f Facts, writes []Write) {
	asked := map[string]map[Hash]bool{}
	for _, w := range writes {
		if asked[w.Name] == nil {
			asked[w.Name] = map[Hash]bool{}
		}
		asked[w.Name][w.Hash] = true
	}
	rotated := map[place]bool{}
	for _, j := range f.Jobs {
		if j.State == "done" {
			rotated[place{j.Name, j.To}] = true
		}
	}
	for _, fact := range f.Versions {
		switch {
		case !fact.Live:
		case fact.OpenErr != "":
			v.fail("sealed for good: %q version %d does not open: %s", fact.Name, fact.Version, fact.OpenErr)
		case !asked[fact.Name][fact.Hash] && !rotated[place{fact.Name, fact.Version}]:
			v.fail("unasked: nobody wrote %q version %d", fact.Name, fact.Version)
		}
	}
}

// judgeShape checks that every secret has versions 1 to n, and that only the last is current.
func (v *Verdict) judgeShape(f Facts) {
	numbers, current := map[string][]int{}, map[string][]int{}
	for _, fact := range f.Versions {
		numbers[fact.Name] = append(numbers[fact.Name], fact.Version)
		if fact.Current {
			current[fact.Name] = append(current[fact.Name], fact.Version)
		}
	}
	for _, s := range f.Secrets {
		got := numbers[s.Name]
		slices.Sort(got)
		for i, n := range got {
			if n != i+1 {
				v.fail("gap: %q has version %d where %d belongs", s.Name, n, i+1)
				break
			}
		}
		if len(current[s.Name]) != 1 || current[s.Name][0] != s.Current || len(got) != s.Current {
			v.fail("current: %q is at version %d of %d; without an end are %v", s.Name, s.Current, len(got), current[s.Name])
		}
		delete(numbers, s.Name)
	}
	for _, name := range sortedKeys(numbers) {
		v.fail("orphans: %q has versions and is no secret", name)
	}
}

// judgeAudit pairs versions and audit rows by request.
func (v *Verdict) judgeAudit(f Facts) {
	rows := map[uuid.UUID][]AuditFact{}
	for _, a := range f.Audit {
		rows[a.Request] = append(rows[a.Request], a)
	}
	for _, fact := range f.Versions {
		got := rows[fact.Request]
		if len(got) != 1 || got[0].Name != fact.Name || got[0].Version != fact.Version {
			v.fail("audit: %q version %d has %d rows that say it was made", fact.Name, fact.Version, len(got))
		}
		delete(rows, fact.Request)
	}
	for _, got := range rows {
		v.fail("audit: a row says that %q version %d was made, which is not there", got[0].Name, got[0].Version)
	}
}

// judgeRotations checks that each due time has exactly one completed rotation, which made exactly one version, and that
// no job is open.
func (v *Verdict) judgeRotations(f Facts, dues []Due, synchronous bool) {
	versions := map[place]bool{}
	for _, fact := range f.Versions {
		versions[place{fact.Name, fact.Version}] = true
	}
	done, made := map[Due]int{}, map[place]int{}
	for _, j := range f.Jobs {
		switch j.State {
		case "done":
			v.Rotations++
			done[dueOf(j.Name, j.Due)]++
			made[place{j.Name, j.To}]++
			if !versions[place{j.Name, j.To}] {
				v.fail("rotation job %d of %q says it made version %d, which is not there", j.ID, j.Name, j.To)
			}
		case "superseded":
		default:
			v.Unresolved++
			v.fail("unresolved: rotation job %d of %q is %s: %s", j.ID, j.Name, j.State, cmp.Or(j.LastError, "no error"))
		}
	}
	for due, n := range done {
		if n > 1 {
			v.Doubled++
			v.fail("doubled: %q was rotated %d times for what was due at %s", due.Name, n, due.At.Format(time.RFC3339Nano))
		}
	}
	for at, n := range made {
		if n > 1 {
			v.Doubled++
			v.fail("doubled: %d rotation jobs made %q version %d", n, at.name, at.version)
		}
	}
	v.DueTimes = len(dues)
	for _, d := range dues {
		if synchronous && done[dueOf(d.Name, d.At)] == 0 {
			v.fail("lost: %q was due at %s and was not rotated for it", d.Name, d.At.Format(time.RFC3339Nano))
		}
	}
}

// dueOf normalizes the time, so that equal moments are equal keys.
func dueOf(name string, at time.Time) Due { return Due{name, at.UTC().Round(0)} }

// judgeReads checks that reads on a node without a fault never fail while the primary is dead, return only values that
// were written, and never go back to an older version.
func (v *Verdict) judgeReads(f Facts, l *Ledger, t *Timeline, synchronous bool) {
	for _, a := range l.Attempts() {
		if !t.mustSucceed(a) {
			continue
		}
		v.ReadsAll++
		if a.Err == "" {
			v.ReadsOK++
		} else {
			v.fail("read: %s did not answer while the primary was dead: %s", a.Node, a.Err)
		}
	}
	values := map[place]Hash{}
	for _, fact := range f.Versions {
		if fact.Live && fact.OpenErr == "" {
			values[place{fact.Name, fact.Version}] = fact.Hash
		}
	}
	last := map[string]Read{} // by node and name; each node has one reader
	for _, r := range t.settledReads(l.Reads()) {
		if r.Node == "" {
			continue
		}
		v.Reads++
		if hash, ok := values[place{r.Name, r.Version}]; synchronous && (!ok || hash != r.Hash) {
			v.fail("read: %s showed %q version %d with a value that is not that version's", r.Node, r.Name, r.Version)
		}
		key := r.Node + " " + r.Name
		if before, ok := last[key]; ok && r.Version < before.Version && !t.restarted(r.Node, before.Called, r.Returned) {
			v.fail("read: %s showed %q version %d after version %d", r.Node, r.Name, r.Version, before.Version)
		}
		last[key] = r
	}
}
