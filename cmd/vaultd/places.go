package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit/archive"
	"github.com/hyperiondb/vault/internal/audit/bucket"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/awsclient"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
)

// checkKeys reads the names of keys. It opens none.
func (c *Config) checkKeys() error {
	var all []kms.URI
	for _, text := range c.KMSKeys {
		uri, err := kms.ParseURI(text)
		if err != nil {
			return fmt.Errorf("kms_keys: %w", err)
		}
		if slices.Contains(all, uri) {
			return fmt.Errorf("kms_keys: %q is there twice", uri)
		}
		all = append(all, uri)
	}
	signer, err := kms.ParseSigner(c.AuditSealKey)
	if err != nil {
		return fmt.Errorf("audit_seal_key: %w", err)
	}
	if path := signer.LocalPath(); path != "" && !filepath.IsAbs(path) { // the text may be the key itself
		return errors.New("audit_seal_key: want an absolute path, such as /etc/vault/audit.key, or a key in AWS KMS")
	}
	return nil
}

// checkPaths refuses a relative path of what must be found again at each start, and text that no path, address or name
// has.
func (c *Config) checkPaths() error {
	for _, p := range []struct{ key, path, example string }{
		{"state_dir", c.StateDir, "/var/lib/vaultd"}, {"audit_seals_file", c.AuditSealsFile, "/var/lib/vaultd/seals"},
	} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s %q: an absolute path, such as %s", p.key, p.path, p.example)
		}
	}
	settings := c.settings()
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		var texts []string
		switch value := settings[key].Interface().(type) {
		case string:
			texts = []string{value}
		case []string:
			texts = value
		}
		if strings.HasSuffix(key, "database_url") { // its parser knows which it takes
			continue
		}
		if slices.ContainsFunc(texts, func(text string) bool { return strings.ContainsFunc(text, unicode.IsControl) }) {
			return fmt.Errorf("%s: it has a control character, such as a line end", key)
		}
	}
	return c.checkHostLists()
}

// checkPlaces looks for folders and files that are of the other kind or missing. It is for check-config only: a daemon
// starts without its archive and without state_dir, and reads go on.
func (c *Config) checkPlaces() error {
	for _, p := range []struct{ key, path string }{
		{"audit_spool", c.AuditSpool}, {"audit_archive", c.archiveFolder()}, {"state_dir", c.StateDir},
	} {
		info, err := os.Stat(p.path)
		switch {
		case p.path == "" || p.key == "audit_spool" && c.Audit != "on":
		case errors.Is(err, syscall.ENOTDIR) || err == nil && !info.IsDir():
			return fmt.Errorf("%s: %q is not a folder", p.key, p.path)
		}
	}
	if folder := filepath.Dir(c.archiveFolder()); c.archiveFolder() != "" {
		if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("audit_archive: there is no folder %q: make or mount it first", folder)
		}
	}
	for _, p := range []struct{ key, path string }{
		{"audit_seals_file", c.AuditSealsFile}, {"address_file", c.AddressFile}, {"cpu_profile", c.CPUProfile},
	} {
		if info, err := os.Stat(p.path); err == nil && info.IsDir() {
			return fmt.Errorf("%s: %q is a folder", p.key, p.path)
		}
	}
	return nil
}

// refusals opens what vaultd opens at its start, for check-config, and returns what it would not start with on this
// machine, for this user. It changes no file, sends nothing, resolves no name and opens no socket. The files of keys
// are judged by warnings.
func (c *Config) refusals(ctx context.Context) []warning {
	var all []warning
	refuse := func(key string, err error) {
		if err != nil {
			text := strings.TrimPrefix(err.Error(), key+": ")
			all = append(all, warning{key, "vaultd does not start: " + text})
		}
	}
	ctx = awsclient.WithCredentialsFile(ctx, c.AWSCredentialsFile)
	c.tryDatabase(ctx, refuse)
	if c.StateDir != "" {
		_, err := db.OpenFence(filepath.Join(c.StateDir, "primaries.json"))
		refuse("state_dir", err)
	}
	c.tryKeys(ctx, refuse)
	if c.AuditSealsFile != "" {
		refuse("audit_seals_file", seal.CheckCopies(c.AuditSealsFile))
	}
	if c.AuditSealsBucket != "" {
		b, err := bucket.Open(ctx, c.AuditSealsBucket, noCluster)
		if err == nil {
			err = b.Close()
		}
		refuse("audit_seals_bucket", err)
	}
	if c.AuditArchive != "" {
		a, err := archive.Open(ctx, c.AuditArchive, noCluster)
		if err == nil {
			err = a.Close()
		}
		refuse("audit_archive", err)
	}
	for _, p := range []struct{ key, path string }{
		{"audit_seals_file", c.AuditSealsFile}, {"address_file", c.AddressFile}, {"cpu_profile", c.CPUProfile},
	} {
		refuse(p.key, folderOfFile(p.path))
	}
	for _, b := range c.binds() {
		refuse(b.key, b.trySocket())
	}
	return all
}

// noCluster is asked for by the first request, and none is sent.
func noCluster(context.Context) (uuid.UUID, error) { return uuid.UUID{}, errors.ErrUnsupported }

// tryDatabase makes the pools, which read service files and certificates and connect later.
func (c *Config) tryDatabase(ctx context.Context, refuse func(key string, err error)) {
	reader, err := db.NewReader(ctx, db.Options{URL: c.DatabaseURL})
	if err == nil {
		reader.Close()
	}
	refuse("database_url", err)
	for _, p := range []struct{ key, url string }{
		{"primary_database_url", c.PrimaryDatabaseURL}, {"listen_database_url", c.ListenDatabaseURL},
	} {
		if p.url == "" {
			continue
		}
		writer, err := db.NewWriter(ctx, db.Options{URL: p.url})
		if err == nil {
			writer.Close()
		}
		refuse(p.key, err)
	}
}

// tryKeys opens the keys whose files warnings has nothing to say of, and those of AWS. Files that root does not own it
// leaves out for root: vaultd runs as their owner.
func (c *Config) tryKeys(ctx context.Context, refuse func(key string, err error)) {
	own := func(path string) bool {
		info, err := os.Stat(path)
		if path == "" || err != nil {
			return path == ""
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		return kms.CheckKeyFile(path) == nil && (os.Geteuid() != 0 || ok && stat.Uid == 0)
	}
	var uris []string
	for _, text := range c.KMSKeys {
		if uri, err := kms.ParseURI(text); err == nil && own(uri.LocalPath()) {
			uris = append(uris, text)
		}
	}
	if len(uris) > 0 {
		keys, err := kms.OpenKeyring(ctx, uris)
		if err == nil {
			err = keys.Close()
		}
		refuse("kms_keys", err)
	}
	if signer, err := kms.ParseSigner(c.AuditSealKey); err == nil && c.AuditSealKey != "" && signer.LocalPath() == "" {
		_, err := kms.OpenSigner(ctx, c.AuditSealKey)
		refuse("audit_seal_key", err)
	}
}

// folderOfFile fails if the folder of a file that vaultd makes is missing.
func folderOfFile(path string) error {
	if path == "" {
		return nil
	}
	folder := filepath.Dir(path)
	if info, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return fmt.Errorf("there is no folder %q", folder)
	}
	return nil
}

// madeAtBoot has the folders of sockets, which systemd makes when vaultd starts (RuntimeDirectory=).
var madeAtBoot = []string{"/run/", "/var/run/"}

// trySocket fails if a unix socket cannot be made where the setting says. A socket that is there may be that of the
// daemon that runs.
func (b bind) trySocket() error {
	if b.path == "" {
		return nil
	}
	info, err := os.Lstat(b.path)
	switch {
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%q is there, and is no socket", b.path)
	case slices.ContainsFunc(madeAtBoot, func(folder string) bool { return strings.HasPrefix(b.path, folder) }):
		return nil
	}
	return folderOfFile(b.path)
}
