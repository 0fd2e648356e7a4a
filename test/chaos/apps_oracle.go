package chaos

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// AppFact is a row of vault.app_credentials.
type AppFact struct {
	Token     uuid.UUID
	App       string
	Revoked   bool
	Committed time.Time // the last change; zero without track_commit_timestamp
}

// gatherApps reads the tokens of apps, and the time of each one's last commit if the server keeps it.
func gatherApps(ctx context.Context, tx pgx.Tx) ([]AppFact, error) {
	facts, err := gather[AppFact](ctx, tx, `SELECT id, app, revoked_at IS NOT NULL,
			coalesce(CASE WHEN current_setting('track_commit_timestamp')::boolean THEN pg_xact_commit_timestamp(xmin) END,
				'epoch')
		FROM vault.app_credentials WHERE kind = 'token'`)
	for i := range facts {
		if facts[i].Committed.Unix() == 0 {
			facts[i].Committed = time.Time{}
		}
	}
	return facts, err
}

// AppVerdict is the oracle's result about apps.
type AppVerdict struct {
	Made, Ended           int             // apps created and tokens revoked, acknowledged
	MadeLost, EndedLost   int             // acknowledged, and not there
	Reads, Served         int             // with tokens: answered, and with a value
	AfterReplay           int             // reads that began after the node had replayed the revocation of their token
	Outside               int             // reads of names outside the app's rules
	FirstRefusals         []time.Duration // of each revoked token on each standby, from the commit
	FirstUndisturbed      []time.Duration // of these, with a primary and without a fault of the node in between
	FirstAfterReplay      []time.Duration // from the first time that the node showed the revocation
	ServedAfterRevocation int             // reads that began after the revocation had committed, on a standby without it
}

// judgeApps checks what apps were shown:
//   - A token that the node's server shows as revoked opens nothing, from readConfirm after that moment on.
//   - A token that it shows as live, before and after, is not refused for the app's own name.
//   - No token opens a name outside the app's rules, or learns whether there is one.
//   - With synchronous replication an acknowledged creation or revocation is there in the end. Without, it may be lost
//     in a failover: it is counted.
func (v *Verdict) judgeApps(f Facts, l *Ledger, t *Timeline, synchronous bool) {
	facts := map[uuid.UUID]AppFact{}
	for _, fact := range f.Apps {
		facts[fact.Token] = fact
	}
	changes := l.AppChanges()
	prepared := map[uuid.UUID]bool{}
	for _, c := range changes {
		prepared[c.Token] = prepared[c.Token] || c.Prepared
	}
	v.judgeAppChanges(facts, changes, synchronous)
	reads := l.AppReads()
	seen := map[watch]time.Time{}
	for _, r := range reads { // of one node and token: in order
		key := watch{r.Token, r.Node}
		if r.Before == Revoked && seen[key].IsZero() {
			seen[key] = r.Called
		}
		v.judgeAppRead(r, prepared[r.Token], seen[key])
	}
	v.timeRefusals(facts, changes, reads, t)
}

func (v *Verdict) judgeAppChanges(facts map[uuid.UUID]AppFact, changes []AppChange, synchronous bool) {
	made, ended := map[uuid.UUID]bool{}, map[uuid.UUID]bool{} // or perhaps
	for _, c := range changes {
		if c.Outcome != Failed {
			made[c.Token] = made[c.Token] || c.Action == "create"
			ended[c.Token] = ended[c.Token] || c.Action == "revoke"
		}
	}
	for _, c := range changes {
		fact, there := facts[c.Token]
		there = there && fact.App == c.App
		switch {
		case c.Outcome == Acked && c.Action == "create":
			v.Apps.Made++
			if !there {
				v.Apps.MadeLost++
				v.failIf(synchronous, "lost: app %q was acknowledged and is not there", c.App)
			}
		case c.Outcome == Acked:
			v.Apps.Ended++
			if there && !fact.Revoked {
				v.Apps.EndedLost++
				v.failIf(synchronous, "lost: the token of %q was acknowledged as revoked and is live", c.App)
			}
		case c.Outcome == Failed && c.Action == "create" && there && !made[c.Token]:
			v.fail("present: the creation of app %q was said to have failed (%s), and it is there", c.App, c.Why)
		case c.Outcome == Failed && c.Action == "revoke" && there && fact.Revoked && !ended[c.Token]:
			v.fail("present: the revocation of %q was said to have failed (%s), and it is there", c.App, c.Why)
		}
	}
}

func (v *Verdict) failIf(wrong bool, format string, args ...any) {
	if wrong {
		v.fail(format, args...)
	}
}

// readConfirm is vaultd's read_confirm: an answer is what its node had at most that long before the request.
const readConfirm = 20 * time.Millisecond

// watch is a token on a node.
type watch struct {
	token uuid.UUID
	node  string
}

// judgeAppRead judges one read. revokedSeen is when the node's server first showed the token as revoked; zero: not yet.
func (v *Verdict) judgeAppRead(r AppRead, prepared bool, revokedSeen time.Time) {
	if r.Status == 0 {
		return
	}
	v.Apps.Reads++
	if r.Status == http.StatusOK {
		v.Apps.Served++
	}
	unavailable := r.Status >= http.StatusInternalServerError
	same := r.After != Unseen // one server throughout
	if !r.Own {
		v.Apps.Outside++
		if r.Status != http.StatusForbidden && !unavailable {
			v.fail("outside: %s answered %q for %q, which is outside its rules, with status %d", r.Node, r.App, r.Name, r.Status)
		}
		return
	}
	if r.Before == Revoked && same {
		v.Apps.AfterReplay++
		if after := r.Called.Sub(revokedSeen); r.Status == http.StatusOK && after > readConfirm {
			v.fail("revoked: %s answered %q at %s with a value, %s after it had replayed the revocation of its token", r.Node,
				r.App, r.Called.Format(time.RFC3339Nano), after)
		}
		return
	}
	live := r.Before == Live && r.After == Live
	if (live || prepared) && r.Status != http.StatusOK && !unavailable {
		v.fail("refused: %s answered %q, whose token was live there, for its own %q with status %d", r.Node, r.App, r.Name,
			r.Status)
	}
	if r.Before == Absent && r.After == Absent && r.Status == http.StatusOK {
		v.fail("unknown: %s answered %q with a value, and knows no such token", r.Node, r.App)
	}
}

// timeRefusals measures, for each revoked token and each node that was a standby, the time until the first refusal.
func (v *Verdict) timeRefusals(facts map[uuid.UUID]AppFact, changes []AppChange, reads []AppRead,
	t *Timeline) {
	revocations, replayed, refused := map[uuid.UUID]bool{}, map[watch]time.Time{}, map[watch]bool{}
	for _, c := range changes {
		if c.Action == "revoke" {
			revocations[c.Token] = true
		}
	}
	for _, r := range reads { // of one node and token: in order
		fact := facts[r.Token]
		key := watch{r.Token, r.Node}
		if !revocations[r.Token] || !fact.Revoked || fact.Committed.IsZero() || !r.Standby || !r.Own || refused[key] {
			continue
		}
		if r.Before == Revoked && replayed[key].IsZero() {
			replayed[key] = r.Called
		}
		if r.Status == http.StatusOK && r.Called.After(fact.Committed) {
			v.Apps.ServedAfterRevocation++
		}
		if r.Status != http.StatusForbidden || r.Returned.Before(fact.Committed) || r.Before == Absent {
			continue
		}
		refused[key] = true
		v.Apps.FirstRefusals = append(v.Apps.FirstRefusals, r.Returned.Sub(fact.Committed))
		if !t.disturbed(r.Node, fact.Committed, r.Returned) {
			v.Apps.FirstUndisturbed = append(v.Apps.FirstUndisturbed, r.Returned.Sub(fact.Committed))
		}
		if seen := replayed[key]; !seen.IsZero() {
			v.Apps.FirstAfterReplay = append(v.Apps.FirstAfterReplay, r.Returned.Sub(seen))
		}
	}
}
