package chaos

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/hyperiondb/vault/internal/failpoint"
	"github.com/hyperiondb/vault/internal/kms/kmsfake"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

// nemesis breaks a local cluster, one fault at a time, and repairs it. Faults and their order depend on the seed alone,
// their times on the machine.
type nemesis struct {
	*local
	timeline *Timeline
	workload *Workload
	log      func(format string, args ...any)
}

// makeDue makes secrets due, so that rotations run. It ignores an error: the primary may be away, and a later call
// succeeds.
func (n *nemesis) makeDue(ctx context.Context, secrets int) { _ = n.workload.MakeDue(ctx, secrets) }

// fault is one way to break the cluster. make returns when the fault is repaired, except for the conditions that
// healthy waits for.
type fault struct {
	kind string
	make func(n *nemesis, ctx context.Context, random *rand.Rand) error
}

// allFaults returns every fault; a round makes each once.
func allFaults() []fault {
	faults := []fault{
		{"promotion", (*nemesis).failOver},
		{"postmaster killed", (*nemesis).killPostmaster},
		{"backend killed in a transaction", (*nemesis).killBackend},
		{"wait for replication canceled", (*nemesis).cancelWait},
		{"wait for replication terminated", (*nemesis).terminateWait},
		{"primary frozen", (*nemesis).freezePrimary},
		{"promotion after a freeze", (*nemesis).failOverFrozen},
		{"promotion of a standby that is behind", (*nemesis).failOverBehind},
		{"promotion after a canceled wait", (*nemesis).failOverUnreplicated},
		{"vaultd killed", (*nemesis).killDaemon},
		{"vaultd frozen past its claim", (*nemesis).freezeDaemon},
		{"replay paused", (*nemesis).pauseReplay},
		{"walreceiver stopped", (*nemesis).stopReceivers},
		{"kms throttled", (*nemesis).throttleKMS},
		{"kms down", (*nemesis).stopKMS},
		{"disk full", (*nemesis).fillDisk},
	}
	for _, when := range []pgproxy.When{pgproxy.Before, pgproxy.After} {
		for _, how := range []pgproxy.Ending{pgproxy.FIN, pgproxy.RST, pgproxy.Hang} {
			for _, sql := range []string{"^commit", "vault.put_version", "vault.claim_rotations", "vault.complete_rotation"} {
				if sql != "^commit" && how != pgproxy.RST {
					continue // the directed tests have enough of the others
				}
				kind := fmt.Sprintf("%s %s, %s", strings.TrimPrefix(sql, "^"), when, how)
				faults = append(faults, fault{kind, func(n *nemesis, ctx context.Context, random *rand.Rand) error {
					return n.cut(ctx, kind, pgproxy.Cut{SQL: sql, When: when, How: how, Times: 1 + random.IntN(3),
						For: time.Duration(1+random.IntN(12)) * time.Second})
				}})
			}
		}
	}
	for _, hit := range putHits() {
		faults = append(faults, fault{"vaultctl dies at " + hit, func(n *nemesis, ctx context.Context, _ *rand.Rand) error {
			return n.crashCLI(ctx, hit)
		}})
	}
	for _, hit := range failpoint.Names() {
		faults = append(faults, fault{"vaultd dies at " + hit,
			func(n *nemesis, ctx context.Context, random *rand.Rand) error { return n.crashDaemon(ctx, hit) }})
	}
	return faults
}

// schedule is an endless series of faults, each with a random source of its own, the same for a seed.
func schedule(seed uint64, faults []fault) iter.Seq2[fault, *rand.Rand] {
	return func(yield func(fault, *rand.Rand) bool) {
		random := rand.New(rand.NewPCG(seed, 0))
		for {
			round := slices.Clone(faults)
			random.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
			for _, f := range round {
				if !yield(f, rand.New(rand.NewPCG(seed, random.Uint64()))) {
					return
				}
			}
		}
	}
}

// run follows the schedule until ctx ends, or for count faults if count > 0. A cluster that does not recover is an
// error.
func (n *nemesis) run(ctx context.Context, seed uint64, faults []fault, count int) error {
	made := 0
	for f, choices := range schedule(seed, faults) {
		if ctx.Err() != nil || (count > 0 && made == count) {
			return nil
		}
		began := time.Now()
		if err := f.make(n, context.WithoutCancel(ctx), choices); err != nil {
			return fmt.Errorf("%s: %w", f.kind, err)
		}
		if err := n.healthy(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("after %s: %w", f.kind, err)
		}
		made++
		n.log("%s (%s)", f.kind, time.Since(began).Round(time.Millisecond))
		wait(ctx, 300*time.Millisecond)
	}
	return nil
}

// ---------- servers ----------

// startAgain starts a primary that ended.
func (n *nemesis) startAgain(ctx context.Context, node *localpg.Node) error {
	err := until(ctx, waitLimit, "the old server is gone", func() (bool, error) { return !node.Running(), nil })
	if err == nil {
		err = node.Start(ctx)
	}
	n.timeline.PrimaryBack()
	return err
}

func (n *nemesis) killPostmaster(ctx context.Context, _ *rand.Rand) error {
	node := n.servers.Primary()
	defer n.timeline.Broken(node.Name())()
	n.timeline.Fault("postmaster killed")
	n.timeline.PrimaryDied(node.Name())
	if err := unix.Kill(node.Pid(), unix.SIGKILL); err != nil {
		return err
	}
	return n.startAgain(ctx, node)
}

// busyBackend finds a session of the vault with an uncommitted change.
const busyBackend = `SELECT pid FROM pg_stat_activity
	WHERE backend_xid IS NOT NULL AND application_name IN ('chaos', 'vaultctl', 'vaultd') LIMIT 1`

// killBackend kills one session; the server then drops all of them and recovers.
func (n *nemesis) killBackend(ctx context.Context, _ *rand.Rand) error {
	node := n.servers.Primary()
	defer n.timeline.Broken(node.Name())()
	var pid int
	err := until(ctx, waitLimit, "a transaction is under way", func() (bool, error) {
		err := n.queryNode(ctx, node, &pid, busyBackend)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	n.timeline.Fault("backend killed in a transaction")
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return node.WaitReady(ctx)
}

func (n *nemesis) cancelWait(ctx context.Context, _ *rand.Rand) error {
	return n.endWait(ctx, "canceled", "pg_cancel_backend")
}

func (n *nemesis) terminateWait(ctx context.Context, _ *rand.Rand) error {
	return n.endWait(ctx, "terminated", "pg_terminate_backend")
}

// endWait holds replication back until COMMITs wait for it, and ends the wait of each. The server then reports the
// transaction as committed, which is true of this server only.
func (n *nemesis) endWait(ctx context.Context, how, function string) error {
	if !n.Synchronous {
		return nil // COMMITs do not wait
	}
	receivers, err := n.holdReceivers(ctx)
	if err != nil {
		return err
	}
	defer receivers.release()
	if err := n.endWaits(ctx, function); err != nil {
		return err
	}
	n.timeline.Fault("wait for replication " + how)
	wait(ctx, time.Second)
	return nil
}

func (n *nemesis) endWaits(ctx context.Context, function string) error {
	var ended int
	return until(ctx, waitLimit, "a COMMIT waits for replication", func() (bool, error) {
		err := n.queryNode(ctx, n.servers.Primary(), &ended,
			`SELECT count(*) FROM (SELECT `+function+`(pid) FROM pg_stat_activity
			WHERE wait_event = 'SyncRep' AND application_name IN ('chaos', 'vaultctl', 'vaultd') OFFSET 0) AS ended`)
		return err == nil && ended > 0, err
	})
}

// processes are a server and its children.
func processes(node *localpg.Node) []int {
	server := node.Pid()
	if server == 0 {
		return nil
	}
	all := []int{server}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		if fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); len(fields) > 1 &&
			fields[1] == strconv.Itoa(server) {
			all = append(all, pid)
		}
	}
	return all
}

// freeze stops all processes of a server; thaw continues them.
func freeze(node *localpg.Node) (thaw func()) {
	frozen := processes(node)
	for _, pid := range frozen {
		_ = unix.Kill(pid, unix.SIGSTOP)
	}
	return func() {
		for _, pid := range frozen {
			_ = unix.Kill(pid, unix.SIGCONT)
		}
	}
}

func (n *nemesis) freezePrimary(ctx context.Context, random *rand.Rand) error {
	node := n.servers.Primary()
	defer n.timeline.Broken(node.Name())()
	n.timeline.Fault("primary frozen")
	thaw := freeze(node)
	wait(ctx, time.Duration(1000+random.IntN(2000))*time.Millisecond)
	thaw()
	return nil
}

func (n *nemesis) failOver(ctx context.Context, _ *rand.Rand) error {
	n.makeDue(ctx, dueNames/2) // so that rotations run afterwards
	return n.promote(ctx, "promotion", nil)
}

// failOverFrozen ends a primary that no longer answers and promotes a standby, as a supervisor of servers does.
func (n *nemesis) failOverFrozen(ctx context.Context, _ *rand.Rand) error {
	n.makeDue(ctx, dueNames/2)
	thaw := freeze(n.servers.Primary())
	defer thaw()
	wait(ctx, time.Second)
	return n.promote(ctx, "promotion after a freeze", nil)
}

// failOverBehind promotes a standby that has missed the last second. With synchronous replication the lost writes were
// not acknowledged; with asynchronous replication status warns of the loss.
func (n *nemesis) failOverBehind(ctx context.Context, _ *rand.Rand) error {
	n.makeDue(ctx, dueNames/2) // now: it would wait as well
	receivers, err := n.holdReceivers(ctx)
	if err != nil {
		return err
	}
	defer receivers.release()
	wait(ctx, time.Second)
	return n.promote(ctx, "promotion of a standby that is behind", receivers.drop)
}

// failOverUnreplicated ends the wait of a COMMIT for a standby, and fails over before any standby has the transaction.
func (n *nemesis) failOverUnreplicated(ctx context.Context, _ *rand.Rand) error {
	if !n.Synchronous {
		return nil // COMMITs do not wait
	}
	n.makeDue(ctx, dueNames/2) // now: it would wait as well
	receivers, err := n.holdReceivers(ctx)
	if err != nil {
		return err
	}
	defer receivers.release()
	defer n.timeline.Unsettled(n.servers.Primary().Name())()
	if err := n.endWaits(ctx, "pg_cancel_backend"); err != nil {
		return err
	}
	return n.promote(ctx, "promotion after a canceled wait", receivers.drop)
}

// promote ends the primary, promotes the standby that has received most, and rebuilds the old primary as a standby.
func (n *nemesis) promote(ctx context.Context, kind string, between func()) error {
	old := n.servers.Primary()
	defer n.timeline.Broken(old.Name())()
	n.timeline.Fault(kind)
	died := time.Now()
	n.timeline.PrimaryDied(old.Name())
	if err := old.Kill(); err != nil {
		return err
	}
	if between != nil {
		between()
	}
	next, err := n.mostAdvanced(ctx)
	if err != nil {
		return err
	}
	n.timeline.Promoting(next.Name())
	if err := next.Promote(ctx); err != nil {
		return err
	}
	n.timeline.PrimaryBack()
	if err := old.Rebuild(ctx); err != nil {
		return err
	}
	return n.rebuildLost(ctx, died)
}

// rebuildLost rebuilds standbys that could not follow: one that had received a part of a record, across the end of a
// segment, ends with a PANIC when the new primary never wrote the rest. That is PostgreSQL's behaviour and no fault of
// the vault, so its reads do not count from the promotion on.
func (n *nemesis) rebuildLost(ctx context.Context, since time.Time) error {
	for _, node := range n.servers.Standbys() {
		var streams bool
		err := until(ctx, 15*time.Second, node.Name()+" follows", func() (bool, error) {
			err := n.queryNode(ctx, n.servers.Primary(), &streams,
				`SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')`, node.Name())
			return streams || !node.Running(), err
		})
		if streams {
			continue
		}
		n.log("%s does not follow (%v); it is rebuilt", node.Name(), err)
		n.timeline.Fault("standby rebuilt after a promotion")
		mended := n.timeline.BrokenSince(node.Name(), since)
		err = node.Rebuild(ctx)
		mended()
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *nemesis) mostAdvanced(ctx context.Context) (*localpg.Node, error) {
	var best *localpg.Node
	var most int64 = -1
	for _, standby := range n.servers.Standbys() {
		var received int64
		if err := n.queryNode(ctx, standby, &received,
			`SELECT (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn)::bigint`); err != nil {
			return nil, err
		}
		if received > most {
			best, most = standby, received
		}
	}
	return best, nil
}

// ---------- replication ----------

// pauseReplay pauses replay on one standby, or on both, so that COMMITs wait.
func (n *nemesis) pauseReplay(ctx context.Context, random *rand.Rand) error {
	standbys := n.servers.Standbys()[:1+random.IntN(2)]
	n.timeline.Fault(fmt.Sprintf("replay paused on %d", len(standbys)))
	var ignored any
	for _, node := range standbys {
		if err := n.queryNode(ctx, node, &ignored, `SELECT pg_wal_replay_pause()::text`); err != nil {
			return err
		}
	}
	wait(ctx, time.Duration(500+random.IntN(1500))*time.Millisecond)
	for _, node := range standbys {
		if err := n.queryNode(ctx, node, &ignored, `SELECT pg_wal_replay_resume()::text`); err != nil {
			return err
		}
	}
	return nil
}

func (n *nemesis) stopReceivers(ctx context.Context, random *rand.Rand) error {
	receivers, err := n.holdReceivers(ctx)
	if err != nil {
		return err
	}
	n.timeline.Fault("walreceivers stopped")
	wait(ctx, time.Duration(500+random.IntN(1500))*time.Millisecond)
	receivers.release()
	return nil
}

// receivers are the stopped walreceiver processes of the standbys.
type receivers []int

func (n *nemesis) holdReceivers(ctx context.Context) (receivers, error) {
	var held receivers
	for _, node := range n.servers.Standbys() {
		var pid int
		err := until(ctx, waitLimit, "a walreceiver runs", func() (bool, error) {
			err := n.queryNode(ctx, node, &pid, `SELECT pid FROM pg_stat_wal_receiver`)
			return err == nil, err
		})
		if err == nil {
			err = unix.Kill(pid, unix.SIGSTOP)
		}
		if err != nil {
			held.release()
			return nil, err
		}
		held = append(held, pid)
	}
	return held, nil
}

func (r receivers) release() {
	for _, pid := range r {
		_ = unix.Kill(pid, unix.SIGCONT)
	}
}

// drop kills them before they read the data that arrived while they were stopped.
func (r receivers) drop() {
	for _, pid := range r {
		_ = unix.Kill(pid, unix.SIGTERM)
	}
	r.release()
}

// ---------- vaultd ----------

func (n *nemesis) anyDaemon(random *rand.Rand) (string, *daemon) {
	name := n.Nodes[random.IntN(len(n.Nodes))].Name
	return name, n.daemons[name]
}

func (n *nemesis) killDaemon(ctx context.Context, random *rand.Rand) error {
	name, d := n.anyDaemon(random)
	defer n.timeline.Broken(name)()
	n.makeDue(ctx, dueNames/2)
	n.timeline.Fault("vaultd killed")
	d.kill()
	return d.start(n.environment())
}

// freezeDaemon stops a daemon for longer than its claims live: other workers rotate the claimed secrets, and its own
// attempts are refused when it continues.
func (n *nemesis) freezeDaemon(ctx context.Context, random *rand.Rand) error {
	name, d := n.anyDaemon(random)
	defer n.timeline.Broken(name)()
	n.makeDue(ctx, dueNames)
	wait(ctx, time.Duration(random.IntN(600))*time.Millisecond) // into the round that claims them
	n.timeline.Fault("vaultd frozen past its claim")
	d.signal(syscall.SIGSTOP)
	wait(ctx, claimTimeout+time.Second)
	d.signal(syscall.SIGCONT)
	return nil
}

// crashDaemon starts a daemon with a failpoint, makes secrets due, and waits until the daemon has killed itself.
func (n *nemesis) crashDaemon(ctx context.Context, failpoint string) error {
	name, d := "primary", n.daemons["primary"] // which has the most workers
	defer n.timeline.Broken(name)()
	d.kill()
	if err := d.start(append(n.environment(), "VAULT_FAILPOINT="+failpoint)); err != nil {
		return err
	}
	err := until(ctx, waitLimit, "it dies at "+failpoint, func() (bool, error) {
		select {
		case <-d.exited:
			return true, nil
		default:
		}
		n.makeDue(ctx, dueNames)
		return false, n.bringForward(ctx)
	})
	if err == nil {
		n.timeline.Fault("vaultd dies at " + failpoint)
	}
	d.kill() // if it is still running
	return errors.Join(err, d.start(n.environment()))
}

// crashCLI puts a new name, so that no conflict can occur, with a vaultctl that dies at a failpoint.
func (n *nemesis) crashCLI(ctx context.Context, failpoint string) error {
	w := n.workload.putCLI(ctx, Write{Action: "put", Name: "chaos/crash/" + uuid.NewString(), Expect: 0}, failpoint, 0)
	if w.Outcome != Unknown {
		return fmt.Errorf("vaultctl passed %s: %s: %s", failpoint, w.Outcome, w.Why)
	}
	return nil
}

// bringForward makes delayed retries due now.
func (n *nemesis) bringForward(ctx context.Context) error {
	var hurried int
	return n.queryNode(ctx, n.servers.Primary(), &hurried, `WITH h AS (UPDATE vault.rotation_jobs SET run_after = now()
		WHERE state = 'queued' AND run_after > now() RETURNING 1) SELECT count(*) FROM h`)
}

// ---------- the network, the key service, the disk ----------

// cut drops the next requests of a kind on their way to the primary, or their answers.
func (n *nemesis) cut(ctx context.Context, kind string, c pgproxy.Cut) error {
	p := n.proxies[n.servers.Primary().Name()]
	before := p.CutsMade()
	p.Cut(c)
	defer p.Clear()
	err := until(ctx, waitLimit, "it is cut", func() (bool, error) {
		if strings.Contains(c.SQL, "rotation") {
			n.makeDue(ctx, dueNames)
		}
		return p.CutsMade()-before >= c.Times, nil
	})
	for range p.CutsMade() - before {
		n.timeline.Fault(kind)
	}
	return err
}

func (n *nemesis) throttleKMS(ctx context.Context, random *rand.Rand) error {
	return n.breakKMS(ctx, random, "kms throttled", kmsfake.Throttle)
}

func (n *nemesis) stopKMS(ctx context.Context, random *rand.Rand) error {
	kinds := []kmsfake.Kind{kmsfake.Reset, kmsfake.Hang, kmsfake.Unavailable, kmsfake.LostReply}
	kind := kinds[random.IntN(len(kinds))]
	return n.breakKMS(ctx, random, "kms down: "+string(kind), kind)
}

func (n *nemesis) breakKMS(ctx context.Context, random *rand.Rand, name string, kind kmsfake.Kind) error {
	defer n.timeline.Broken("")()
	n.timeline.Fault(name)
	if err := n.fake.Inject(kmsfake.Fault{Kind: kind}); err != nil {
		return err
	}
	wait(ctx, time.Duration(1000+random.IntN(2000))*time.Millisecond)
	n.fake.Clear()
	return nil
}

// fillDisk fills the primary's disk. A server without room for its log ends itself; fillDisk starts it again when there
// is room.
func (n *nemesis) fillDisk(ctx context.Context, random *rand.Rand) error {
	if n.noDisks != "" {
		return nil
	}
	node := n.servers.Primary()
	defer n.timeline.Broken(node.Name())()
	n.timeline.Fault("disk full")
	n.timeline.PrimaryDied(node.Name())
	ballast := filepath.Join(filepath.Dir(node.DataDir()), "ballast")
	if err := fill(ballast); err != nil {
		return err
	}
	wait(ctx, time.Duration(1500+random.IntN(1500))*time.Millisecond)
	if err := os.Remove(ballast); err != nil {
		return err
	}
	return until(ctx, waitLimit, "the server is back", func() (bool, error) {
		if err := node.Start(ctx); err != nil {
			return false, err
		}
		n.timeline.PrimaryBack()
		return true, nil
	})
}

// fill writes a file until the disk is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			return err
		}
	}
	return nil
}
