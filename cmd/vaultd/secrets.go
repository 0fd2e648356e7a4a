package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/hyperiondb/vault/internal/secretfile"
)

const (
	fromFile          = "file:"
	credentialsFolder = "$CREDENTIALS_DIRECTORY"
)

// readSecrets lets a setting name a file instead of holding a secret. In all settings that can hold a path,
// $CREDENTIALS_DIRECTORY is the folder in which systemd keeps what the unit's LoadCredential= names. A connection
// string "file:/PATH" is the line of that file. A key or file of credentials "file:/PATH" is that file, which must then
// be its owner's alone.
func (c *Config) readSecrets(environ []string) error {
	texts := []struct {
		key  string
		text *string
	}{
		{"database_url", &c.DatabaseURL}, {"primary_database_url", &c.PrimaryDatabaseURL},
		{"listen_database_url", &c.ListenDatabaseURL},
	}
	files := []struct {
		key   string
		path  *string
		alone bool // checked without "file:", too
	}{
		{"tls_cert", &c.TLSCert, false}, {"tls_key", &c.TLSKey, false}, {"tls_client_ca", &c.TLSClientCA, false},
		{"postgres_ca", &c.PostgresCA, false}, {"audit_seal_key", &c.AuditSealKey, false},
		{"aws_credentials_file", &c.AWSCredentialsFile, true},
	}
	folder := folderOf(environ)
	for _, t := range texts {
		if err := expand(t.text, folder); err != nil {
			return fmt.Errorf("%s: %w", t.key, err)
		}
		path, named := strings.CutPrefix(*t.text, fromFile)
		if !named {
			continue
		}
		var err error
		if *t.text, err = readLine(path); err != nil {
			return fmt.Errorf("%s: %w", t.key, err)
		}
	}
	for _, f := range files {
		if err := expand(f.path, folder); err != nil {
			return fmt.Errorf("%s: %w", f.key, err)
		}
		path, named := strings.CutPrefix(*f.path, fromFile)
		*f.path = path
		if named || f.alone && path != "" {
			if err := checkFile(path); err != nil {
				return fmt.Errorf("%s: %w", f.key, err)
			}
		}
	}
	for i := range c.KMSKeys {
		if err := expand(&c.KMSKeys[i], folder); err != nil {
			return fmt.Errorf("kms_keys: %w", err)
		}
	}
	return nil
}

func folderOf(environ []string) string {
	for _, entry := range environ {
		if folder, ok := strings.CutPrefix(entry, credentialsFolder[1:]+"="); ok {
			return folder
		}
	}
	return ""
}

func expand(text *string, folder string) error {
	if !strings.Contains(*text, credentialsFolder) {
		return nil
	}
	if !filepath.IsAbs(folder) {
		return errors.New(credentialsFolder + " is not set; hint: systemd sets it for a unit with LoadCredential=NAME:PATH")
	}
	*text = strings.ReplaceAll(*text, credentialsFolder, folder)
	return nil
}

// readLine does not repeat what the file holds.
func readLine(path string) (string, error) {
	if err := checkPath(path); err != nil {
		return "", err
	}
	line, err := secretfile.ReadLine(path)
	if err == nil && strings.HasPrefix(line, fromFile) {
		err = fmt.Errorf("file %q names another file", path)
	}
	return line, missingCredential(path, err)
}

// checkFile is for a file that another package reads again.
func checkFile(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	text, err := secretfile.Read(path)
	clear(text)
	return missingCredential(path, err)
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("file %q: an absolute path, such as file:/etc/vault/secret", path)
	}
	return nil
}

// missingCredential adds what the unit lacks.
func missingCredential(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) && secretfile.Allowed(path) != 0o600 {
		return fmt.Errorf("%w; hint: LoadCredential=%s:PATH in the unit", err, filepath.Base(path))
	}
	return err
}
