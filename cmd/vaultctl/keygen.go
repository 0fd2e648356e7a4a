package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/kms"
)

func newKeygenCmd(a *app) *cobra.Command {
	var audit, show bool
	cmd := &cobra.Command{
		Use:         "keygen PATH",
		Annotations: map[string]string{takesFile: "PATH"},
		Short:       "Make a local key file, for a vault without AWS KMS",
		Long: `Make a local key file, for a vault without AWS KMS: 32 random bytes, mode 0600. It prints the URI of the key.

vaultctl and vaultd need this file on each machine that opens secrets. The file and a copy of the database together
reveal every secret, and without the file no secret opens: keep a copy of it, and not beside the database's backups.

With --audit it is the key that vaultd seals the audit log with (audit_seal_key). The command prints the public key,
which vaultctl audit verify takes. Keep the file from the database's administrators. With --show no key is made: the
public key of an existing one is printed, of a file or of an Ed25519 key in AWS KMS (key spec ECC_NIST_EDWARDS25519,
usage SIGN_VERIFY).`,
		Example: `  vaultctl keygen /etc/vault/kek
  vaultctl init --kms-key local:///etc/vault/kek
  vaultctl keygen --audit /etc/vault/audit.key
  vaultctl keygen --audit --show 'awskms:///alias/vault-seals?region=eu-west-1'`,
		Args: exactArgs("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case show && !audit:
				return usage("--show is for --audit: a key that wraps data keys has no public half")
			case show:
				return showAuditKey(cmd.Context(), a, args[0])
			case audit:
				return runAuditKeygen(cmd.Context(), a, args[0])
			}
			return runKeygen(a, args[0])
		},
	}
	cmd.Flags().BoolVar(&audit, "audit", false, "the key of the audit log's seals")
	cmd.Flags().BoolVar(&show, "show", false, "make none: print the public key of the one at PATH, or awskms:///...")
	return cmd
}

func runAuditKeygen(ctx context.Context, a *app, path string) error {
	if strings.Contains(path, "://") {
		return hint(usage("a key is made in a file, and %q is none", path),
			"vaultctl keygen --audit --show URI prints the public key of one that exists")
	}
	_, err := kms.GenerateKeyFile(path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return hint(conflict("key file %q exists", path),
			"another path: a key is never overwritten; --show prints its public key")
	case err != nil:
		return keyFileError(err)
	}
	if err := showAuditKey(ctx, a, path); err != nil || a.json() {
		return err
	}
	a.note("keep this public key where the database's administrator cannot change it: " +
		"vaultctl audit verify --key takes it")
	return nil
}

// keyFileError drops ErrKeyRefused: a file that cannot be written is a failure.
func keyFileError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return usage("%s", messageOf(err))
	}
	return errors.New(err.Error())
}

const signingKeys = "PATH is a file that vaultctl keygen --audit made, or an Ed25519 key in AWS KMS"

// showAuditKey prints the public half of a key that signs.
func showAuditKey(ctx context.Context, a *app, key string) error {
	signer, err := kms.OpenSigner(ctx, key)
	switch {
	case errors.Is(err, kms.ErrURI):
		return usage("%s", err)
	case errors.Is(err, fs.ErrNotExist):
		return hint(usage("%s", messageOf(err)), signingKeys)
	case err != nil:
		return hint(err, signingKeys)
	}
	if closer, ok := signer.(io.Closer); ok {
		defer closer.Close()
	}
	public, err := signer.Public(ctx)
	if err != nil {
		return hint(err, signingKeys)
	}
	if a.json() {
		return a.printJSON(map[string]string{"public_key": public.String(), "path": key})
	}
	if _, err := fmt.Fprintln(a.out, public); err != nil {
		return fmt.Errorf("writing the answer: %w", reason(err))
	}
	return nil
}

func runKeygen(a *app, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	uri, err := kms.ParseURI(kms.LocalURI(path))
	if err != nil {
		return usage("%s", err)
	}
	id, err := kms.GenerateKeyFile(path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return hint(conflict("key file %q exists", path), "another path: a key is never overwritten")
	case err != nil:
		return keyFileError(err)
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
