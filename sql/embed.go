// Package sql holds the schema as source: the roles, the tables in numbered migrations, and the functions, triggers,
// policies and grants as whole files that every migration installs again, so that a diff shows what changed.
//
// An installation runs roles.sql as the owner of the database, then as vault_owner the migrations not yet applied, then
// every file of functions/ and policies/ in the order of their names, in one transaction.
package sql

import (
	"crypto/sha256"
	"embed"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

//go:embed roles.sql
var Roles string

// Earlier corrects what a vault from before version 13 says of its migrations; it runs before them.
//
//go:embed earlier.sql
var Earlier string

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed functions/*.sql policies/*.sql
var definitions embed.FS

// File is one file of SQL.
type File struct {
	Name string // with its folder: "functions/10_context.sql"
	Text string
}

// Definitions are the files that every migration installs, in order.
func Definitions() []File {
	return read(definitions, "functions", "policies")
}

// MigrationFiles are the numbered migrations of the tables, in order.
func MigrationFiles() []File {
	return read(migrations, "migrations")
}

// Version is the schema version this binary was built for: the number of its newest migration.
func Version() int {
	entries, err := migrations.ReadDir("migrations") // sorted by name
	if err != nil {
		panic(err)
	}
	return File{Name: entries[len(entries)-1].Name()}.Version()
}

// CompatibleSince is the oldest schema version whose binaries work on this schema: what they call and read is there, as
// they know it. A step that takes something away raises it, at the earliest one release after the binaries have stopped
// using that, so that the order of an upgrade is always: migrate, then restart the daemons one by one.
const CompatibleSince = 13

// Version is the schema version that a migration leads to: the number at the beginning of its name.
func (f File) Version() int {
	number, _, _ := strings.Cut(path.Base(f.Name), "_")
	version, err := strconv.Atoi(number)
	if err != nil {
		panic(err) // only migrations have one
	}
	return version
}

// DefinitionsSum is the SHA-256 of all definitions, which shows whether the installed ones are this binary's.
func DefinitionsSum() [sha256.Size]byte {
	sum := sha256.New()
	for _, file := range Definitions() {
		sum.Write([]byte(file.Name + "\x00" + file.Text + "\x00"))
	}
	return [sha256.Size]byte(sum.Sum(nil))
}

func read(from fs.FS, folders ...string) []File {
	var files []File
	for _, folder := range folders {
		entries, err := fs.ReadDir(from, folder) // sorted by name
		if err != nil {
			panic(err)
		}
		for _, entry := range entries {
			name := path.Join(folder, entry.Name())
			text, err := fs.ReadFile(from, name)
			if err != nil {
				panic(err)
			}
			files = append(files, File{Name: name, Text: string(text)})
		}
	}
	return files
}
