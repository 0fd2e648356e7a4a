package kms

import (
	"bufio"
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// The fake has no access control, so only tests and the script harness import it. Imports lists what a
// package imports outside of its tests.
func TestFakeIsImportedByTestsOnly(t *testing.T) {
	const module = "github.com/hyperiondb/vault"
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-f", `{{.ImportPath}} {{join .Imports " "}}`,
		module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing packages: %v\n%s", err, stderr.Bytes())
	}
	seen := 0
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		importer, imports, _ := strings.Cut(lines.Text(), " ")
		for imported := range strings.FieldsSeq(imports) {
			harness := importer == module+"/internal/scripttest"
			if strings.HasPrefix(imported, module+"/internal/kms/kmsfake") && !harness {
				t.Errorf("%s imports %s outside of its tests", importer, imported)
			}
		}
		if importer == module+"/internal/kms" {
			seen++
			if !strings.Contains(imports, module+"/internal/envelope") {
				t.Errorf("go list does not see the imports of %s: %s", importer, imports)
			}
		}
	}
	if seen != 1 {
		t.Errorf("go list saw this package %d times, want once", seen)
	}
}
