package localpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Errors that callers branch on; the message names the file or node.
var (
	// ErrInUse: another Cluster value, in this process or another one, holds the folder.
	ErrInUse = errors.New("cluster folder is in use")
	// ErrNoCluster: the folder holds no cluster.
	ErrNoCluster = errors.New("no cluster")
	// ErrUnusable: the folder cannot be used as it is. Nothing was changed or deleted.
	ErrUnusable = errors.New("cluster folder cannot be used")
	// ErrRunning: the call needs nodes that are stopped.
	ErrRunning = errors.New("still running")
)

// cleanUpLimit bounds the stopping of what a failed call had started, when the caller's own
// context may have ended already.
const cleanUpLimit = 20 * time.Second

// Options describe the cluster that Open and Create make or find.
type Options struct {
	// Dir is the cluster's folder, made when missing. It must be empty or hold a cluster.
	Dir string
	// Standbys is the least number of standbys, 0 to 9. A cluster that has fewer gets more, one
	// that has more keeps them.
	Standbys int
	// Binaries come from Find. The zero value means those the cluster was last run with, or
	// for a new cluster the newest there are.
	Binaries Binaries
	// Durable turns fsync on. Without it a crash of the machine, though not of a process, may
	// destroy the cluster. A durable cluster stays durable.
	Durable bool
	// Parameters are settings for postgresql.conf on every node, over the package's own. Nil
	// leaves a reused cluster's as they are. The few settings the package depends on, such as
	// listen_addresses and port, are refused. Running nodes reload them; some settings
	// need a restart.
	Parameters map[string]string
}

func (o Options) check() error {
	if o.Dir == "" {
		return errors.New("no folder given for the cluster")
	}
	if o.Standbys < 0 || o.Standbys > 9 {
		return fmt.Errorf("%d standbys, must be 0 to 9", o.Standbys)
	}
	if b := o.Binaries; b != (Binaries{}) && (!filepath.IsAbs(b.Dir) || b.Major < oldestMajor || b.Major > newestMajor) {
		return fmt.Errorf("binaries of version %d in %q do not come from Find", b.Major, b.Dir)
	}
	return checkParameters(o.Parameters)
}

// Cluster is one primary and its standbys in one folder. Its methods may be called from several
// goroutines.
type Cluster struct {
	// Fixed once the cluster is handed out.
	dir   string
	user  serverUser
	bin   Binaries
	lock  *os.File
	nodes []*Node
	fresh bool // made by the call that returns it

	// mu guards rec.Nodes: who is primary changes with Promote and Rebuild. The rest of rec
	// is fixed as well.
	mu  sync.Mutex
	rec record
}

// Open makes the cluster, or reuses the one in Options.Dir, and starts every node. On return all
// nodes take connections and the standbys are streaming. Nodes that run already are left running.
func Open(ctx context.Context, o Options) (*Cluster, error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	c, started, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, errors.Join(err, stopAll(started), c.giveUp())
	}
	return c, nil
}

// Create is Open without the start: nodes that were stopped are stopped when it returns.
func Create(ctx context.Context, o Options) (*Cluster, error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	c, started, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, n := range started {
		if err := n.Stop(ctx, Fast); err != nil {
			return nil, errors.Join(err, stopAll(started), c.giveUp())
		}
	}
	return c, nil
}

// giveUp ends a call that fails. It removes a cluster that this call has made.
func (c *Cluster) giveUp() error {
	if c.fresh {
		return c.Remove()
	}
	return c.Close()
}

// Load opens the cluster in a folder without starting or making anything. It is how another
// program finds the nodes that one has left running.
func Load(dir string) (*Cluster, error) {
	c, err := load(dir)
	if err != nil {
		return nil, err
	}
	if err := c.checkUsable(Options{}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Remove stops every node of the cluster in a folder and deletes the cluster, wherever its data
// is. Other files in the folder are left; a folder that is empty then is deleted as well. A
// folder that does not exist is no error; one that holds no cluster is ErrNoCluster.
func Remove(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	c, err := load(dir)
	if err != nil {
		return err
	}
	return c.Remove()
}

// Dir returns the cluster's folder, absolute and without symlinks.
func (c *Cluster) Dir() string { return c.dir }

// DataRoot returns the folder below /var/tmp that has the nodes' data, if the server user cannot enter Dir; "" if Dir
// has the data.
func (c *Cluster) DataRoot() string { return c.rec.DataRoot }

// Binaries returns what the cluster runs on.
func (c *Cluster) Binaries() Binaries { return c.bin }

// Primary returns the node that takes writes: the one called "primary" until Promote names
// another.
func (c *Cluster) Primary() *Node {
	for _, n := range c.nodes {
		if n.role() == rolePrimary {
			return n
		}
	}
	panic("localpg: a record without a primary passed its check")
}

// Standbys returns all other nodes in order of their names. After a failover the old primary is
// one of them, though it follows no primary until Rebuild.
func (c *Cluster) Standbys() []*Node {
	return slices.DeleteFunc(c.Nodes(), func(n *Node) bool { return n.role() == rolePrimary })
}

// Nodes returns all nodes in the order they were made.
func (c *Cluster) Nodes() []*Node { return slices.Clone(c.nodes) }

// Start starts every node that is not running, except one that was the primary before another
// was promoted, and waits until all standbys stream.
func (c *Cluster) Start(ctx context.Context) error {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	for _, n := range c.nodes {
		if err := n.checkRole(); err != nil {
			return err
		}
	}
	started, err := c.startNodes(ctx)
	if err == nil {
		err = c.waitStreaming(ctx, c.nodes...)
	}
	if err != nil {
		return errors.Join(err, stopAll(started))
	}
	return nil
}

func (c *Cluster) startNodes(ctx context.Context) (started []*Node, err error) {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		switch {
		case n.role() == roleFormer:
		case n.Running():
			group.Go(n.reload)
		default:
			started = append(started, n)
			group.Go(func() error { return n.Start(ctx) })
		}
	}
	return started, group.Wait()
}

// Stop stops every node. Smart and Fast stop the primary first, so that it can hand its last
// writes to the standbys.
func (c *Cluster) Stop(ctx context.Context, mode StopMode) error {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	primary := c.Primary()
	primaryErr := make(chan error, 1)
	go func() { primaryErr <- primary.Stop(ctx, mode) }()
	primaryDone, err := awaitPrimary(primaryErr, mode)

	var group errgroup.Group
	for _, n := range c.nodes {
		if n != primary {
			group.Go(func() error { return n.Stop(ctx, mode) })
		}
	}
	standbyErr := group.Wait()
	if !primaryDone {
		err = <-primaryErr
	}
	return errors.Join(err, standbyErr)
}

// awaitPrimary waits a limited time for the primary to stop. The primary waits for each standby, and
// one that hangs has to be stopped first.
func awaitPrimary(stopped <-chan error, mode StopMode) (bool, error) {
	if mode == Immediate {
		return false, nil
	}
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	select {
	case err := <-stopped:
		return true, err
	case <-limit.C:
		return false, nil
	}
}

// Close releases the folder, so that it can be opened again. Running nodes keep running. The
// Cluster must not be used afterwards.
func (c *Cluster) Close() error {
	if err := c.lock.Close(); err != nil {
		return fmt.Errorf("unlocking %q: %w", c.dir, err)
	}
	return nil
}

// Remove stops every node, deletes the cluster as the function Remove does, and closes it, also
// when it returns an error.
func (c *Cluster) Remove() error {
	if err := c.remove(); err != nil {
		return errors.Join(fmt.Errorf("removing cluster in %q: %w", c.dir, err), c.Close())
	}
	return c.Close()
}

func (c *Cluster) remove() error {
	if err := c.checkPlaces(); err != nil {
		return err
	}
	if err := stopAll(c.nodes); err != nil {
		return err
	}
	for _, n := range c.nodes {
		n.dropSegment()
	}
	entries, err := os.ReadDir(c.base())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var paths []string
	for _, e := range entries {
		if nodeName.MatchString(e.Name()) {
			paths = append(paths, filepath.Join(c.base(), e.Name()))
		}
	}
	for _, private := range []string{c.rec.DataRoot, c.rec.SocketRoot} {
		if private != "" {
			paths = append(paths, private)
		}
	}
	// The record goes last but for the lock: a removal that was cut short can be repeated.
	paths = append(paths, filepath.Join(c.dir, recordName+".new"), filepath.Join(c.dir, recordName),
		filepath.Join(c.dir, lockName))
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	_ = os.Remove(c.dir) // refused when something else is in it, which is as it should be
	return nil
}

// stopAll stops nodes at once: the data is kept, and recovered at the next start.
func stopAll(nodes []*Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpLimit)
	defer cancel()
	var group errgroup.Group
	for _, n := range nodes {
		group.Go(func() error {
			gentle, cancel := context.WithTimeout(ctx, cleanUpLimit/2)
			defer cancel()
			if n.Stop(gentle, Immediate) == nil {
				return nil
			}
			return n.Kill()
		})
	}
	return group.Wait()
}

// prepare makes or opens the cluster and brings it to the wanted number of standbys. It returns
// the nodes it had to start for that.
func prepare(ctx context.Context, o Options) (*Cluster, []*Node, error) {
	if err := o.check(); err != nil {
		return nil, nil, err
	}
	c, err := load(o.Dir)
	if errors.Is(err, ErrNoCluster) {
		return create(ctx, o)
	}
	if err != nil {
		return nil, nil, err
	}
	started, err := c.reuse(ctx, o)
	if err != nil {
		return nil, nil, errors.Join(err, stopAll(started), c.Close())
	}
	return c, started, nil
}

// load opens the cluster in the folder, even if its nodes are broken.
func load(dir string) (*Cluster, error) {
	dir, err := realPath(dir)
	if err != nil {
		return nil, err
	}
	if _, err := readRecord(dir); err != nil { // before a lock file is made in a folder that may hold no cluster
		return nil, err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	c, err := loadLocked(dir, lock)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return c, nil
}

func loadLocked(dir string, lock *os.File) (*Cluster, error) {
	rec, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	user, err := currentServerUser()
	if err != nil {
		return nil, err
	}
	return newCluster(dir, user, lock, *rec), nil
}

func newCluster(dir string, user serverUser, lock *os.File, rec record) *Cluster {
	c := &Cluster{dir: dir, user: user, lock: lock, rec: rec}
	for _, n := range rec.Nodes {
		c.nodes = append(c.nodes, &Node{c: c, name: n.Name})
	}
	return c
}

// realPath returns the folder without symlinks; one that does not exist is ErrNoCluster.
func realPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding cluster folder: %w", err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w in %q", ErrNoCluster, dir)
	}
	if err != nil {
		return "", fmt.Errorf("finding cluster folder: %w", err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", fmt.Errorf("finding cluster folder: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%w: %q is not a folder", ErrUnusable, dir)
	}
	return real, nil
}

func (c *Cluster) reuse(ctx context.Context, o Options) ([]*Node, error) {
	if err := c.checkUsable(o); err != nil {
		return nil, err
	}
	c.rec.Durable = c.rec.Durable || o.Durable
	if o.Parameters != nil {
		c.rec.Parameters = maps.Clone(o.Parameters)
	}
	if err := c.rec.write(c.dir); err != nil {
		return nil, err
	}
	return c.addStandbys(ctx, o.Standbys)
}

// checkUsable refuses a folder whose record and content do not agree, and settles what the
// record leaves open: the binaries, and a socket folder that a reboot has swept away.
func (c *Cluster) checkUsable(o Options) error {
	if !c.rec.Finished {
		return fmt.Errorf("%w: the cluster in %q was not finished when it was made; remove it and start again", ErrUnusable,
			c.dir)
	}
	if o.Binaries.Major != 0 && o.Binaries.Major != c.rec.Major {
		return fmt.Errorf("%w: the cluster in %q is of version %d, wanted %d", ErrUnusable, c.dir, c.rec.Major,
			o.Binaries.Major)
	}
	if err := c.checkPlaces(); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := n.checkData(); err != nil {
			return err
		}
	}
	return c.settle(o.Binaries)
}

func (c *Cluster) checkPlaces() error {
	for _, private := range []string{c.rec.DataRoot, c.rec.SocketRoot} {
		if private == "" {
			continue
		}
		if err := checkPrivate(private, c.dir, c.user); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrUnusable, err)
		}
	}
	return nil
}

func (n *Node) checkData() error {
	raw, err := os.ReadFile(filepath.Join(n.DataDir(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("%w: the data of %q is gone: %w", ErrUnusable, n.name, err)
	}
	if got, want := strings.TrimSpace(string(raw)), strconv.Itoa(n.c.rec.Major); got != want {
		return fmt.Errorf("%w: the data of %q is of version %q, the record says %s", ErrUnusable, n.name, got, want)
	}
	return nil
}

func (c *Cluster) settle(wanted Binaries) error {
	bin, err := c.chooseBinaries(wanted)
	if err != nil {
		return err
	}
	c.bin = bin
	c.rec.Binaries = bin.Dir
	if err := c.placeSockets(); err != nil {
		return err
	}
	return c.rec.write(c.dir)
}

func (c *Cluster) chooseBinaries(wanted Binaries) (Binaries, error) {
	if wanted != (Binaries{}) {
		return wanted, nil
	}
	if bin, err := binariesIn(c.rec.Binaries); err == nil && bin.Major == c.rec.Major {
		return bin, nil
	}
	return Find(c.rec.Major)
}

// create makes a new cluster. If it fails, it deletes all it has made.
func create(ctx context.Context, o Options) (*Cluster, []*Node, error) {
	if o.Binaries == (Binaries{}) {
		found, err := Find(0)
		if err != nil {
			return nil, nil, err
		}
		o.Binaries = found
	}
	c, err := newFolder(o.Dir, record{
		Layout:     recordVersion,
		Major:      o.Binaries.Major,
		Binaries:   o.Binaries.Dir,
		Durable:    o.Durable,
		Parameters: maps.Clone(o.Parameters),
		Nodes:      []nodeRecord{{Name: "primary", Role: rolePrimary}},
	})
	if err != nil {
		return nil, nil, err
	}
	c.bin, c.fresh = o.Binaries, true
	started, err := c.fill(ctx, o.Standbys)
	if err != nil {
		return nil, nil, errors.Join(err, c.giveUp())
	}
	return c, started, nil
}

func (c *Cluster) fill(ctx context.Context, standbys int) ([]*Node, error) {
	if err := c.initPrimary(ctx); err != nil {
		return nil, err
	}
	started, err := c.addStandbys(ctx, standbys)
	if err != nil {
		return started, err
	}
	c.rec.Finished = true
	return started, c.rec.write(c.dir)
}

// newFolder makes and locks an empty cluster folder and decides where data and sockets live.
func newFolder(path string, rec record) (*Cluster, error) {
	user, err := currentServerUser()
	if err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o700)
	if user.drop {
		mode = 0o755 // the server user has to pass through
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making cluster folder: %w", err)
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making cluster folder: %w", err)
	}
	dir, err := realPath(path)
	if err != nil {
		return nil, err
	}
	if err := refuseForeign(dir); err != nil {
		return nil, err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	c := newCluster(dir, user, lock, rec)
	if err := c.claim(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// claim writes the first record. From then on Remove may delete the folder.
func (c *Cluster) claim() error {
	if _, err := os.Lstat(filepath.Join(c.dir, recordName)); err == nil {
		return fmt.Errorf("%w: there is a cluster in %q already", ErrUnusable, c.dir)
	}
	if err := c.placeData(); err != nil {
		return err
	}
	err := c.placeSockets()
	if err == nil {
		err = c.rec.write(c.dir)
	}
	if err != nil {
		return errors.Join(err, c.remove())
	}
	return nil
}

// placeData puts the data outside the cluster folder when the server user cannot get there.
func (c *Cluster) placeData() error {
	reachable, err := c.user.canReach(c.dir)
	if err != nil {
		return fmt.Errorf("checking who may enter %q: %w", c.dir, err)
	}
	if reachable {
		return nil
	}
	c.rec.DataRoot, err = makePrivate(privateData, c.dir, c.user)
	return err
}

// placeSockets puts the sockets below /tmp when a path in the nodes' own folders will not do.
func (c *Cluster) placeSockets() error {
	if c.rec.SocketRoot != "" {
		err := checkPrivate(c.rec.SocketRoot, c.dir, c.user)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrUnusable, err)
		}
		c.rec.SocketRoot = ""
	}
	// Measured with the longest node name there can be.
	if fitsSocket(filepath.Join(c.base(), "standby9", "socket")) {
		return nil
	}
	var err error
	c.rec.SocketRoot, err = makePrivate(privateSocket, c.dir, c.user)
	return err
}

// base is the folder of the nodes' folders.
func (c *Cluster) base() string {
	if c.rec.DataRoot != "" {
		return c.rec.DataRoot
	}
	return c.dir
}

func (c *Cluster) initPrimary(ctx context.Context) error {
	n := c.Primary()
	if err := n.makeFolders(); err != nil {
		return err
	}
	if err := c.user.makeFolder(n.DataDir()); err != nil {
		return fmt.Errorf("making the data folder of %q: %w", n.name, err)
	}
	if err := fillData(c, ctx, n.DataDir()); err != nil {
		return err
	}
	return n.adopt()
}

// fillData is initdb. Only TestMain of this package sets another function.
var fillData = (*Cluster).initdb

func (c *Cluster) initdb(ctx context.Context, data string) error {
	args := []string{"-D", data, "-U", superuser, "-E", "UTF8", "--locale=C", "--data-checksums",
		"--auth-local=trust", "--auth-host=reject", "--no-instructions"}
	if !c.rec.Durable {
		// Small segments: most of the usual 16 MB are zeros that every copy would carry along.
		args = append(args, "--no-sync", "--wal-segsize=1")
	}
	cmd := c.user.command(ctx, c.bin.program("initdb"), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running initdb: %w\n%s", err, lastLines(out))
	}
	return nil
}

// addStandbys makes standbys until there are so many. It starts the primary for that and says so.
func (c *Cluster) addStandbys(ctx context.Context, wanted int) (started []*Node, err error) {
	for number := 1; len(c.nodes) <= wanted; number++ {
		name := "standby" + strconv.Itoa(number)
		if slices.ContainsFunc(c.nodes, func(n *Node) bool { return n.name == name }) {
			continue
		}
		if primary := c.Primary(); !primary.Running() {
			if err := primary.Start(ctx); err != nil {
				return started, err
			}
			started = append(started, primary)
		}
		if err := c.addStandby(ctx, name); err != nil {
			return started, err
		}
	}
	return started, nil
}

func (c *Cluster) addStandby(ctx context.Context, name string) error {
	n := &Node{c: c, name: name}
	if err := n.makeFolders(); err != nil {
		return err
	}
	if err := n.copyPrimary(ctx, c.Primary()); err != nil {
		return fmt.Errorf("making %q: %w", name, err)
	}
	c.rec.Nodes = append(c.rec.Nodes, nodeRecord{Name: name, Role: roleStandby})
	c.nodes = append(c.nodes, n)
	return c.rec.write(c.dir)
}

// waitStreaming waits until the primary counts every standby among these nodes as streaming.
func (c *Cluster) waitStreaming(ctx context.Context, nodes ...*Node) error {
	primary := c.Primary()
	ask := querier{n: primary}
	defer ask.close()
	var missing *Node
	err := poll(ctx, func() (bool, error) {
		var streaming []string
		err := ask.row(ctx,
			`select coalesce(array_agg(application_name), '{}') from pg_stat_replication where state = 'streaming'`, &streaming)
		if err != nil {
			return false, permanent(err)
		}
		missing = nil
		for _, n := range nodes {
			if n.role() != roleStandby || slices.Contains(streaming, n.name) {
				continue
			}
			if missing = n; !n.Running() {
				return false, errNotRunning
			}
		}
		return missing == nil, nil
	})
	if err != nil && missing != nil {
		return missing.failure("waiting for it to stream", ask.explain(err))
	}
	if err != nil {
		return primary.failure("asking it about its standbys", ask.explain(err))
	}
	return nil
}

// setRoles changes the nodes' roles, in the record first: roles must outlive the process.
func (c *Cluster) setRoles(roles map[string]nodeRole) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.rec
	next.Nodes = slices.Clone(c.rec.Nodes)
	for i, n := range next.Nodes {
		if role, ok := roles[n.Name]; ok {
			next.Nodes[i].Role = role
		}
	}
	if err := next.write(c.dir); err != nil {
		return err
	}
	c.rec.Nodes = next.Nodes // only the nodes: the other fields are read without the lock
	return nil
}

// snapshot returns a copy of the record.
func (c *Cluster) snapshot() record {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.rec
	rec.Nodes = slices.Clone(rec.Nodes)
	rec.Parameters = maps.Clone(rec.Parameters)
	return rec
}
