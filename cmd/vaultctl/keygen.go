package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/kms"
)

func newKeygenCmd(a *app) *cobra.Command {
	var audit bool
	cmd := &cobra.Command{
		Use:   "keygen PATH",
		Short: "Make a local key file, for a vault without AWS KMS",
		Long: `Make a local key file, for a vault without AWS KMS: 32 random bytes, mode 0600. It prints the URI of the key.

Everybody who opens secrets needs this file, vaultd on each node included. Whoever has it and a copy of the database has
the secrets, and without it nobody has: keep a copy of it, and not beside the database's backups.

With --audit it is the key that vaultd seals the audit log with (audit_seal_key), and the public key is printed, which
vaultctl audit verify takes. Keep it from whoever administers the database.`,
		Example: `  vaultctl keygen /etc/vault/kek
  vaultctl init --kms-key local:///etc/vault/kek
  vaultctl keygen --audit /etc/vault/audit.key`,
		Args: exactArgs("PATH"),
		RunE: func(_ *cobra.Command, args []string) error {
			if audit {
				return runAuditKeygen(a, args[0])
			}
			return runKeygen(a, args[0])
		},
	}
	cmd.Flags().BoolVar(&audit, "audit", false, "the key of the audit log's seals")
	return cmd
}

func runAuditKeygen(a *app, path string) error {
	_, err := kms.GenerateKeyFile(path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return hint(conflict("key file %q exists", path), "another path: a key is never overwritten")
	case err != nil:
		return errors.New(err.Error())
	}
	seed, err := kms.ReadSeed(path)
	if err != nil {
		return err
	}
	defer clear(seed)
	key, err := seal.NewKey(seed)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]string{"public_key": key.Public().String(), "path": path})
	}
	if _, err := fmt.Fprintln(a.out, key.Public()); err != nil {
		return fmt.Errorf("writing the answer: %w", reason(err))
	}
	a.note("keep this public key where the database's administrator cannot change it: vaultctl audit verify --key takes it")
	return nil
}

func runKeygen(a *app, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	uri, err := kms.ParseURI("local://" + (&url.URL{Path: path}).EscapedPath())
	if err != nil {
		return usage("%s", err)
	}
	id, err := kms.GenerateKeyFile(path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return hint(conflict("key file %q exists", path), "another path: a key is never overwritten")
	case err != nil:
		return errors.New(err.Error()) // a file that cannot be written is a failure, not a key that is refused
	}
	if a.json() {
		return a.printJSON(map[string]string{"uri": uri.String(), "key_id": id, "path": path})
	}
	if _, err := fmt.Fprintln(a.out, uri); err != nil {
		return fmt.Errorf("writing the answer: %w", reason(err))
	}
	a.note("keep a copy of the key in a safe place: without it no secret opens")
	return nil
}
