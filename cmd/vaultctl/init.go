package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

type initOptions struct {
	tokenName string
	tokenFile string // "" = the token is printed
	keyTyped  bool   // --kms-key was given: it replaces the stored one
}

func newInitCmd(a *app) *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Set up the vault in a database and make the first admin token",
		Long: `Set up the vault in a database and make the first admin token.

Connect as the owner of the database: a superuser, or a role with CREATEROLE. Everything lives in its own schema,
"vault". The KMS key given here becomes the default for every user of the vault.

The token is printed once and cannot be shown again: the database keeps only its fingerprint. Running init again makes
no second token, and changes one thing: --kms-key replaces the default key, for values that are put from then on. A key
that cannot be used from this machine is a warning.

Where CREATE EXTENSION hyperion_vault has made the schema, init leaves it as it is: it stores the KMS key and makes the
token.`,
		Example: `  vaultctl init --kms-key 'awskms:///alias/vault?region=eu-west-1'
  vaultctl init --kms-key "$(vaultctl keygen /etc/vault/kek)" --save-token ~/vault-root-token`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("save-token") && o.tokenFile == "" {
				return usage("--save-token takes a file name")
			}
			if err := checkTokenName(o.tokenName); err != nil {
				return err
			}
			o.keyTyped = cmd.Flags().Changed("kms-key")
			if err := checkDefaultKey(a.kmsKey); err != nil {
				return err
			}
			return runInit(cmd.Context(), a, o)
		},
	}
	cmd.Flags().StringVar(&o.tokenName, "token-name", "root", "`name` of the first admin token")
	cmd.Flags().StringVar(&o.tokenFile, "save-token", "",
		"write the token to a new `file`, mode 0600, instead of printing it")
	return cmd
}

// checkDefaultKey refuses a key with an endpoint: a stored endpoint could send data keys anywhere.
func checkDefaultKey(uri string) error {
	if uri == "" {
		return nil
	}
	if _, err := kms.ParseURI(uri); err != nil {
		return usage("%s", err)
	}
	if kms.HasEndpoint(uri) {
		return hint(usage("a KMS key with an endpoint cannot be the vault's default: each machine chooses its endpoint"),
			"leave it out here; give the whole URI in VAULTCTL_KMS_KEY where it is used")
	}
	return nil
}

// initAnswer is the answer in JSON.
type initAnswer struct {
	db.MigrateReport
	DefaultKMSKey string     `json:"default_kms_key,omitempty"`
	FormerKMSKey  string     `json:"former_kms_key,omitempty"` // if this init has replaced it
	Token         *tokenJSON `json:"token,omitempty"`
}

func runInit(ctx context.Context, a *app, o initOptions) error {
	var file *newTokenFile
	if o.tokenFile != "" {
		var err error
		if file, err = createTokenFile(o.tokenFile); err != nil {
			return err
		}
		defer file.discard()
	}
	answer, err := a.setUp(ctx, o)
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	status, err := v.Status(ctx)
	if err != nil {
		return err
	}
	if status.Tokens == 0 {
		token, err := a.firstToken(ctx, v, o.tokenName, file)
		if err != nil {
			return err
		}
		answer.Token = &token
	}
	if !a.json() {
		return a.printInit(answer)
	}
	err = a.printJSON(answer)
	if answer.Token != nil {
		return hintRevoke(*answer.Token, err)
	}
	return err
}

// setUp installs the schema. A key that only the environment names becomes the default of a new vault, and does not
// change the default of an existing one.
func (a *app) setUp(ctx context.Context, o initOptions) (initAnswer, error) {
	state, err := db.State(ctx, a.databaseURL, applicationName)
	if err != nil {
		return initAnswer{}, ownerHint(err)
	}
	key := a.kmsKey
	if state.SetUp && !o.keyTyped {
		key = ""
	}
	report, err := a.migrate(ctx, key)
	if err != nil {
		return initAnswer{}, migrateHint(err)
	}
	a.noteMended(report.Mended)
	if _, err := a.vault(ctx); err != nil {
		return initAnswer{}, err
	}
	config, err := a.reader.Config(ctx)
	answer := initAnswer{MigrateReport: report, DefaultKMSKey: config.DefaultKMSKey}
	if state.DefaultKMSKey != config.DefaultKMSKey {
		answer.FormerKMSKey = state.DefaultKMSKey
	}
	if err == nil && key != "" {
		a.warnUnusable(ctx, key)
	}
	return answer, err
}

// keyCheckTimeout bounds the check of a new default key, whose service may be out of reach from here.
const keyCheckTimeout = 10 * time.Second

// warnUnusable says if a default key that was stored now cannot be used from here. It may be meant for other machines.
func (a *app) warnUnusable(ctx context.Context, uri string) {
	ctx, cancel := context.WithTimeout(ctx, keyCheckTimeout)
	defer cancel()
	keyring, err := kms.OpenKeyring(ctx, []string{uri})
	if err != nil {
		a.note("warning: from here the key cannot be used: %s", printable(messageOf(err)))
		return
	}
	defer keyring.Close()
	for _, key := range keyring.Keys() {
		switch d, err := key.Describe(ctx); {
		case err != nil:
			a.note("warning: from here the key cannot be used: %s", printable(messageOf(err)))
		case !d.Usable:
			a.note("warning: the key is %s", printable(d.State))
		}
	}
}

func ownerHint(err error) error {
	if errors.Is(err, vault.ErrRefused) {
		return hint(err, "connect as the owner of the database: a superuser, or a role with CREATEROLE")
	}
	return err
}

func (a *app) firstToken(ctx context.Context, v *vault.Vault, name string, file *newTokenFile) (tokenJSON, error) {
	request := vault.NewTokenRequest{Change: vault.Change{RequestID: uuid.New()}, Name: name}
	token, row, err := v.CreateTokenAsOwner(ctx, request)
	if err != nil {
		return tokenJSON{}, tokenHint(fmt.Errorf("the schema is in place, but making the first token failed: %w", err))
	}
	return deliver(token, row, file)
}

func (a *app) printInit(answer initAnswer) error {
	switch {
	case answer.Extension != "":
		a.note("the schema in %s is that of the extension %s (schema version %d)", db.Target(a.databaseURL), db.ExtensionName,
			answer.SchemaVersion)
	case answer.Created:
		a.note("the vault is set up in %s (schema version %d)", db.Target(a.databaseURL), answer.SchemaVersion)
	case answer.FromVersion < answer.SchemaVersion:
		a.note("the vault in %s was there; its schema is now at version %d", db.Target(a.databaseURL), answer.SchemaVersion)
	default:
		a.note("the vault in %s is set up already (schema version %d)", db.Target(a.databaseURL), answer.SchemaVersion)
	}
	if answer.FormerKMSKey != "" {
		a.note("the default KMS key was %s; vaultctl rewrap brings stored values to the new one",
			printable(answer.FormerKMSKey))
	}
	if answer.DefaultKMSKey != "" {
		a.note("default KMS key: %s", printable(answer.DefaultKMSKey))
	} else {
		a.note("no default KMS key: give one with --kms-key or VAULTCTL_KMS_KEY, or store it: vaultctl init --kms-key URI")
	}
	if answer.Token == nil {
		a.note("it has an admin token, so none was made; as owner you can make another: vaultctl token create NAME --owner")
		return nil
	}
	return a.printToken(*answer.Token)
}
