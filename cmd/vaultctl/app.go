package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

const applicationName = "vaultctl"

// stdio is the terminal, or what stands in for it. Data goes to out, talk to err.
type stdio struct {
	in  *os.File
	out *os.File
	err *os.File
}

// app is what commands share. Everything in it opens when first used, so help, completion and bad usage open nothing.
type app struct {
	stdio
	databaseURL string
	tokenFile   string
	kmsKey      string
	output      string // table or json

	reader *db.Reader
	writer *db.Writer
	ring   *kms.Ring
}

// vault returns the door to the secrets. Pools and keys behind it open when first used.
func (a *app) vault(ctx context.Context) (*vault.Vault, error) {
	options := db.Options{URL: a.databaseURL, ApplicationName: applicationName, MaxConns: 2}
	var err error
	if a.reader == nil {
		if a.reader, err = db.NewReader(ctx, options); err != nil {
			return nil, err
		}
	}
	if a.writer == nil {
		if a.writer, err = db.NewWriter(ctx, options); err != nil {
			return nil, err
		}
	}
	return vault.New(vault.Options{Reader: a.reader, Writer: a.writer, Keys: vault.DeferKeys(a.openKeys)}), nil
}

// close is run once, at the end.
func (a *app) close() {
	if a.ring != nil {
		a.ring.Close()
	}
	if a.writer != nil {
		a.writer.Close()
	}
	if a.reader != nil {
		a.reader.Close()
	}
}

// openKeys opens the KMS key that was asked for, else the vault's default one.
func (a *app) openKeys(ctx context.Context) (vault.Keys, error) {
	uri := a.kmsKey
	if uri == "" {
		config, err := a.reader.Config(ctx)
		if err != nil {
			return nil, err
		}
		if uri, err = defaultKey(config); err != nil {
			return nil, err
		}
	}
	ring, err := kms.OpenRing(ctx, []string{uri})
	if err != nil {
		return nil, err
	}
	a.ring = ring
	return ring, nil
}

// defaultKey refuses an endpoint that comes from the database: whoever can edit that row must not learn data keys.
func defaultKey(c db.Config) (string, error) {
	switch {
	case c.DefaultKMSKey == "":
		return "", hint(fmt.Errorf("no KMS key is set: %w", vault.ErrKeyRefused), "give one with --kms-key or VAULTCTL_KMS_KEY")
	case kms.HasEndpoint(c.DefaultKMSKey):
		return "", hint(fmt.Errorf("the vault's default KMS key names an endpoint: %w", vault.ErrKeyRefused), "give the key with --kms-key or VAULTCTL_KMS_KEY")
	}
	return c.DefaultKMSKey, nil
}

// change is what every write begins with: the admin token.
func (a *app) change() (vault.Change, error) {
	token, err := a.token()
	return vault.Change{Token: token}, err
}

func (a *app) token() (vault.Token, error) {
	if text := os.Getenv("VAULTCTL_TOKEN"); text != "" {
		token, err := vault.ParseToken(text)
		if err != nil {
			return token, refused(fmt.Errorf("VAULTCTL_TOKEN: %w", err))
		}
		return token, nil
	}
	path, chosen := a.tokenFile, true
	if path == "" {
		var err error
		if path, err = defaultTokenFile(); err != nil {
			return vault.Token{}, err
		}
		chosen = false
	}
	text, err := readPrivateFile(path)
	if errors.Is(err, fs.ErrNotExist) && !chosen {
		return vault.Token{}, hint(refused(errors.New("no admin token")), "set VAULTCTL_TOKEN_FILE, or save the token in %s", path)
	}
	if err != nil {
		return vault.Token{}, err
	}
	token, err := vault.ParseToken(text)
	if err != nil {
		return token, refused(fmt.Errorf("token file %q: %w", path, err))
	}
	return token, nil
}

func defaultTokenFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("finding the token: %w", err)
	}
	return filepath.Join(dir, "vaultctl", "token"), nil
}

// readPrivateFile refuses a file that others can read: what was in it is no longer secret.
func readPrivateFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading the token file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the token file: %w", err)
	case !info.Mode().IsRegular():
		return "", refused(fmt.Errorf("token file %q is not a regular file", path))
	case info.Mode().Perm()&0o077 != 0:
		return "", hint(refused(fmt.Errorf("token file %q can be read by others (mode %04o)", path, info.Mode().Perm())), "chmod 600 %s", path)
	case info.Size() > 4096:
		return "", refused(fmt.Errorf("token file %q is too large for a token", path))
	}
	text := make([]byte, info.Size())
	n, err := file.Read(text)
	if err != nil {
		return "", fmt.Errorf("reading the token file: %w", err)
	}
	return strings.TrimSpace(string(text[:n])), nil
}
