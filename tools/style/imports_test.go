package main

import (
	"os/exec"
	"strings"
	"testing"
)

const (
	module     = "github.com/hyperiondb/vault/"
	fakeBucket = module + "internal/audit/bucket/s3fake"
	fakes      = module + "internal/awsclient/awsfake"
)

// prometheus takes a process a millisecond when it starts, and vaultctl is started for one command.
const prometheus = "github.com/prometheus"

// forbidden holds the imports that a package may not reach: imports only go down, and SQL, plaintext and the network
// stay in their packages.
var forbidden = map[string][]string{
	"internal/envelope": {module, "github.com/jackc/pgx", "github.com/aws", "net/http"},
	"internal/kms":      {module + "internal/db", module + "internal/vault", module + "sql", "github.com/jackc/pgx"},
	"internal/db":       {module + "internal/", "github.com/aws"},
	"sql":               {module, "github.com/jackc/pgx"},
	"internal/vault": {module + "internal/kms", module + "internal/httpapi", module + "internal/rotation",
		module + "internal/tui", "net/http"},
	"internal/rowcache": {module + "internal/vault", module + "internal/envelope", module + "internal/kms",
		module + "internal/httpapi", "github.com/aws", "net/http"},
	"internal/rotation": {module + "internal/kms", module + "internal/httpapi", module + "cmd", "github.com/aws",
		prometheus},
	"cmd/vaultctl":        {prometheus},
	"internal/httpapi":    {module + "internal/kms", module + "cmd", "github.com/aws"},
	"internal/listen":     {module, "github.com/jackc/pgx", "github.com/aws"},
	"internal/strictjson": {module, "github.com/jackc/pgx", "github.com/aws", "net/http"},
	"internal/target":     {module + "internal/kms", module + "internal/httpapi", module + "cmd", "github.com/aws"},
	"internal/audit/seal": {module + "internal/db", module + "internal/vault", module + "sql", "github.com/jackc/pgx",
		"net/http"},
	"internal/lazyregexp": {module, "github.com"},
	"internal/localpg":    {module + "internal/", module + "sql"},
	"internal/vaulttest":  nil,
	"internal/testfolder": {module, "github.com/jackc/pgx", "github.com/aws"},
	"internal/audit":      {module, "github.com/jackc/pgx", "github.com/aws"},
	"internal/audit/auditdb": {module + "internal/vault", module + "internal/kms", module + "internal/envelope",
		module + "internal/httpapi", module + "internal/rotation", module + "internal/tui", "github.com/aws", "net/http"},
	"internal/access": {module + "internal/db", module + "internal/vault", module + "sql", "github.com/jackc/pgx",
		"github.com/aws", "net/http"},
	"internal/access/accessdb": {module + "internal/vault", module + "internal/httpapi", "github.com/aws", "net/http"},
	"internal/secretfile":      {module, "github.com/jackc/pgx", "github.com/aws", "net/http"},
	"internal/token":           {module, "github.com/jackc/pgx", "github.com/aws", "net/http"},
	"internal/audit/bucket": {module + "internal/db", module + "internal/vault", module + "internal/kms", module + "sql",
		"github.com/jackc/pgx"},
	"internal/audit/archive": {module + "internal/db", module + "internal/vault", module + "internal/kms", module + "sql",
		"github.com/jackc/pgx"},
	"internal/awsclient": {module, "github.com/jackc/pgx"},
	"internal/audit/spool": {module + "internal/db", module + "internal/vault", module + "internal/httpapi",
		module + "sql", "github.com/jackc/pgx", "github.com/aws", "net/http"},
	"internal/audit/filter": {module, "github.com/jackc/pgx", "github.com/aws", "net/http"},
	"internal/tui": {module + "internal/db", module + "internal/vault", module + "sql", "github.com/jackc/pgx",
		"github.com/aws"},
}

// allowed holds the one exception to a rule of forbidden: the query language is beneath the events that it selects.
var allowed = map[string]string{"internal/audit": module + "internal/audit/filter"}

// direct holds what a package may not import itself, though it may reach it through the packages beneath.
var direct = map[string][]string{
	"internal/rotation": {module + "internal/db", module + "internal/audit/auditdb", module + "sql",
		"github.com/jackc/pgx"},
	"internal/httpapi":  {"github.com/jackc/pgx", module + "internal/audit/auditdb", module + "sql"},
	"internal/rowcache": {"github.com/jackc/pgx", module + "sql"},
	"internal/target":   {module + "internal/db", module + "internal/vault", module + "sql"},
	"cmd/vaultctl": {"github.com/jackc/pgx", "github.com/aws", module + "internal/vaulttest",
		module + "internal/kms/kmsfake", fakeBucket, fakes},
	"cmd/vaultd": {"github.com/jackc/pgx", "github.com/aws", module + "internal/vaulttest",
		module + "internal/kms/kmsfake", fakeBucket, fakes},
}

func TestImportsOnlyGoDown(t *testing.T) {
	for pkg, not := range forbidden {
		checkImports(t, pkg, not, goList(t, `{{join .Deps "\n"}}`, pkg))
	}
	for pkg, not := range direct {
		checkImports(t, pkg, not, goList(t, `{{join .Imports "\n"}}`, pkg))
	}
	for _, command := range []string{"cmd/vaultctl", "cmd/vaultd"} {
		checkImports(t, command, []string{"testing", module + "internal/vaulttest", module + "internal/testfolder",
			module + "internal/kms/kmsfake", fakeBucket, fakes}, goList(t, `{{join .Deps "\n"}}`, command))
	}
}

func checkImports(t *testing.T, pkg string, not, imports []string) {
	t.Helper()
	for _, i := range imports {
		// failpoint is empty in a shipped binary, and lazyregexp imports the standard library alone
		if i == module+"internal/failpoint" || i == module+"internal/lazyregexp" || i == allowed[pkg] {
			continue
		}
		for _, prefix := range not {
			if strings.HasPrefix(i, prefix) && i != module+pkg && !(prefix == "testing" && i != "testing") {
				t.Errorf("%s imports %s", pkg, i)
			}
		}
	}
}

func goList(t *testing.T, format, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", format, module+pkg).Output()
	if err != nil {
		t.Fatalf("listing what %s imports: %v", pkg, err)
	}
	return strings.Fields(string(out))
}
