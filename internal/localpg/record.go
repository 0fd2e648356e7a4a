package localpg

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	recordName    = "cluster.json"
	lockName      = "lock"
	recordVersion = 1

	// privatePrefix begins the name of every folder made outside the cluster's own one.
	privatePrefix = "hyperiondb-vault-"
	privateSocket = "/tmp" // short
	// homeName is a file in a private folder that names the cluster folder it belongs to.
	homeName = "home"
)

// privateData survives a reboot, unlike /tmp. Only TestMain of this package sets another folder.
var privateData = "/var/tmp"

// record is cluster.json: the nodes and the places of their files. Paths inside the cluster folder are
// not in it, so the folder may be moved while the cluster is stopped.
type record struct {
	Layout     int               `json:"layout"`
	Finished   bool              `json:"finished"` // false while the cluster is being made for the first time
	Major      int               `json:"major"`
	Binaries   string            `json:"binaries"`
	Durable    bool              `json:"durable"`
	Parameters map[string]string `json:"parameters,omitempty"`
	// below /var/tmp, when the server user cannot reach the cluster folder
	DataRoot   string       `json:"data_root,omitempty"`
	SocketRoot string       `json:"socket_root,omitempty"` // below /tmp, when a socket path would be too long
	Nodes      []nodeRecord `json:"nodes"`
}

type nodeRecord struct {
	Name string   `json:"name"`
	Role nodeRole `json:"role"`
}

type nodeRole string

const (
	rolePrimary nodeRole = "primary"
	roleStandby nodeRole = "standby"
	// roleFormer was the primary until another node was promoted. It may hold writes that no other
	// node has and would accept more, so it is only started by name.
	roleFormer nodeRole = "former primary"
)

// nodeName also keeps a hand-edited cluster.json from leading Remove out of the folder.
var nodeName = regexp.MustCompile(`^(primary|standby[1-9][0-9]*)$`)

func readRecord(dir string) (*record, error) {
	path := filepath.Join(dir, recordName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %q", ErrNoCluster, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("reading cluster record: %w", err)
	}
	rec, err := parseRecord(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrUnusable, path, err)
	}
	return rec, nil
}

func parseRecord(raw []byte) (*record, error) {
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return nil, fmt.Errorf("not a cluster record: %w", err)
	}
	if rec.Layout != recordVersion {
		return nil, fmt.Errorf("layout %d, this program knows layout %d", rec.Layout, recordVersion)
	}
	if rec.Major < oldestMajor || rec.Major > newestMajor {
		return nil, fmt.Errorf("major version %d is not one of %d to %d", rec.Major, oldestMajor, newestMajor)
	}
	if err := checkNodes(rec.Nodes); err != nil {
		return nil, err
	}
	for _, place := range []struct{ path, parent string }{
		{rec.DataRoot, privateData},
		{rec.SocketRoot, privateSocket},
	} {
		if place.path != "" && !isPrivate(place.path, place.parent) {
			return nil, fmt.Errorf("%q is not a folder this program makes", place.path)
		}
	}
	return &rec, nil
}

func checkNodes(nodes []nodeRecord) error {
	seen := map[string]bool{}
	primaries := 0
	for _, n := range nodes {
		if !nodeName.MatchString(n.Name) || seen[n.Name] {
			return fmt.Errorf("%q is not a name for a node here", n.Name)
		}
		seen[n.Name] = true
		switch n.Role {
		case rolePrimary:
			primaries++
		case roleStandby, roleFormer:
		default:
			return fmt.Errorf("%q is not a role", n.Role)
		}
	}
	if primaries != 1 {
		return fmt.Errorf("%d primaries, want 1", primaries)
	}
	return nil
}

func isPrivate(path, parent string) bool {
	return filepath.Dir(path) == parent && strings.HasPrefix(filepath.Base(path), privatePrefix) &&
		path == filepath.Clean(path)
}

// primary returns the name of the primary; checkNodes has checked that there is one.
func (rec *record) primary() string {
	i := slices.IndexFunc(rec.Nodes, func(n nodeRecord) bool { return n.Role == rolePrimary })
	return rec.Nodes[i].Name
}

// write replaces cluster.json in one step.
func (rec *record) write(dir string) error {
	raw, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding cluster record: %w", err)
	}
	path := filepath.Join(dir, recordName)
	if err := os.WriteFile(path+".new", append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing cluster record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("writing cluster record: %w", err)
	}
	return nil
}

// refuseForeign returns ErrUnusable when dir holds no record and anything but what an attempt to
// make a cluster leaves before there is one. checkUsable judges a folder with a record.
func refuseForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("%w: reading folder: %w", ErrUnusable, err)
	}
	foreign := ""
	for _, e := range entries {
		switch e.Name() {
		case recordName:
			return nil
		case lockName, recordName + ".new":
		default:
			foreign = e.Name()
		}
	}
	if foreign != "" {
		return fmt.Errorf("%w: %q is not a cluster and not empty: it holds %q", ErrUnusable, dir, foreign)
	}
	return nil
}

// forkTime is how long a lock may outlast its file: a process that is being started has all descriptors between its
// fork and its exec, those closed on exec too.
const forkTime = 200 * time.Millisecond

// lockFolder locks the cluster folder for this process; closing the file releases it, and so does the
// end of the process.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	began := time.Now()
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("locking %q: %w", dir, err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			if time.Since(began) < forkTime {
				time.Sleep(time.Millisecond)
				continue
			}
			return nil, fmt.Errorf("%w: %q", ErrInUse, dir)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %q: %w", dir, err)
		}
		// Remove deletes the file while holding the lock: a process that waited in between holds a
		// lock on a file that no other process can open.
		if sameFile(f, path) {
			return f, nil
		}
		f.Close()
	}
}

func sameFile(f *os.File, path string) bool {
	held, heldErr := f.Stat()
	there, thereErr := os.Lstat(path)
	return heldErr == nil && thereErr == nil && os.SameFile(held, there)
}

// makePrivate makes a folder below parent that only the server user may enter and that says
// which cluster it belongs to.
func makePrivate(parent, home string, user serverUser) (string, error) {
	path, err := os.MkdirTemp(parent, privatePrefix)
	if err != nil {
		return "", fmt.Errorf("making a private folder: %w", err)
	}
	err = os.WriteFile(filepath.Join(path, homeName), []byte(home+"\n"), 0o600)
	if err == nil && user.drop {
		err = os.Lchown(path, user.uid, user.gid)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("making a private folder: %w", err), os.RemoveAll(path))
	}
	return path, nil
}

// checkPrivate refuses a private folder that another user has put in the place of the right one, or
// that belongs to the cluster this one was copied from.
func checkPrivate(path, home string, user serverUser) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() || !user.owns(info) || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%q is not a private folder of the server user", path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	got, err := root.ReadFile(homeName)
	if err != nil {
		return fmt.Errorf("%q does not say which cluster it belongs to: %w", path, err)
	}
	if strings.TrimSuffix(string(got), "\n") != home {
		return fmt.Errorf("%q belongs to the cluster in %q", path, strings.TrimSpace(string(got)))
	}
	return nil
}
