package patroni

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// A switchover, the death of a leader and its return, while people and commands write, rotations fall due and clients
// read: nothing acknowledged is lost, and the standbys answer throughout.
func TestFailover(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a bound; it takes a minute on a machine that has time
	defer cancel()
	start := time.Now()
	phase := func(what string, err error) {
		t.Helper()
		must(t, err)
		t.Logf("%5.1f s: %s", time.Since(start).Seconds(), what)
	}
	in := install(t, ctx)
	phase("installed", nil)
	w := in.startWorkload(ctx)
	defer w.end()

	phase("writers and rotations go on", in.progress(ctx, w))
	phase("switched over", in.Switchover(ctx))
	phase("ready", in.WaitReady(ctx))
	phase("writers and rotations go on", in.progress(ctx, w))

	killed := time.Now()
	old, err := in.KillLeader(ctx)
	phase("a new leader after a kill", err)
	led := time.Now()
	phase("writers and rotations go on", in.progress(ctx, w))
	must(t, old.Start())
	phase("ready", in.WaitReady(ctx))
	phase("writers and rotations go on", in.progress(ctx, w))

	w.end()
	phase("stopped", nil)
	t.Logf("the new leader took over after %s", led.Sub(killed).Round(100*time.Millisecond))
	w.judge(t, ctx)
	w.judgeReads(t, killed, led, in.others(old))
}

// progress waits until every kind of writer has had writes acknowledged, and rotations were completed, since now.
func (in *installed) progress(ctx context.Context, w *workload) error {
	before := w.acked(0)
	rotated := -1
	return until(ctx, "every writer is acknowledged and rotations go on", func() (bool, string) {
		done, err := in.rotations(ctx)
		if err != nil {
			return false, err.Error()
		}
		if rotated < 0 {
			rotated = done
		}
		since := w.acked(before.writes)
		ok := done-rotated >= automatic/2
		for _, kind := range []string{"direct0", "direct1", "direct2", "pooled", "ctl", "ctlpooled"} {
			ok = ok && since.kinds[kind] >= 3
		}
		return ok, fmt.Sprintf("%v and %d rotations", since.kinds, done-rotated)
	})
}

func (in *installed) others(one *Member) []*Member {
	return slices.DeleteFunc(slices.Clone(in.Members), func(m *Member) bool { return m == one })
}
