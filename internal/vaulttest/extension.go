package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/testfolder"
)

// A server offers an extension when its files lie in its share folder, which belongs to the whole machine. Tests do not
// write there: PostgreSQL 18 has a setting for another folder (extension_control_path). Older versions run from a copy
// of their programs, because PostgreSQL looks for its other files relative to the program.

// NewExtensionCluster is NewCluster with a server that offers the extension hyperion_vault, its files made and
// installed by make. [Store.Remove] removes all of it.
func (p *Program) NewExtensionCluster(ctx context.Context, dir string, more map[string]string) (*Store, error) {
	server, err := os.MkdirTemp("", "vaulttest-server") // not below p.Dir, which the server's user cannot enter
	if err != nil {
		return nil, err
	}
	s := &Store{Database: templateDatabase, KeyFile: p.KeyFile, server: server}
	if err := p.openWithExtension(ctx, s, dir, more); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

func (p *Program) openWithExtension(ctx context.Context, s *Store, dir string, more map[string]string) error {
	if err := os.Chmod(s.server, 0o755); err != nil {
		return err
	}
	binaries, settings, files, err := offerExtension(ctx, p.prepared.Binaries(), s.server)
	if err != nil {
		return fmt.Errorf("installing the extension: %w", err)
	}
	s.extension = files
	maps.Copy(settings, more)
	s.Cluster, err = p.openClone(ctx, dir, binaries, settings)
	return err
}

// openClone starts a clone of the prepared cluster with the programs b and further settings.
func (p *Program) openClone(ctx context.Context, dir string, b localpg.Binaries,
	more map[string]string) (*localpg.Cluster, error) {
	clone, err := localpg.Clone(ctx, p.prepared, dir)
	if err != nil {
		return nil, err
	}
	if err := clone.Close(); err != nil {
		return nil, err
	}
	settings := parameters()
	maps.Copy(settings, more)
	return localpg.Open(ctx, localpg.Options{Dir: dir, Standbys: 1, Binaries: b, Parameters: settings})
}

// OwnWith is Own with further settings on every server.
func OwnWith(t testing.TB, settings map[string]string) *Store {
	t.Helper()
	dir := program.ClusterDir()
	cluster, err := program.openClone(t.Context(), dir, program.prepared.Binaries(), settings)
	if err != nil {
		t.Fatalf("making a test cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := cluster.Remove(); err != nil {
			t.Errorf("removing a test cluster: %v", err)
		}
	})
	s := &Store{Cluster: cluster, Database: templateDatabase, KeyFile: program.KeyFile}
	s.keep(t)
	return s
}

// OwnExtension gives a test a cluster of its own that offers the extension and has never had a vault: no roles either.
func OwnExtension(t testing.TB) *Store {
	t.Helper()
	dir := program.ClusterDir()
	s, err := program.NewExtensionCluster(t.Context(), dir, nil)
	if err != nil {
		t.Fatalf("making a test cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Errorf("removing a test cluster: %v", err)
		}
	})
	s.Database = "postgres"
	s.MustExec(t, `DROP DATABASE `+templateDatabase)
	s.MustDropRoles(t)
	return s
}

// MustDropRoles removes the vault's roles, which belong to the whole cluster and outlive a vault.
func (s *Store) MustDropRoles(t testing.TB) {
	t.Helper()
	s.MustExec(t, `DROP ROLE vault_owner, vault_service, vault_worker, vault_auditor`)
}

// Remove removes a cluster that NewCluster or NewExtensionCluster made.
func (s *Store) Remove() error {
	var errs []error
	if s.Cluster != nil {
		errs = append(errs, s.Cluster.Remove())
	}
	if s.server != "" {
		errs = append(errs, os.RemoveAll(s.server))
	}
	return errors.Join(errs...)
}

// ExtensionFolder is where the server looks for the extension's files.
func (s *Store) ExtensionFolder() string { return s.extension }

// Program returns the path of one of PostgreSQL's programs, "" where the installation lacks it.
func (s *Store) Program(name string) string {
	path, err := osexec.LookPath(filepath.Join(program.prepared.Binaries().Dir, name))
	if err != nil {
		return ""
	}
	return path
}

// offerExtension returns the programs and settings of a server that finds the extension, and the folder of its files.
func offerExtension(ctx context.Context, b localpg.Binaries,
	dir string) (localpg.Binaries, map[string]string, string, error) {
	if b.Major >= 18 {
		settings := map[string]string{"extension_control_path": dir + ":$system"}
		files := filepath.Join(dir, "extension")
		return b, settings, files, runMake(ctx, "extension", "EXTENSION="+files)
	}
	private, share, err := copyServer(ctx, b, dir)
	if err != nil {
		return b, nil, "", err
	}
	settings, files := map[string]string{}, filepath.Join(share, "extension")
	config := filepath.Join(private.Dir, "pg_config")
	if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) { // server programs alone
		return private, settings, files, runMake(ctx, "extension", "EXTENSION="+files)
	}
	return private, settings, files, runMake(ctx, "install-extension", "EXTENSION="+filepath.Join(dir, "made"),
		"PG_CONFIG="+config)
}

func runMake(ctx context.Context, args ...string) error {
	root, err := testfolder.Module()
	if err != nil {
		return err
	}
	cmd := osexec.CommandContext(ctx, "make", append([]string{"--silent", "--directory", root}, args...)...)
	for _, variable := range os.Environ() { // without the settings of a make that runs the tests
		if !strings.HasPrefix(variable, "MAKE") && !strings.HasPrefix(variable, "MFLAGS") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// copyServer copies an installation's programs below dir, at the same path, and links to its libraries and its share
// folder's entries. extension/ becomes a new folder of links, so that files can be added to it.
func copyServer(ctx context.Context, b localpg.Binaries,
	dir string) (private localpg.Binaries, share string, err error) {
	shareFrom, libFrom, err := folders(ctx, b)
	if err != nil {
		return private, "", err
	}
	private, share = b, filepath.Join(dir, shareFrom)
	private.Dir = filepath.Join(dir, b.Dir)
	if err := os.MkdirAll(private.Dir, 0o755); err != nil {
		return private, share, err
	}
	for _, name := range []string{"postgres", "initdb", "pg_ctl", "pg_config"} {
		err := copyProgram(filepath.Join(b.Dir, name), filepath.Join(private.Dir, name))
		if err != nil && !(name == "pg_config" && errors.Is(err, fs.ErrNotExist)) {
			return private, share, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, libFrom)), 0o755); err != nil {
		return private, share, err
	}
	return private, share, errors.Join(
		os.Symlink(libFrom, filepath.Join(dir, libFrom)),
		linkAll(shareFrom, share, "extension"),
		linkAll(filepath.Join(shareFrom, "extension"), filepath.Join(share, "extension"), ""))
}

// folders returns the share folder and the folder of loadable libraries.
func folders(ctx context.Context, b localpg.Binaries) (share, lib string, err error) {
	config := filepath.Join(b.Dir, "pg_config")
	if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) { // as tools/install-postgres unpacks them
		root := filepath.Dir(b.Dir)
		return filepath.Join(root, "share", "postgresql"), filepath.Join(root, "lib"), nil
	}
	out, err := osexec.CommandContext(ctx, config, "--sharedir", "--pkglibdir").Output()
	lines := strings.Fields(string(out))
	if err == nil && len(lines) != 2 {
		err = fmt.Errorf("got %q", out)
	}
	if err != nil {
		return "", "", fmt.Errorf("asking %s for its folders: %w", config, err)
	}
	return lines[0], lines[1], nil
}

// copyProgram copies instead of linking: PostgreSQL would follow a link back to where it was installed.
func copyProgram(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

func linkAll(from, to, except string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == except {
			continue
		}
		if err := os.Symlink(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
