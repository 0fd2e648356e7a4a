package chaos

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// The oracle can fail: each of these is a good run with one error, and the complaint that it must cause.

// run is a small good history: two names, one of them rotated when it was due.
type run struct {
	facts    Facts
	ledger   Ledger
	timeline Timeline
}

var epochBegan = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds int) time.Time { return epochBegan.Add(time.Duration(seconds) * time.Second) }

func goodRun() *run {
	r := &run{}
	for i, name := range []string{"a", "a", "a", "b"} {
		version := i + 1
		if name == "b" {
			version = 1
		}
		w := Write{Action: "put", Name: name, Expect: version - 1, Hash: Hash{byte(i + 1)}, Outcome: Acked,
			Request: uuid.New(), Version: version, Called: at(10 * i), Returned: at(10*i + 1), Client: 1}
		r.ledger.wrote(w)
		r.stored(w)
	}
	r.facts.Secrets = []SecretFact{{"a", 3}, {"b", 2}}
	r.ledger.due(Due{"b", at(50)})
	r.facts.Jobs = []JobFact{{ID: 1, Name: "b", State: "done", Due: at(50), To: 2, Finished: at(51)}}
	r.stored(Write{Name: "b", Version: 2, Hash: Hash{9}, Request: uuid.New()})
	for i := range r.facts.Versions {
		f := &r.facts.Versions[i]
		f.Current = (f.Name == "a" && f.Version == 3) || (f.Name == "b" && f.Version == 2)
	}
	r.ledger.wrote(Write{Action: "put", Name: "a", Expect: 1, Hash: Hash{20}, Outcome: Failed, Request: uuid.New(),
		Called: at(12), Returned: at(13)})
	r.ledger.wrote(Write{Action: "put", Name: "a", Expect: 3, Hash: Hash{21}, Outcome: Unknown, Called: at(40),
		Returned: at(41), Client: 2})
	r.ledger.read(Read{Name: "a", Version: 1, Hash: Hash{1}, Called: at(5), Returned: at(6), Client: 3})
	r.ledger.read(Read{Name: "a", Version: 3, Hash: Hash{3}, Called: at(35), Returned: at(36), Client: 3})
	r.ledger.read(Read{Node: "n2", Name: "a", Version: 2, Hash: Hash{2}, Called: at(35), Returned: at(36)})
	r.ledger.attempted(Attempt{Node: "n2", Called: at(35), Returned: at(36)})
	r.timeline.primaries = []Failover{{Died: at(30), Promoted: at(32), Back: at(38), Old: "n1", New: "n2"}}
	return r
}

// stored adds a write's version and audit row to the facts.
func (r *run) stored(w Write) {
	r.facts.Versions = append(r.facts.Versions, VersionFact{Name: w.Name, Version: w.Version, Request: w.Request,
		Live: true, Hash: w.Hash})
	r.facts.Audit = append(r.facts.Audit, AuditFact{w.Name, w.Version, w.Request})
}

func (r *run) judge() Verdict { return Judge(r.facts, &r.ledger, &r.timeline, true) }

func TestGoodRunIsGood(t *testing.T) {
	v := goodRun().judge()
	if len(v.Violations) > 0 {
		t.Errorf("got complaints %q, want none", v.Violations)
	}
	if v.Acked != 4 || v.Failed != 1 || v.Unknown != 1 || v.NotMade != 1 || v.Rotations != 1 || v.ReadsOK != 1 ||
		v.ReadsAll != 1 {
		t.Errorf("got %+v", v)
	}
}

func TestOracleComplains(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(r *run)
		want   string // the beginning of one complaint
	}{
		{"a lost write", func(r *run) { r.facts.Versions[0].Hash = Hash{99}; r.facts.Versions[0].Request = uuid.New() },
			"lost: put of \"a\""},
		{"another value under an acknowledged version", func(r *run) { r.facts.Versions[0].Hash = Hash{99} },
			"lost: put of \"a\""},
		{"another version than the one told", func(r *run) { r.ledger.writes[0].Version = 2 }, "lost: put of \"a\""},
		{"a failed write that is there", func(r *run) { r.ledger.writes[1].Outcome = Failed }, "present: put of \"a\""},
		{"a write in two versions", func(r *run) { r.facts.Versions[1].Hash = r.facts.Versions[0].Hash },
			"doubled: put of \"a\""},
		{"an unknown write in two versions", func(r *run) {
			r.ledger.writes[5].Hash = Hash{1}
			r.facts.Versions[1].Hash = Hash{1}
		}, "doubled: put of \"a\""},
		{"a version nobody wrote", func(r *run) { r.ledger.writes = r.ledger.writes[1:] },
			"unasked: nobody wrote \"a\" version 1"},
		{"a version that does not open", func(r *run) { r.facts.Versions[0].OpenErr = "no" },
			"sealed for good: \"a\" version 1"},
		{"a gap", func(r *run) { r.facts.Versions[1].Version = 4 }, "gap: \"a\""},
		{"a missing version", func(r *run) { r.facts.Versions = r.facts.Versions[1:] }, "gap: \"a\""},
		{"two current versions", func(r *run) { r.facts.Versions[0].Current = true }, "current: \"a\""},
		{"no current version", func(r *run) { r.facts.Versions[2].Current = false }, "current: \"a\""},
		{"a pointer to an older version", func(r *run) { r.facts.Secrets[0].Current = 2 }, "current: \"a\""},
		{"versions of no secret", func(r *run) { r.facts.Secrets = r.facts.Secrets[1:] }, "orphans: \"a\""},
		{"a missing audit row", func(r *run) { r.facts.Audit = r.facts.Audit[1:] }, "audit: \"a\" version 1 has 0 rows"},
		{"an audit row twice", func(r *run) { r.facts.Audit = append(r.facts.Audit, r.facts.Audit[0]) },
			"audit: \"a\" version 1 has 2 rows"},
		{"an audit row of a version that is not there",
			func(r *run) { r.facts.Audit = append(r.facts.Audit, AuditFact{"a", 4, uuid.New()}) },
			"audit: a row says that \"a\" version 4"},
		{"a due time rotated twice", func(r *run) {
			r.facts.Jobs = append(r.facts.Jobs, JobFact{ID: 2, Name: "b", State: "done", Due: at(50), To: 3})
		}, "doubled: \"b\" was rotated 2 times"},
		{"two jobs of one version", func(r *run) {
			r.facts.Jobs = append(r.facts.Jobs, JobFact{ID: 2, Name: "b", State: "done", Due: at(60), To: 2})
		}, "doubled: 2 rotation jobs made \"b\" version 2"},
		{"a job without its version", func(r *run) { r.facts.Jobs[0].To = 7 }, "rotation job 1 of \"b\""},
		{"a due time that was forgotten", func(r *run) { r.ledger.due(Due{"b", at(70)}) }, "lost: \"b\" was due"},
		{"a rotation that hangs",
			func(r *run) { r.facts.Jobs = append(r.facts.Jobs, JobFact{ID: 2, Name: "b", State: "claimed"}) },
			"unresolved: rotation job 2"},
		{"a rotation that failed for good",
			func(r *run) { r.facts.Jobs = append(r.facts.Jobs, JobFact{ID: 2, Name: "b", State: "failed"}) },
			"unresolved: rotation job 2"},
		{"a read that failed while the primary was dead", func(r *run) { r.ledger.attempts[0].Err = "status 503" },
			"read: n2 did not answer"},
		{"a standby that shows what was never written", func(r *run) { r.ledger.reads[2].Hash = Hash{77} },
			"read: n2 showed \"a\" version 2 with a value"},
		{"a standby that goes back", func(r *run) {
			r.ledger.read(Read{Node: "n2", Name: "a", Version: 1, Hash: Hash{1}, Called: at(36), Returned: at(37)})
		}, "read: n2 showed \"a\" version 1 after version 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := goodRun()
			c.damage(r)
			v := r.judge()
			for _, text := range v.Violations {
				if strings.HasPrefix(text, c.want) {
					return
				}
			}
			t.Errorf("got complaints %q, want one that begins with %q", v.Violations, c.want)
		})
	}
}

// Without synchronous replication a loss in a failover is counted; other violations remain violations.
func TestLossIsCountedWhenAsynchronous(t *testing.T) {
	r := goodRun()
	r.facts.Versions[2].Hash, r.facts.Versions[2].Request = Hash{40}, uuid.New() // another write took its version
	r.facts.Audit[2].Request = r.facts.Versions[2].Request
	r.ledger.wrote(Write{Action: "put", Name: "a", Hash: Hash{40}, Outcome: Unknown})
	v := Judge(r.facts, &r.ledger, &r.timeline, false)
	if v.Lost != 1 || len(v.Violations) > 0 {
		t.Errorf("got %d lost and complaints %q, want 1 and none", v.Lost, v.Violations)
	}
	r.ledger.writes[1].Outcome = Failed
	if v := Judge(r.facts, &r.ledger, &r.timeline, false); len(v.Violations) == 0 {
		t.Error("a failed write that is there is wrong in any mode")
	}
}

// A read that fails on a node that is being broken is no violation.
func TestReadsThatMayFail(t *testing.T) {
	for name, damage := range map[string]func(r *run){
		"the node that died":         func(r *run) { r.ledger.attempts[0].Node = "n1" },
		"before the primary died":    func(r *run) { r.ledger.attempts[0].Called = at(29) },
		"after there was one again":  func(r *run) { r.ledger.attempts[0].Returned = at(39) },
		"while its vaultd is killed": func(r *run) { r.timeline.broken = []window{{"n2", at(33), at(36)}} },
		"while the kms is away":      func(r *run) { r.timeline.broken = []window{{"", at(33), at(36)}} },
	} {
		r := goodRun()
		r.ledger.attempts[0].Err = "status 503"
		damage(r)
		if v := r.judge(); len(v.Violations) > 0 || v.ReadsAll != 0 {
			t.Errorf("%s: got complaints %q about %d reads, want none", name, v.Violations, v.ReadsAll)
		}
	}
}

// While a wait for a standby is ended, reads of the primary are not judged; reads of other nodes are.
func TestReadsOfAnUnsettledPrimaryAreLeftOut(t *testing.T) {
	var timeline Timeline
	timeline.unsettled = []window{{"n1", at(10), at(20)}}
	kept := timeline.settledReads([]Read{
		{Name: "through a writer", Called: at(12), Returned: at(13)},
		{Name: "through its vaultd", Node: "n1", Called: at(9), Returned: at(10)},
		{Name: "of a standby", Node: "n2", Called: at(12), Returned: at(13)},
		{Name: "before", Called: at(8), Returned: at(9)},
		{Name: "after", Node: "n1", Called: at(21), Returned: at(22)},
	})
	var names []string
	for _, r := range kept {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, ", "); got != "of a standby, before, after" {
		t.Errorf("kept the reads %s", got)
	}
}

func TestLinearizable(t *testing.T) {
	write := func(expect, version int, hash byte, called, returned int) Write {
		return Write{Name: "a", Expect: expect, Version: version, Hash: Hash{hash}, Outcome: Acked, Called: at(called),
			Returned: at(returned)}
	}
	unknown := func(expect int, hash byte, called int) Write {
		return Write{Name: "a", Expect: expect, Hash: Hash{hash}, Outcome: Unknown, Called: at(called),
			Returned: at(called + 1)}
	}
	read := func(version int, hash byte, called, returned int) Read {
		return Read{Name: "a", Version: version, Hash: Hash{hash}, Called: at(called), Returned: at(returned)}
	}
	for _, c := range []struct {
		name   string
		writes []Write
		reads  []Read
		want   bool
	}{
		{"nothing yet", nil, []Read{read(0, 0, 0, 1)}, true},
		{"one after the other", []Write{write(0, 1, 1, 0, 1), write(1, 2, 2, 2, 3)}, []Read{read(2, 2, 4, 5)}, true},
		{"a read during a write sees either", []Write{write(0, 1, 1, 0, 1), write(1, 2, 2, 2, 5)},
			[]Read{read(1, 1, 3, 4), read(2, 2, 3, 4)}, true},
		{"a read sees the past", []Write{write(0, 1, 1, 0, 1), write(1, 2, 2, 2, 3)}, []Read{read(1, 1, 4, 5)}, false},
		{"a read sees the future", []Write{write(0, 1, 1, 0, 1), write(1, 2, 2, 4, 5)}, []Read{read(2, 2, 2, 3)}, false},
		{"a read sees another value", []Write{write(0, 1, 1, 0, 1)}, []Read{read(1, 9, 2, 3)}, false},
		{"reads that go back", []Write{write(0, 1, 1, 0, 1), write(1, 2, 2, 2, 9)},
			[]Read{read(2, 2, 3, 4), read(1, 1, 5, 6)}, false},
		{"two writes of one version", []Write{write(0, 1, 1, 0, 5), write(0, 1, 2, 0, 5)}, nil, false},
		{"a version is skipped", []Write{write(0, 1, 1, 0, 1), write(-1, 3, 3, 2, 3)}, nil, false},
		{"a version is skipped that an unknown write made",
			[]Write{write(0, 1, 1, 0, 1), unknown(-1, 2, 1), write(-1, 3, 3, 4, 5)}, nil, true},
		{"an unknown write took effect much later", []Write{write(0, 1, 1, 0, 1), unknown(1, 2, 1)},
			[]Read{read(1, 1, 50, 51), read(2, 2, 60, 61)}, true},
		{"an unknown write never did", []Write{write(0, 1, 1, 0, 1), unknown(1, 2, 1), write(1, 2, 3, 4, 5)},
			[]Read{read(2, 3, 6, 7)}, true},
		{"an unknown write took effect before its call", []Write{write(0, 1, 1, 0, 1), unknown(1, 2, 9)},
			[]Read{read(2, 2, 3, 4)}, false},
		{"an unknown write for the wrong version took effect", []Write{write(0, 1, 1, 0, 1), unknown(0, 2, 2)},
			[]Read{read(2, 2, 5, 6)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, operations, violations := Linearizable(c.writes, c.reads, 10*time.Second)
			if got := len(violations) == 0; got != c.want || operations != len(c.writes)+len(c.reads) {
				t.Errorf("got %v of %d operations (%q), want %v", got, operations, violations, c.want)
			}
		})
	}
}

// A history that is not decided in time is a violation, not a pass.
func TestUndecidedIsAViolation(t *testing.T) {
	var writes []Write
	for i := range 60 { // all concurrent and unknown: every order is possible, and no read fits any
		writes = append(writes, Write{Name: "a", Expect: -1, Hash: Hash{byte(i)}, Outcome: Unknown, Called: at(0),
			Returned: at(1), Client: i})
	}
	reads := []Read{{Name: "a", Version: 30, Hash: Hash{200}, Called: at(2), Returned: at(3)}}
	_, _, violations := Linearizable(writes, reads, 50*time.Millisecond)
	if len(violations) != 1 || !strings.HasSuffix(violations[0], "Unknown") {
		t.Errorf("got %q, want one history undecided", violations)
	}
}
