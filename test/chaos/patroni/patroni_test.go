package patroni

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/test/chaos"
)

// A switchover, the death of a leader and its return, during writes, commands, rotations and reads: nothing
// acknowledged is lost, and the standbys answer throughout. Patroni alone decides which member leads.
func TestFailover(t *testing.T) {
	// a bound; on an idle machine it takes about one
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	in := install(t, ctx)
	s := &scenario{t: t, installed: in, ledger: &chaos.Ledger{}, timeline: &chaos.Timeline{}, start: time.Now()}
	w := &chaos.Workload{Cluster: in.cluster(), Ledger: s.ledger, Timeline: s.timeline, Seed: 1, Writers: 3, CLIWriters: 1}
	must(t, w.Prepare(ctx))
	must(t, in.WaitReady(ctx))
	working, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(working); err != nil {
			t.Errorf("the workload: %v", err)
		}
	})
	defer running.Wait()
	defer stop()

	s.awaitProgress(ctx)
	s.loseLeader(ctx, "switchover", in.Switchover)
	s.awaitProgress(ctx)
	old := s.loseLeader(ctx, "leader and its Patroni killed", in.KillLeader)
	s.awaitProgress(ctx)
	mended := s.timeline.Broken(old.Name)
	must(t, old.Start())
	s.step("the old leader is back", in.WaitReady(ctx))
	mended()
	s.awaitProgress(ctx)

	stop()
	running.Wait()
	s.judge(ctx, w.Cluster)
}

// scenario logs each step of the test with its time.
type scenario struct {
	*installed
	t        *testing.T
	ledger   *chaos.Ledger
	timeline *chaos.Timeline
	start    time.Time
}

func (s *scenario) step(what string, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	s.t.Logf("%5.1f s: %s", time.Since(s.start).Seconds(), what)
}

// loseLeader makes another member lead, and records it in the timeline. The others follow the new leader, for which
// Patroni may restart one, so their reads are judged again once the cluster is ready.
func (s *scenario) loseLeader(ctx context.Context, kind string,
	lose func(context.Context) (old *Member, err error)) *Member {
	s.t.Helper()
	leader := s.Leader(ctx)
	s.timeline.Fault(kind)
	s.timeline.PrimaryDied(leader.Name)
	old, err := lose(ctx)
	s.step(kind, err)
	if old != leader {
		s.t.Fatalf("%s lost its leadership, not %s", old.Name, leader.Name)
	}
	s.timeline.Promoting(s.Leader(ctx).Name)
	s.timeline.PrimaryBack()
	for _, m := range s.Members {
		defer s.timeline.Broken(m.Name)()
	}
	if s.running(old) {
		s.step("ready", s.WaitReady(ctx))
	}
	return old
}

func (s *scenario) running(m *Member) bool { return m.patroni.running() }

// awaitProgress waits until writers of both kinds have been acknowledged and rotations completed, since now.
func (s *scenario) awaitProgress(ctx context.Context) {
	s.t.Helper()
	since, rotated := time.Now(), -1
	s.step("writes and rotations go on", until(ctx, "writes and rotations go on", func() (bool, string) {
		direct, byCommand := 0, 0
		for _, w := range s.ledger.Writes() {
			switch {
			case w.Outcome != chaos.Acked || w.Called.Before(since):
			case w.Client <= 3:
				direct++
			default:
				byCommand++
			}
		}
		leader := s.Leader(ctx)
		if leader == nil {
			return false, "no leader"
		}
		var done int
		if err := leader.queryValueIn(ctx, database, `SELECT count(*) FROM vault.rotation_jobs WHERE state = 'done'`,
			&done); err != nil {
			return false, err.Error()
		}
		if rotated < 0 {
			rotated = done
		}
		return direct >= 10 && byCommand >= 3 && done-rotated >= 2,
			fmt.Sprintf("%d writes, %d by vaultctl through pgbouncer, %d rotations", direct, byCommand, done-rotated)
	}))
}

func (s *scenario) judge(ctx context.Context, c chaos.Cluster) {
	s.t.Helper()
	report, err := chaos.Conclude(ctx, c, s.ledger, s.timeline)
	must(s.t, err)
	report.Title = fmt.Sprintf(
		"Patroni, %s: 3 writers, 1 running vaultctl through pgbouncer, rotation workers beside 3 members",
		time.Since(s.start).Round(time.Second))
	must(s.t, report.Print(os.Stdout))
	v := report.Verdict
	if len(v.Violations) > 0 {
		s.t.Errorf("%d violations; the table shows them", len(v.Violations))
	}
	if v.Acked < 50 || v.Rotations < 5 || v.ReadsAll < 20 || len(report.Failovers) != 2 {
		s.t.Error("too little was written, rotated or read, or leadership did not change twice: this proves nothing")
	}
}
