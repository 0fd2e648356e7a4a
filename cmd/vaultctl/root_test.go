package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestHelpOfTheRoot(t *testing.T) {
	t.Setenv("VAULTCTL_DATABASE_URL", "postgres://alice:opensesame@db1/app") // help does not show it
	t.Setenv("VAULTCTL_KMS_KEY", "local:///etc/vault/kek")
	golden := filepath.Join("testdata", "help.golden")
	for _, args := range [][]string{{"--help"}, {"-h"}, {"help"}, {}} {
		got := mustRun(t, args...)
		if got.code != 0 || got.err != "" {
			t.Fatalf("%q: got exit code %d and %q on standard error", args, got.code, got.err)
		}
		if *update {
			mustWrite(t, golden, got.out, 0o644)
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.out); diff != "" {
			t.Errorf("%q (-want +got):\n%s", args, diff)
		}
	}
}

// TestEveryCommandHelpsItself holds what all commands have in common.
func TestEveryCommandHelpsItself(t *testing.T) {
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: got short text %q, want one without a full stop", cmd.CommandPath(), cmd.Short)
		}
		path := strings.Fields(cmd.CommandPath())[1:]
		if got := mustRun(t, append(path, "--help")...); got.code != 0 || !strings.Contains(got.out, cmd.CommandPath()) ||
			got.err != "" {
			t.Errorf("%s --help: got exit code %d, %q", cmd.CommandPath(), got.code, got.err)
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(newRootCmd(&app{stdio: stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}}))
}

func TestWhatWasTypedIsRefusedBeforeAnythingOpens(t *testing.T) {
	for typed, want := range map[string]string{
		"lst":                                    "unknown command \"vaultctl lst\"\nhint: vaultctl list\n",
		"descrbie x":                             "unknown command \"vaultctl descrbie\"\nhint: vaultctl describe\n",
		"xyzzy":                                  "unknown command \"vaultctl xyzzy\"\nhint: vaultctl --help\n",
		"token lst":                              "unknown command \"vaultctl token lst\"\nhint: vaultctl token list\n",
		"audit nothing":                          "the browser takes a terminal",
		"completion ksh":                         "unknown shell \"ksh\"\nhint: vaultctl completion bash, zsh or fish\n",
		"help lst":                               "unknown command \"vaultctl lst\"\nhint: vaultctl list\n",
		"list --nope":                            "unknown flag: --nope\nhint: vaultctl list --help\n",
		"list -o yaml":                           `unknown output "yaml"`,
		"get":                                    "NAME is missing\nhint: vaultctl get NAME [flags]\n",
		"get a b":                                "too many arguments: 2, expected NAME",
		"app list x":                             "too many arguments: 1, expected none\nhint: vaultctl app list [flags]\n",
		"get a:b":                                "invalid name",
		"get a --version foo":                    "--version takes a whole number, not \"foo\"\nhint: vaultctl get --help\n",
		"get a --version 99999999999999999999":   "--version takes a smaller number",
		"get a --unaudited=maybe":                "--unaudited takes true or false, not \"maybe\"",
		"get a --field=":                         "--field takes the name of a member",
		"audit list --limit ten":                 "--limit takes a whole number, not \"ten\"",
		"list --kms-key foo":                     "invalid kms key uri \"foo\"",
		"put a --generate --length 0":            "--length is at least 1",
		"put a --generate --length -1":           "--length is at least 1",
		"doctor extra":                           "too many arguments: 1, expected none",
		"status --watch=1ms":                     "--watch",
		"help exit":                              "unknown command \"vaultctl exit\"",
		"get a --version 0":                      "--version takes a version number",
		"get a --min-lsn 16B3748":                "--min-lsn: a position in the log looks like 0/16B3748",
		"get a --wait 3s":                        "--wait goes with --min-lsn",
		"verify a - --min-lsn=":                  "--min-lsn: a position in the log",
		"grace end a --version 0":                "--version takes a version number",
		"grace end a --wait=x":                   `invalid argument "x" for "--wait" flag`,
		"grace ned":                              "unknown command \"vaultctl grace ned\"\nhint: vaultctl grace end\n",
		"token revoke ci --wait=-1s":             `invalid argument "-1s" for "--wait" flag`,
		"put a hunter2":                          "a value is not taken from the command line",
		"put a - --generate":                     "the value comes from SOURCE or from --generate, not from both",
		"put a --generate hex:32":                "--generate=hex:32, without a space",
		"put a --generate=chars:3":               "--generate: generator",
		"put a --length 9":                       "--length and --charset go with --generate",
		"put a --generate --if-changed":          "--if-changed makes no sense",
		"put a - --verbatim --trim-space":        "--verbatim and --trim-space exclude each other",
		"put a --cas -2":                         "--cas takes a version number",
		"put a - --rotate-every 59s":             "--rotate-every is at least 1m",
		"put a - --grace 1y":                     `invalid argument "1y" for "--grace" flag`,
		"update a":                               "nothing to change",
		"update a --manual --generate":           "--manual and --generate exclude each other",
		"update a --manual --rotate-every 1d":    "--manual and --rotate-every exclude each other",
		"update a --no-rotate --rotate-every 1d": "--no-rotate and --rotate-every exclude each other",
		"rotate a value":                         "a value is not taken from the command line",
		"rollback a":                             "VERSION is missing",
		"rollback a 0":                           "VERSION is a version number",
		"rollback a two":                         "VERSION is a version number",
		"verify a value":                         "a value is not taken from the command line",
		"token create -- -x":                     "a token's name is",
		"token create x --expires 0":             "--expires is more than 0",
		"token create x --scope=":                "--scope is a prefix of names",
		"token create x --owner --scope a/":      "--owner and --scope exclude each other",
		"grant app --as boss":                    `--as takes service, worker or auditor, not "boss"`,
		"grant app --as worker --prefix a/":      "--prefix is for --as service only",
		"grant app --revoke --as worker":         "--revoke and --as exclude each other",
		"audit list --limit 0":                   "--limit is at least 1",
		"audit list a:b":                         `filter, column 1: no key "a": secret, actor,`,
		"audit list action:read secert:a":        "filter, column 13: no key \"secert\"",
		"audit list ä secert:a":                  "  ä secert:a\n    ^\n",
		"audit list -action:read":                `a filter that begins with "-" comes after "--"`,
		"audit list -outcome:ok":                 "hint: vaultctl audit list -- -KEY:VALUE: a filter that begins with",
		"audit -outcome:ok":                      "hint: vaultctl audit -- -KEY:VALUE: a filter that begins with",
		"audit list -node:x":                     "hint: vaultctl audit list -- -KEY:VALUE: a filter that begins with",
		"audit tail -node:x":                     "hint: vaultctl audit tail -- -KEY:VALUE: a filter that begins with",
		"audit export a.jsonl -orders/db":        "hint: vaultctl audit export -- -KEY:VALUE: a filter that begins with",
		"audit verify -x":                        "hint: vaultctl audit verify --help\n",
		"rotation limit -1":                      "no argument is a negative number\nhint: vaultctl rotation limit --help",
		"rollback a -12":                         "-12 is no flag",
		"audit outcome:denied":                   "the browser takes a terminal\nhint: vaultctl audit list outcome:denied\n",
		"audit tail -n -1":                       "--lines is at least 0",
		"audit tail -f -o json":                  "-o json has an end",
		"audit export -o json":                   "audit export writes jsonl only",
		"list -o jsonl":                          "vaultctl list does not write jsonl",
		"audit lst":                              "unknown command \"vaultctl audit lst\"\nhint: vaultctl audit list\n",
		"migrate --print --status":               "--print and --status exclude each other",
		"import":                                 "FILE is missing\nhint: vaultctl import FILE",
		"import -":                               "the format of \"-\" is not known by its name\nhint: --format jsonl",
		"import secrets.csv":                     "the format of \"secrets.csv\" is not known",
		"import a.jsonl --format csv":            `vault-kv, not "csv"`,
		"import a.json --format json --name x":   "--name goes with --format vault-kv",
		"import - --format vault-kv --name a:b":  "invalid name",
		"export - --format yaml":                 `--format takes jsonl, dotenv, json, kubernetes, not "yaml"`,
		"export - --format dotenv --settings":    "--settings goes with --format jsonl",
		"export - --format kubernetes":           "--name is that of the Kubernetes Secret",
		"export - --name app":                    "--name goes with --format kubernetes",
		"import a.jsonl --on-conflict ask":       `--on-conflict takes fail, skip or update, not "ask"`,
		"import a.jsonl --concurrency 0":         "--concurrency is 1 to 64",
		"import a.jsonl --prefix -x/":            "--prefix is what names begin with",
		"import a.jsonl -o jsonl":                "vaultctl import does not write jsonl",
		"export":                                 "FILE is missing",
		"export - -o json":                       "--format says what it writes, here jsonl",
		"export - -o table":                      "--output table does not go with export",
		"export - --format json -o jsonl":        "--format says what it writes, here json",
		"exec":                                   "COMMAND is missing\nhint: vaultctl exec",
		"exec -- ls":                             "which secrets is missing",
		"exec --env hunter2 -- ls":               "--env takes VARIABLE=NAME",
		"exec --env 1A=x -- ls":                  "--env takes VARIABLE=NAME",
		"exec --env A=x:y -- ls":                 "invalid name",
		"exec --secret -- ls":                    "invalid name",
		"init --kms-key vault":                   "invalid kms key uri",
		"init --kms-key awskms:///alias/v?endpoint=http://127.0.0.1:1": "a KMS key with an endpoint cannot be the vault's",
		"init --token-name a/b": "a token's name is",
		"init --save-token=":    "--save-token takes a file name",
		"keygen /a/../b/.. x":   "too many arguments",
	} {
		got := mustRun(t, strings.Fields(typed)...)
		if got.code != exitUsage || !strings.Contains(got.err, want) || got.out != "" {
			t.Errorf("%s: got exit code %d, %q and %q, want %d and %q", typed, got.code, got.out, got.err, exitUsage, want)
		}
		if strings.Contains(got.err, "hunter2") {
			t.Errorf("%s: got %q, which repeats what may be a value", typed, got.err)
		}
	}
}

func TestCompletionIsSilentWithoutADatabase(t *testing.T) {
	t.Setenv("VAULTCTL_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
	if got := mustRun(t, "__completeNoDesc", "get", ""); got.code != 0 || got.out != ":4\n" {
		t.Errorf("got exit code %d and %q, want no names and no files", got.code, got.out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := mustRun(t, "completion", shell); got.code != 0 || !strings.Contains(got.out, "__complete") ||
			got.err != "" {
			t.Errorf("completion %s: got exit code %d and %d bytes", shell, got.code, len(got.out))
		}
	}
}

// Shells show a candidate's description as it is.
func TestCandidatesHaveNoBackticks(t *testing.T) {
	shown := 0
	var visit func(cmd *cobra.Command, path []string)
	visit = func(cmd *cobra.Command, path []string) {
		got := mustRun(t, append(append([]string{cobra.ShellCompRequestCmd}, path...), "--")...)
		if got.code != exitDone || strings.Contains(got.out, "`") {
			t.Errorf("%q: got exit code %d and %s", path, got.code, got.out)
		}
		shown += strings.Count(got.out, "\t")
		for _, c := range cmd.Commands() {
			visit(c, append(slices.Clip(path), c.Name()))
		}
	}
	visit(newRootCmd(&app{stdio: stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}}), nil)
	if shown < 200 {
		t.Errorf("got %d descriptions, want those of all commands", shown)
	}
	got := mustRun(t, cobra.ShellCompRequestCmd, "migrate", "--")
	if !strings.Contains(got.out, "--kms-key\tKMS key URI: ") {
		t.Errorf("got %s, want the word without its marks", got.out)
	}
}

func TestKeygenMakesAKeyOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k e k")
	got := mustRun(t, "keygen", path)
	if want := "local://" + strings.ReplaceAll(path, " ", "%20") + "\n"; got.code != 0 || got.out != want {
		t.Fatalf("got %d, %q, want %q", got.code, got.out, want)
	}
	key, err := os.ReadFile(path)
	if err != nil || len(key) != 32 {
		t.Fatalf("got %d bytes, %v, want 32", len(key), err)
	}
	if got := mustRun(t, "keygen", path); got.code != exitConflict || got.out != "" {
		t.Errorf("again: got %d, %q, want %d", got.code, got.out, exitConflict)
	}
	if again, err := os.ReadFile(path); err != nil || string(again) != string(key) {
		t.Errorf("the key was overwritten: %v", err)
	}
	if got := mustRun(t, "keygen", filepath.Join(path, "below")); got.code != exitFailed {
		t.Errorf("below a file: got %d, want %d", got.code, exitFailed)
	}
}

func TestMigratePrintNeedsNoDatabase(t *testing.T) {
	got := mustRun(t, "migrate", "--print", "--kms-key", "local:///etc/vault/kek")
	if got.code != 0 || !strings.Contains(got.out, "CREATE SCHEMA vault") ||
		!strings.Contains(got.out, "'local:///etc/vault/kek'") || got.err != "" {
		t.Errorf("got exit code %d, %d bytes and %q", got.code, len(got.out), got.err)
	}
}

// TestTopicsAreComplete: scripts rely on the codes, and operators on the variables.
func TestTopicsAreComplete(t *testing.T) {
	codes := mustRun(t, "help", "exit-codes")
	for _, code := range []int{exitDone, exitFailed, exitUsage, exitNotFound, exitRefused, exitConflict, exitUnavailable,
		exitAttention, exitDeclined, exitNotRun, exitNoProgram, exitInterrupted} {
		if codes.code != 0 || !regexp.MustCompile(fmt.Sprintf(`(?m)^  %d +[a-z]`, code)).MatchString(codes.out) {
			t.Errorf("help exit-codes: got exit code %d and no line of %d", codes.code, code)
		}
	}
	environment := mustRun(t, "help", "environment")
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("looking for the sources: %d files, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`os\.Getenv\("([A-Z_]+)"\)`).FindAllSubmatch(text, -1) {
			if !strings.HasSuffix(file, "_test.go") && !strings.Contains(environment.out, string(found[1])) {
				t.Errorf("help environment: %s is missing, which %s reads", found[1], file)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	commands := newRootCmd(&app{stdio: stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}}).Commands()
	for typed, want := range map[string]string{"lst": "list", "ls": "list", "rotat": "rotate", "verfy": "verify",
		"status!": "status", "x": "", "frobnicate": ""} {
		if got := nearest(commands, typed); got != want {
			t.Errorf("%s: got %q, want %q", typed, got, want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"", "abc", 3}, {"list", "lst", 1}, {"list", "tsil", 4}, {"kitten", "sitting", 3}} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
