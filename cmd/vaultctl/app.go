package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

const applicationName = "vaultctl"

// stdio holds the standard streams. Data goes to out, messages to err.
type stdio struct {
	in  *os.File
	out *os.File
	err *os.File
}

// app is what commands share. Connections and keys open when first used, so help and bad usage open nothing.
type app struct {
	stdio
	databaseURL string
	tokenFile   string
	kmsKey      string
	output      string // table or json
	parsed      bool   // the command line was parsed: later errors are not usage errors

	fence   *db.Fence
	pools   db.Siblings // reader and writer share the connections the server gives
	reader  *db.Reader
	writer  *db.Writer
	keyring *kms.Keyring
}

// vault returns the vault. Its pools and keys open when first used.
func (a *app) vault(ctx context.Context) (*vault.Vault, error) {
	if err := a.makePools(ctx); err != nil {
		return nil, err
	}
	return vault.New(vault.Options{Reader: a.reader, Writer: a.writer, Keys: vault.DeferKeys(a.openKeys)}), nil
}

// log returns the audit log, over the same pools.
func (a *app) log(ctx context.Context) (*auditdb.Log, error) {
	if err := a.makePools(ctx); err != nil {
		return nil, err
	}
	return auditdb.New(a.reader, a.writer), nil
}

func (a *app) makePools(ctx context.Context) error {
	options, err := a.pool(2)
	if err != nil {
		return err
	}
	if a.reader == nil {
		if a.reader, err = db.NewReader(ctx, options); err != nil {
			return err
		}
	}
	if a.writer == nil {
		options.Reader = a.reader
		a.writer, err = db.NewWriter(ctx, options)
	}
	return err
}

// primary returns a vault that uses the primary alone, over at most conns connections.
func (a *app) primary(ctx context.Context, conns int) (*vault.Vault, error) {
	options, err := a.pool(conns)
	if err != nil {
		return nil, err
	}
	if a.writer, err = db.NewWriter(ctx, options); err != nil {
		return nil, err
	}
	return vault.New(vault.Options{Writer: a.writer, Keys: vault.DeferKeys(a.openKeys)}), nil
}

func (a *app) pool(conns int) (db.Options, error) {
	fence, err := a.openFence()
	return db.Options{URL: a.databaseURL, ApplicationName: applicationName, MaxConns: conns, Fence: fence, Brief: true,
		Siblings: &a.pools}, err
}

// config reads the configuration from the node that the command reads from.
func (a *app) config(ctx context.Context) (db.Config, error) {
	if a.reader == nil {
		return a.writer.Config(ctx)
	}
	return a.reader.Config(ctx)
}

// close is run once, at the end.
func (a *app) close() {
	if a.keyring != nil {
		a.keyring.Close()
	}
	if a.writer != nil {
		a.writer.Close()
	}
	if a.reader != nil {
		a.reader.Close()
	}
}

// openKeys opens the KMS key of --kms-key, else the vault's default one.
func (a *app) openKeys(ctx context.Context) (vault.Keys, error) {
	if a.keyring != nil {
		return a.keyring, nil
	}
	uri := a.kmsKey
	if uri == "" {
		config, err := a.config(ctx)
		if err != nil {
			return nil, err
		}
		if uri, err = defaultKey(config); err != nil {
			return nil, err
		}
	}
	keyring, err := kms.OpenKeyring(ctx, []string{uri})
	if a.kmsKey != "" && errors.Is(err, fs.ErrNotExist) {
		return nil, usage("%s", messageOf(err))
	}
	if err != nil {
		return nil, err
	}
	a.keyring = keyring
	return keyring, nil
}

// defaultKey refuses an endpoint stored in the database: a role that can edit the row could send data keys to itself.
func defaultKey(c db.Config) (string, error) {
	switch {
	case c.DefaultKMSKey == "":
		return "", hint(fmt.Errorf("no KMS key is set: %w", vault.ErrKeyRefused),
			"give one with --kms-key or VAULTCTL_KMS_KEY")
	case kms.HasEndpoint(c.DefaultKMSKey):
		return "", hint(fmt.Errorf("the vault's default KMS key names an endpoint: %w", vault.ErrKeyRefused),
			"give the key with --kms-key or VAULTCTL_KMS_KEY")
	}
	return c.DefaultKMSKey, nil
}

// change is what every write begins with: the admin token.
func (a *app) change() (vault.Change, error) {
	token, err := a.token()
	return vault.Change{Token: token}, err
}
