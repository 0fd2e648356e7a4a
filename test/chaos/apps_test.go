package chaos

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// appRun is goodRun with an app that keeps its token and one whose token is revoked at second 20, and replayed by n2 at
// second 22.
func appRun() (r *run, kept, gone uuid.UUID) {
	r = goodRun()
	kept, gone = uuid.New(), uuid.New()
	for _, c := range []AppChange{
		{Action: "create", App: "kept", Token: kept, Prepared: true, Outcome: Acked, Called: at(1), Returned: at(2)},
		{Action: "create", App: "gone", Token: gone, Outcome: Acked, Called: at(10), Returned: at(11)},
		{Action: "revoke", App: "gone", Token: gone, Outcome: Failed, Called: at(18), Returned: at(19)},
		{Action: "revoke", App: "gone", Token: gone, Outcome: Acked, Called: at(20), Returned: at(24)},
	} {
		r.ledger.changedApp(c)
	}
	r.facts.Apps = []AppFact{{Token: kept, App: "kept"}, {Token: gone, App: "gone", Revoked: true, Committed: at(20)}}
	of := func(token uuid.UUID, status, second int, before, after Standing) AppRead {
		return AppRead{Node: "n2", App: map[uuid.UUID]string{kept: "kept", gone: "gone"}[token], Token: token, Name: "a",
			Own: true, Status: status, Before: before, After: after, Standby: true, Called: at(second), Returned: at(second + 1)}
	}
	outside := of(kept, http.StatusForbidden, 13, Live, Live)
	outside.Name, outside.Own = "b", false
	for _, read := range []AppRead{
		of(gone, http.StatusForbidden, 10, Absent, Absent),
		of(gone, http.StatusOK, 12, Live, Live),
		outside,
		of(kept, http.StatusOK, 14, Live, Live),
		of(gone, http.StatusOK, 21, Live, Revoked), // it was under way
		of(gone, http.StatusForbidden, 22, Live, Revoked),
		of(gone, http.StatusForbidden, 24, Revoked, Revoked),
		of(gone, http.StatusForbidden, 26, Revoked, Revoked),
		of(gone, http.StatusOK, 50, Revoked, Unseen), // the server was rebuilt
		of(kept, http.StatusServiceUnavailable, 51, Unseen, Unseen),
		of(kept, 0, 52, Live, Unseen),
	} {
		r.ledger.readAsApp(read)
	}
	return r, kept, gone
}

func TestGoodAppsAreGood(t *testing.T) {
	r, _, _ := appRun()
	v := r.judge()
	if len(v.Violations) > 0 {
		t.Errorf("got complaints %q, want none", v.Violations)
	}
	a := v.Apps
	if a.Made != 2 || a.Ended != 1 || a.Reads != 10 || a.Served != 4 || a.AfterReplay != 2 || a.Outside != 1 ||
		a.ServedAfterRevocation != 1 || !slices.Equal(a.FirstRefusals, []time.Duration{3 * time.Second}) ||
		!slices.Equal(a.FirstUndisturbed, a.FirstRefusals) {
		t.Errorf("got %+v", a)
	}
	r.timeline.broken = []window{{node: "n2", from: at(21), to: at(22)}}
	if a := r.judge().Apps; len(a.FirstUndisturbed) != 0 || len(a.FirstRefusals) != 1 {
		t.Errorf("while the node was broken: got %+v", a)
	}
}

// The judge of apps can fail: each of these is a good run with one wrong answer, and the complaint that it must cause.
func TestOracleComplainsOfApps(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(r *run, kept, gone uuid.UUID)
		want   string
	}{
		{"a value after the replay", func(r *run, _, _ uuid.UUID) { r.ledger.appReads[7].Status = http.StatusOK },
			`revoked: n2 answered "gone"`},
		{"a live token refused", func(r *run, _, _ uuid.UUID) { r.ledger.appReads[1].Status = http.StatusForbidden },
			`refused: n2 answered "gone"`},
		{"a live token limited", func(r *run, _, _ uuid.UUID) { r.ledger.appReads[1].Status = http.StatusTooManyRequests },
			`refused: n2 answered "gone"`},
		{"a kept token refused while its server is away",
			func(r *run, _, _ uuid.UUID) { r.ledger.appReads[9].Status = http.StatusForbidden }, `refused: n2 answered "kept"`},
		{"a secret of its own is missing", func(r *run, _, _ uuid.UUID) { r.ledger.appReads[3].Status = http.StatusNotFound },
			`refused: n2 answered "kept"`},
		{"a value outside the rules", func(r *run, _, _ uuid.UUID) { r.ledger.appReads[2].Status = http.StatusOK },
			`outside: n2 answered "kept" for "b"`},
		{"word of a name outside the rules",
			func(r *run, _, _ uuid.UUID) { r.ledger.appReads[2].Status = http.StatusNotFound },
			`outside: n2 answered "kept" for "b"`},
		{"a value for a token that is not there yet",
			func(r *run, _, _ uuid.UUID) { r.ledger.appReads[0].Status = http.StatusOK }, `unknown: n2 answered "gone"`},
		{"a revocation that was lost", func(r *run, _, _ uuid.UUID) { r.facts.Apps[1].Revoked = false },
			`lost: the token of "gone"`},
		{"an app that was lost", func(r *run, _, _ uuid.UUID) { r.facts.Apps = r.facts.Apps[:1] }, `lost: app "gone"`},
		{"a token of another app", func(r *run, _, _ uuid.UUID) { r.facts.Apps[0].App = "gone" }, `lost: app "kept"`},
		{"a revocation that was said to have failed",
			func(r *run, _, _ uuid.UUID) { r.ledger.appChanges = r.ledger.appChanges[:3] }, `present: the revocation of "gone"`},
		{"a creation that was said to have failed", func(r *run, _, _ uuid.UUID) { r.ledger.appChanges[1].Outcome = Failed },
			`present: the creation of app "gone"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, kept, gone := appRun()
			c.damage(r, kept, gone)
			if v := r.judge(); !slices.ContainsFunc(v.Violations,
				func(text string) bool { return strings.HasPrefix(text, c.want) }) {
				t.Errorf("got complaints %q, want one that begins with %q", v.Violations, c.want)
			}
		})
	}
}

// Without synchronous replication a lost revocation is counted. A value after the replay is wrong in any mode.
func TestLostRevocationIsCountedWhenAsynchronous(t *testing.T) {
	r, _, _ := appRun()
	r.facts.Apps[1].Revoked = false
	v := Judge(r.facts, &r.ledger, &r.timeline, false)
	if v.Apps.EndedLost != 1 || len(v.Violations) > 0 {
		t.Errorf("got %d lost and complaints %q, want 1 and none", v.Apps.EndedLost, v.Violations)
	}
	r.ledger.appReads[6].Status = http.StatusOK // at the moment of the replay: from memory
	if v := Judge(r.facts, &r.ledger, &r.timeline, false); len(v.Violations) > 0 {
		t.Errorf("got complaints %q, want none within read_confirm", v.Violations)
	}
	r.ledger.appReads[7].Status = http.StatusOK
	if v := Judge(r.facts, &r.ledger, &r.timeline, false); len(v.Violations) != 1 {
		t.Errorf("got complaints %q, want that it served a value after the replay", v.Violations)
	}
}

// The workload and the oracle together find a daemon that answers wrongly: the tokens are made and revoked in a real
// database, and only the daemon is false.
func TestFalseDaemonsAreFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		want   []string
	}{
		{"one that always gives a value", http.StatusOK, []string{"revoked: ", "outside: "}},
		{"one that always refuses", http.StatusForbidden, []string{"refused: "}},
		{"one that tells of names", http.StatusNotFound, []string{"refused: ", "outside: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := mustBench(t)
			daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
			}))
			t.Cleanup(daemon.Close)
			b.Nodes = []Node{{Name: "n1", DaemonURL: daemon.URL, ServerURL: b.store.URL(vaulttest.Superuser)}}
			w := &Workload{Cluster: b.Cluster, Ledger: &b.ledger, Timeline: &b.timeline, Seed: 1}
			v := b.mustOpen(t)
			if err := w.prepareApps(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var running sync.WaitGroup
			w.useApps(ctx, &running, 1, v)
			find := func() (missing []string) {
				facts, err := Gather(t.Context(), b.Cluster)
				if err != nil {
					t.Fatal(err)
				}
				found := Judge(facts, &b.ledger, &b.timeline, true).Violations
				return slices.DeleteFunc(slices.Clone(c.want), func(want string) bool {
					return slices.ContainsFunc(found, func(text string) bool { return strings.HasPrefix(text, want) })
				})
			}
			err := until(t.Context(), waitLimit, "the oracle complains", func() (bool, error) { return len(find()) == 0, nil })
			stop()
			running.Wait()
			if err != nil {
				t.Errorf("%v; missing: %q", err, find())
			}
		})
	}
}
