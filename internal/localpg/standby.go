package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// errTablespace: two nodes on one machine would share the place a tablespace points to.
var errTablespace = errors.New("the cluster has a tablespace of its own, which cannot be copied on one machine")

// Promote makes a running standby the primary and returns when it takes writes. The other
// standbys follow it from then on. The old primary is not touched: a caller that promotes before it
// has ended has two servers that take writes. Promoting the primary changes nothing.
//
// Standbys that had received more than the promoted one cannot follow it; they need Rebuild.
func (n *Node) Promote(ctx context.Context) error {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	recovering, err := n.InRecovery(ctx)
	if err != nil {
		return err
	}
	if recovering {
		if err := n.leaveRecovery(ctx); err != nil {
			return err
		}
	}
	old := n.c.Primary()
	if old == n {
		return nil
	}
	if err := n.c.setRoles(map[string]nodeRole{n.name: rolePrimary, old.name: roleFormer}); err != nil {
		return err
	}
	return n.c.follow(ctx, n)
}

func (n *Node) leaveRecovery(ctx context.Context) error {
	query := querier{n: n}
	defer query.close()
	var requested bool
	if err := query.row(ctx, `select pg_promote(false)`, &requested); err != nil {
		return n.failure("promoting it", err)
	}
	err := poll(ctx, func() (bool, error) {
		if !n.Running() {
			return false, errNotRunning
		}
		var recovering bool
		err := query.row(ctx, `select pg_is_in_recovery()`, &recovering)
		return err == nil && !recovering, permanent(err)
	})
	if err != nil {
		return n.failure("waiting for its promotion", query.explain(err))
	}
	return nil
}

// follow points every standby at a new primary. Slots are not replicated, so the new primary has none
// yet.
func (c *Cluster) follow(ctx context.Context, primary *Node) error {
	for _, n := range c.nodes {
		if n.role() != roleStandby {
			continue
		}
		if err := primary.makeSlot(ctx, n.name); err != nil {
			return err
		}
		if err := n.reload(); err != nil {
			return err
		}
	}
	return nil
}

// Rebuild throws a node's data away, makes it a standby of the current primary, which must be
// running, and returns when it streams. It stops the node if need be. This is how an old primary
// comes back after a failover, and how a standby that cannot follow is repaired.
func (n *Node) Rebuild(ctx context.Context) error {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	if err := n.replaceData(ctx); err != nil {
		return fmt.Errorf("rebuilding %q: %w", n.name, err)
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	return n.c.waitStreaming(ctx, n)
}

func (n *Node) replaceData(ctx context.Context) error {
	n.starting.Lock()
	defer n.starting.Unlock()
	primary := n.c.Primary()
	if primary == n {
		return errors.New("it is the primary")
	}
	if !primary.Running() {
		return primary.failure("copying from it", errNotRunning)
	}
	if err := n.Stop(ctx, Immediate); err != nil {
		return err
	}
	if err := n.copyPrimary(ctx, primary); err != nil {
		return err
	}
	return n.c.setRoles(map[string]nodeRole{n.name: roleStandby})
}

// copyPrimary gives a stopped node the primary's data and makes a standby of it. The data comes
// together beside its place; the rename is where it becomes the node's.
func (n *Node) copyPrimary(ctx context.Context, primary *Node) error {
	if err := primary.makeSlot(ctx, n.name); err != nil {
		return err
	}
	partial := n.DataDir() + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := n.c.user.makeFolder(partial); err != nil {
		return err
	}
	backup := n.copyFiles
	if n.c.bin.has("pg_basebackup") {
		backup = n.runBaseBackup
	}
	if err := backup(ctx, primary, partial); err != nil {
		return err
	}
	if _, err := n.writeData(partial, "standby.signal", nil); err != nil {
		return err
	}
	n.dropSegment()
	if err := os.RemoveAll(n.DataDir()); err != nil {
		return err
	}
	return os.Rename(partial, n.DataDir())
}

// makeSlot makes a physical replication slot that keeps the log from now on. One that is there
// already is made anew: what it kept is for data that is about to be replaced, or it is the
// leftover of an attempt that failed.
func (n *Node) makeSlot(ctx context.Context, name string) error {
	const sql = `with old as materialized (
			select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1::text
		), dropped as materialized (select count(*) as n from old)
		select (pg_create_physical_replication_slot($1::text::name, true)).slot_name::text from dropped where n >= 0`
	ask := querier{n: n}
	defer ask.close()
	var made string
	err := poll(ctx, func() (bool, error) {
		err := ask.row(ctx, sql, &made, name)
		if hasCode(err, "55006") { // object_in_use: its last user has not yet noticed that it lost its connection
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return n.failure(fmt.Sprintf("making the replication slot %q", name), ask.explain(err))
	}
	return nil
}

func (n *Node) runBaseBackup(ctx context.Context, primary *Node, into string) error {
	args := []string{"-D", into, "-h", primary.SocketDir(), "-p", fmt.Sprint(port), "-U", superuser,
		"-X", "stream", "-S", n.name, "--checkpoint=fast", "--no-manifest", "--no-password"}
	if !n.c.rec.Durable {
		args = append(args, "--no-sync")
	}
	cmd := n.c.user.command(ctx, n.c.bin.program("pg_basebackup"), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return primary.failure("copying from it with pg_basebackup", fmt.Errorf("%w\n%s", err, lastLines(out)))
	}
	return nil
}

// copyFiles is the low-level base backup of the manual ("Making a Base Backup Using the Low
// Level API"): between start and stop, asked for over one connection, files may be copied while
// they change; the log that the slot keeps from before the start repairs them.
func (n *Node) copyFiles(ctx context.Context, primary *Node, into string) error {
	conn, err := primary.connect(ctx)
	if err != nil {
		return primary.failure("connecting for a base backup", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `select pg_backup_start($1::text, true)`, n.name); err != nil {
		return primary.failure("starting a base backup", err)
	}
	if err := n.c.copier(fromRunning).copy(ctx, primary.DataDir(), into); err != nil {
		return fmt.Errorf("copying the data of %q: %w", primary.name, err)
	}
	return n.stopBackup(ctx, conn, primary, into)
}

// stopBackup ends the backup and writes its label, without which the copy would recover from the wrong
// place in the log. It does not wait for archiving, which is off.
func (n *Node) stopBackup(ctx context.Context, conn *pgx.Conn, primary *Node, into string) error {
	var label, tablespaces string
	err := conn.QueryRow(ctx, `select labelfile, coalesce(spcmapfile, '') from pg_backup_stop(false)`).Scan(&label,
		&tablespaces)
	if err != nil {
		return primary.failure("ending a base backup", err)
	}
	if tablespaces != "" {
		return errTablespace
	}
	_, err = n.writeData(into, "backup_label", []byte(label))
	return err
}

// Clone copies a cluster whose nodes are all stopped (ErrRunning otherwise) into a new folder,
// which must be empty or missing. The clone is a cluster of its own: its standbys follow its
// primary, and it stays when the original goes. It is returned stopped; Start it. Several clones
// of one cluster may be made at the same time.
func Clone(ctx context.Context, src *Cluster, dir string) (*Cluster, error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	if err := src.checkStopped(); err != nil {
		return nil, err
	}
	rec := src.snapshot()
	rec.Finished, rec.DataRoot, rec.SocketRoot = false, "", ""
	c, err := newFolder(dir, rec)
	if err != nil {
		return nil, err
	}
	c.bin = src.bin
	if err := c.copyCluster(ctx, src); err != nil {
		return nil, errors.Join(fmt.Errorf("cloning %q: %w", src.dir, err), c.Remove())
	}
	return c, nil
}

func (c *Cluster) copyCluster(ctx context.Context, src *Cluster) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for i, n := range c.nodes {
		group.Go(func() error {
			if err := n.makeFolders(); err != nil {
				return err
			}
			if err := c.user.makeFolder(n.DataDir()); err != nil {
				return err
			}
			return c.copier(fromStopped).copy(groupCtx, src.nodes[i].DataDir(), n.DataDir())
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := src.checkStopped(); err != nil { // started in the meantime: the copy is useless
		return err
	}
	c.rec.Finished = true
	return c.rec.write(c.dir)
}

func (c *Cluster) checkStopped() error {
	for _, n := range c.nodes {
		// The process alone: a server that ended while it was copied has written until then.
		if n.Running() {
			return fmt.Errorf("%w: %q of the cluster in %q", ErrRunning, n.name, filepath.Clean(c.dir))
		}
	}
	return nil
}
