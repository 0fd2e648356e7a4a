package localpg

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustWriteFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mustRefuse opens a folder in every way there is, and checks that nothing in it has changed.
func mustRefuse(t *testing.T, o Options, want error, says string) {
	t.Helper()
	before := snapshotOf(t, o.Dir)
	opened, openErr := Open(t.Context(), o)
	created, createErr := Create(t.Context(), o)
	for _, c := range []*Cluster{opened, created} {
		if c != nil {
			closeAtEnd(t, c)
		}
	}
	for name, err := range map[string]error{"Open": openErr, "Create": createErr} {
		if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got error %v, want %v that says %q", name, err, want, says)
		}
	}
	if diff := cmp.Diff(before, snapshotOf(t, o.Dir)); diff != "" {
		t.Errorf("the folder has changed (-before +after):\n%s", diff)
	}
}

// snapshotOf lists what a folder holds, and the content of what is directly in it.
func snapshotOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if info, statErr := os.Stat(dir); statErr == nil && !info.IsDir() {
			return map[string]string{dir: info.Mode().String()}
		}
		t.Fatal(err)
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil && !e.IsDir() {
			t.Fatal(err)
		}
		found[e.Name()] = string(raw)
	}
	return found
}

func TestForeignFoldersAreRefused(t *testing.T) {
	bin := anyVersion(t)
	dir := t.TempDir()
	mustWriteFile(t, filepath.Join(dir, "thesis.txt"), "years of work")
	mustRefuse(t, Options{Dir: dir, Binaries: bin}, ErrUnusable, `it holds "thesis.txt"`)
	wantError(t, Remove(dir), ErrNoCluster)
	_, err := Load(dir)
	wantError(t, err, ErrNoCluster)

	file := filepath.Join(dir, "thesis.txt")
	mustRefuse(t, Options{Dir: file, Binaries: bin}, ErrUnusable, "not a folder")
	wantError(t, Remove(file), ErrUnusable)
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "years of work" {
		t.Errorf("got %q, %v, want the file as it was", raw, err)
	}

	if err := Remove(filepath.Join(dir, "missing")); err != nil {
		t.Errorf("removing what does not exist: %v", err)
	}
	_, err = Load(filepath.Join(dir, "missing"))
	wantError(t, err, ErrNoCluster)
}

func TestBrokenRecordsAreRefused(t *testing.T) {
	const nodes = `"nodes":[{"name":"primary","role":"primary"}]`
	for name, test := range map[string]struct{ content, says string }{
		"empty":             {``, "not a cluster record"},
		"cut short":         {`{"layout":1,`, "not a cluster record"},
		"other layout":      {`{"layout":2,"major":15,` + nodes + `}`, "layout 2"},
		"no layout":         {`{"major":15,` + nodes + `}`, "layout 0"},
		"unsupported major": {`{"layout":1,"major":14,` + nodes + `}`, "major version 14"},
		"no nodes":          {`{"layout":1,"major":15}`, "0 primaries"},
		"two primaries": {`{"layout":1,"major":15,"nodes":[{"name":"primary","role":"primary"},` +
			`{"name":"standby1","role":"primary"}]}`, "2 primaries"},
		"same name twice": {`{"layout":1,"major":15,"nodes":[{"name":"primary","role":"primary"},` +
			`{"name":"primary","role":"standby"}]}`, `"primary"`},
		"unknown role":     {`{"layout":1,"major":15,"nodes":[{"name":"primary","role":"king"}]}`, `"king"`},
		"name that climbs": {`{"layout":1,"major":15,"nodes":[{"name":"../primary","role":"primary"}]}`, `"../primary"`},
		"data elsewhere":   {`{"layout":1,"major":15,"data_root":"/etc",` + nodes + `}`, `"/etc"`},
		"data that climbs": {`{"layout":1,"major":15,"data_root":"/var/tmp/hyperiondb-vault-1/../../etc",` + nodes + `}`,
			"not a folder this program makes"},
		"sockets elsewhere": {`{"layout":1,"major":15,"socket_root":"/var/tmp/hyperiondb-vault-1",` + nodes + `}`,
			"not a folder this program makes"},
		"never finished":      {`{"layout":1,"major":15,` + nodes + `}`, "was not finished"},
		"data has vanished":   {`{"layout":1,"finished":true,"major":15,` + nodes + `}`, `the data of "primary" is gone`},
		"not a record at all": {`[1,2,3]`, "not a cluster record"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mustWriteFile(t, filepath.Join(dir, recordName), test.content)
			mustWriteFile(t, filepath.Join(dir, lockName), "") // so that the attempt changes nothing
			mustRefuse(t, Options{Dir: dir}, ErrUnusable, test.says)
			_, err := Load(dir)
			wantError(t, err, ErrUnusable)
		})
	}
}

func TestUnfinishedClusterCanBeRemoved(t *testing.T) {
	c := mustOpen(t, Options{Binaries: anyVersion(t)})
	data := c.Primary().DataDir()
	mustRecord(t, c.Dir(), func(rec *record) { rec.Finished = false })
	mustClose(t, c)
	wantError(t, errorOf(Load(c.Dir())), ErrUnusable)
	if err := Remove(c.Dir()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{data, c.Dir()} {
		mustBeGone(t, path)
	}
}

func errorOf(_ *Cluster, err error) error { return err }

func TestOtherVersionIsRefused(t *testing.T) {
	bin := anyVersion(t)
	c := mustOpen(t, Options{Binaries: bin})
	mustStop(t, c)
	mustClose(t, c)
	other := Binaries{Dir: bin.Dir, Major: oldestMajor}
	if bin.Major == oldestMajor {
		other.Major = newestMajor
	}
	mustRefuse(t, Options{Dir: c.Dir(), Binaries: other}, ErrUnusable, "is of version")

	// The data itself has the last word.
	mustRecord(t, c.Dir(), func(rec *record) { rec.Major = other.Major })
	mustRefuse(t, Options{Dir: c.Dir()}, ErrUnusable, "the record says")
}

func TestLostNodeIsRefused(t *testing.T) {
	c := mustOpen(t, Options{Standbys: 1, Binaries: anyVersion(t)})
	mustStop(t, c)
	mustClose(t, c)
	if err := os.RemoveAll(c.Standbys()[0].DataDir()); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, Options{Dir: c.Dir()}, ErrUnusable, `the data of "standby1" is gone`)
	if _, err := os.Stat(c.Primary().DataDir()); err != nil {
		t.Errorf("the primary's data: %v", err)
	}
}

func TestOneHolderAtATime(t *testing.T) {
	c := mustOpen(t, Options{Binaries: anyVersion(t)})
	mustRefuse(t, Options{Dir: c.Dir()}, ErrInUse, c.Dir())
	wantError(t, errorOf(Load(c.Dir())), ErrInUse)
	wantError(t, Remove(c.Dir()), ErrInUse)
	if !c.Primary().Running() {
		t.Error("an attempt to remove a cluster in use has stopped it")
	}
	mustClose(t, c)
	again, err := Load(c.Dir())
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	mustClose(t, again)
}

func TestCopiedFolderDoesNotOwnTheData(t *testing.T) {
	long := filepath.Join(openFolder(t), strings.Repeat("long", 20)) // so that there is a private folder for any user
	removeAtEnd(t, long)
	c := mustOpen(t, Options{Dir: long, Binaries: anyVersion(t)})
	mustStop(t, c)
	mustClose(t, c)
	sockets := filepath.Dir(c.Primary().SocketDir())

	copied := t.TempDir()
	raw, err := os.ReadFile(filepath.Join(long, recordName))
	if err != nil {
		t.Fatal(err)
	}
	mustWriteFile(t, filepath.Join(copied, recordName), string(raw))
	mustWriteFile(t, filepath.Join(copied, lockName), "")
	mustRefuse(t, Options{Dir: copied}, ErrUnusable, "belongs to the cluster in")
	wantError(t, Remove(copied), ErrUnusable)
	if _, err := os.Stat(sockets); err != nil {
		t.Errorf("the other cluster's folder: %v", err)
	}

	// A folder that any user could have made.
	if err := os.Chmod(sockets, 0o755); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, Options{Dir: long}, ErrUnusable, "not a private folder")
	if err := os.Chmod(sockets, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestRemoveLeavesForeignFiles(t *testing.T) {
	c := mustOpen(t, Options{Binaries: anyVersion(t)})
	mustWriteFile(t, filepath.Join(c.Dir(), "notes.txt"), "mine")
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if got, want := mustList(t, c.Dir()), []string{"notes.txt"}; !cmp.Equal(got, want) {
		t.Errorf("left: got %q, want %q", got, want)
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	bin := anyVersion(t)
	set := func(name, value string) Options {
		return Options{Dir: "/nowhere/cluster", Binaries: bin, Parameters: map[string]string{name: value}}
	}
	for name, test := range map[string]struct {
		o    Options
		says string
	}{
		"no folder":         {Options{Binaries: bin}, "no folder"},
		"negative standbys": {Options{Dir: "/nowhere/cluster", Binaries: bin, Standbys: -1}, "-1 standbys"},
		"too many standbys": {Options{Dir: "/nowhere/cluster", Binaries: bin, Standbys: 10}, "10 standbys"},
		"binaries made up":  {Options{Dir: "/nowhere/cluster", Binaries: Binaries{Dir: "/bin"}}, "do not come from Find"},
		"relative binaries": {Options{Dir: "/nowhere/cluster", Binaries: Binaries{Dir: "bin", Major: 15}},
			"do not come from Find"},
		"TCP":              {set("listen_addresses", "*"), `"listen_addresses" cannot be changed`},
		"TCP in capitals":  {set("Listen_Addresses", "*"), `"Listen_Addresses" cannot be changed`},
		"other rules":      {set("hba_file", "/nowhere"), `"hba_file" cannot be changed`},
		"two lines in one": {set("work_mem", "5MB'\nlisten_addresses = '*"), "line break"},
		"name with a line": {set("work_mem = '5MB'\nport", "1"), "not the name of a setting"},
		"include":          {set("include /etc/passwd", ""), "not the name of a setting"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(t.Context(), test.o)
			if err == nil {
				closeAtEnd(t, c)
				t.Fatal("got no error")
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("got error %q, want it to say %q", err, test.says)
			}
		})
	}
}

func TestCloneRefusesAFolderInUse(t *testing.T) {
	c := mustOpen(t, Options{Binaries: anyVersion(t)})
	mustStop(t, c)
	_, err := Clone(t.Context(), c, c.Dir())
	wantError(t, err, ErrInUse)
	other := mustClone(t, c)
	mustClose(t, other)
	_, err = Clone(t.Context(), c, other.Dir())
	wantError(t, err, ErrUnusable)

	taken := t.TempDir()
	mustWriteFile(t, filepath.Join(taken, "thesis.txt"), "years of work")
	_, err = Clone(t.Context(), c, taken)
	wantError(t, err, ErrUnusable)
	if got, want := mustList(t, taken), []string{"thesis.txt"}; !cmp.Equal(got, want) {
		t.Errorf("left: got %q, want %q", got, want)
	}
	mustStart(t, c)
}

// A link could lead a copy made by root anywhere, and a tablespace cannot be in two places.
func TestLinksInTheDataAreNotFollowed(t *testing.T) {
	c := mustOpen(t, Options{Binaries: anyVersion(t)})
	mustStop(t, c)
	link := filepath.Join(c.Primary().DataDir(), "harmless.conf")
	mustLink(t, "/etc/passwd", link)
	_, err := Clone(t.Context(), c, newDir(t))
	if err == nil || !strings.Contains(err.Error(), `"harmless.conf" is not a plain file`) {
		t.Errorf("got error %v, want a refusal of the link", err)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}

	mustLink(t, openFolder(t), filepath.Join(c.Primary().DataDir(), "pg_tblspc", "16999"))
	_, err = Clone(t.Context(), c, newDir(t))
	wantError(t, err, errTablespace)
}

// The data folder belongs to the server user, who could plant a link where we write.
func TestConfigurationIsNotWrittenThroughALink(t *testing.T) {
	c := mustOpen(t, Options{Binaries: anyVersion(t)})
	mustStop(t, c)
	victim := filepath.Join(t.TempDir(), "victim")
	mustWriteFile(t, victim, "untouched")
	for _, name := range []string{configName, configName + ".new"} {
		path := filepath.Join(c.Primary().DataDir(), name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		mustLink(t, victim, path)
	}
	mustStart(t, c)
	if raw, err := os.ReadFile(victim); err != nil || string(raw) != "untouched" {
		t.Errorf("got %q, %v, want the file untouched", raw, err)
	}
}
