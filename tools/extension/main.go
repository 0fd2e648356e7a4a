// Command extension writes the vault's schema as a PostgreSQL extension: go run ./tools/extension FOLDER.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hyperiondb/vault/internal/db"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./tools/extension FOLDER")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "extension:", err)
		os.Exit(1)
	}
}

// write removes all other files of the extension from the folder, since an update script of another build would be
// installed with these.
func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, db.ExtensionName+"*"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	for _, file := range db.ExtensionFiles() {
		if err := os.WriteFile(filepath.Join(dir, file.Name), []byte(file.Text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
