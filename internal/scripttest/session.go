package scripttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// invocation is a command of vaultctl that is run on a fresh vault, after those before it in the list.
type invocation struct {
	command string // as the help calls it
	args    string // after it, by words; $WORK is the script's folder
	owner   bool   // by the owner of the database
	session bool   // it takes a session of its own, and is refused (2) behind a pooler
	follows bool   // it is interrupted after its first line
	code    int    // exit code
}

var everyCommand = []invocation{
	{command: "put", args: "app/x @value"},
	{command: "put", args: "app/y @value --create-only"},
	{command: "put", args: "api/k --generate=hex --rotate-every 30d --grace 1h --window 00:00-23:59/UTC"},
	{command: "get", args: "app/x"},
	{command: "list", args: "app/"},
	{command: "list", args: "--deleted"},
	{command: "rotate", args: "app/x @next"},
	{command: "get", args: "app/x --version 1"},
	{command: "rollback", args: "app/x 1"},
	{command: "verify", args: "app/x @next"},
	{command: "describe", args: "api/k"},
	{command: "history", args: "app/x"},
	{command: "update", args: "app/x --grace 2h"},
	{command: "rotate", args: "api/k"},
	{command: "rotation list", args: "--all"},
	{command: "rotation retry", args: "api/k", code: 3}, // nothing has failed
	{command: "rotation pause", args: "api/k"},
	{command: "rotation resume", args: "api/k"},
	{command: "rotation limit", args: "20"},
	{command: "rotation keep", args: "--jobs 30d --versions 400d"},
	{command: "grace report", args: "app/"},
	{command: "grace end", args: "app/x"},
	{command: "delete", args: "app/y"},
	{command: "restore", args: "app/y"},
	{command: "delete", args: "app/y"},
	{command: "purge", args: "app/y --yes"},
	{command: "import", args: "$WORK/import.jsonl"},
	{command: "import", args: "$WORK/import.jsonl --on-conflict update --dry-run"},
	{command: "export", args: "$WORK/export.jsonl --prefix app/ --settings --force"},
	{command: "exec", args: "--secret app/x -- true"},
	{command: "rewrap", args: "--all --dry-run"},
	{command: "rewrap", args: "app/x"},
	{command: "app create", args: "web --allow app/* --token-out $WORK/web.token"},
	{command: "app list"},
	{command: "app show", args: "web"},
	{command: "app allow", args: "web api/k"},
	{command: "app disallow", args: "web api/k"},
	{command: "app disable", args: "web"},
	{command: "app enable", args: "web"},
	{command: "app token", args: "web --token-out $WORK/web2.token"},
	{command: "app who", args: "app/x"},
	{command: "app check", args: "web app/x"},
	{command: "app revoke", args: "web"},
	{command: "app delete", args: "web --yes"},
	{command: "token create", args: "ci --scope app/ --save $WORK/ci.token"},
	{command: "token create", args: "break-glass --owner --save $WORK/owner.token", owner: true},
	{command: "token list"},
	{command: "token revoke", args: "ci"},
	{command: "grant", args: "$GRANTEE --prefix app/"},
	{command: "grant", args: "$GRANTEE --revoke"},
	{command: "audit list", args: "app/ action:put outcome:ok -o jsonl"},
	{command: "audit list", args: "since:-1h until:now actor:root"},
	{command: "audit tail", args: "-f -n 3 action:put", follows: true},
	{command: "audit export", args: "app/ --to $WORK/events.jsonl"},
	{command: "audit archive", args: "$WORK/archive.jsonl"},
	{command: "audit verify", code: 7}, // nothing is sealed
	{command: "audit prune", args: "--older-than 400d --export $WORK/old --yes", owner: true},
	{command: "status"},
	{command: "doctor"},
	{command: "doctor", args: "--restore --all"},
	{command: "migrate", args: "--status", owner: true, session: true},
	{command: "migrate", owner: true, session: true},
	{command: "init", owner: true, session: true},
}

// notRun are the commands that use no database, or (dev) one of their own.
var notRun = []string{"completion", "dev", "help", "keygen", "version", "audit"}

// everycommand URL OWNER_URL [pooled]: every command of vaultctl works. The shadows of "hostile shadows" must not have
// run after any of them.
func (h *harness) cmdEveryCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: everycommand URL OWNER_URL [pooled]")
	}
	ts.Check(h.everyCommandListed())
	work := ts.Getenv("WORK")
	for name, text := range map[string]string{"value": canary, "next": canary + " next",
		"import.jsonl": `{"name":"app/imported","value":"` + canary + `"}` + "\n"} {
		ts.Check(os.WriteFile(filepath.Join(work, name), []byte(text), 0o600))
	}
	// Roles are the whole cluster's, and other scripts run at the same time.
	grantee := "grantee_" + h.of(ts).store.Database
	ts.Check(h.of(ts).inPostgres([]string{`CREATE ROLE ` + grantee + ` LOGIN`}))
	for _, i := range everyCommand {
		url, want := args[0], i.code
		if i.command == "doctor" { // which calls a vault without a supervisor in the last minute a problem
			ts.Check(h.of(ts).inPostgres([]string{`SELECT vault.supervise()`}))
		}
		if i.owner {
			url = args[1]
		}
		if i.session && slices.Contains(args, "pooled") {
			want = 2
		}
		words := strings.Fields(strings.NewReplacer("$WORK", work, "$GRANTEE", grantee).Replace(i.command + " " + i.args))
		for n, word := range words {
			words[n] = strings.Replace(word, "23:59/UTC", "23:59 UTC", 1)
		}
		cut := slices.Index(words, "--")
		if cut < 0 {
			cut = len(words)
		}
		words = slices.Insert(words, cut, "--database-url", url)
		out, code := h.runOne(ts, words, i.follows)
		if code != want || bytes.Contains(out, []byte("shadow called")) {
			ts.Fatalf("vaultctl %s: exit code %d, want %d\n%s", strings.Join(words, " "), code, want,
				bytes.ReplaceAll(out, []byte(canary), []byte("VALUE")))
		}
	}
}

func (h *harness) runOne(ts *testscript.TestScript, words []string, follows bool) (out []byte, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(h.bin, "vaultctl"), words...)
	cmd.Dir = ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "VAULTCTL_TOKEN_FILE",
		"VAULTCTL_KMS_KEY", "TZ", "GORACE"} {
		if value := ts.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	both := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = both, both
	ts.Check(cmd.Start())
	if follows {
		for !strings.Contains(both.String(), "\n") && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		_ = cmd.Process.Signal(os.Interrupt)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if follows && code == 130 {
		code = 0
	}
	return []byte(both.String()), code
}

var helpLine = regexp.MustCompile(`(?m)^  ([a-z]+) {2,}\S`)

// everyCommandListed compares the list with the help of the vaultctl in the folder bin, when a script first needs it.
func everyCommandListed(bin string) error {
	listed := map[string]bool{}
	for _, i := range everyCommand {
		listed[i.command] = true
	}
	var walk func(path []string) error
	walk = func(path []string) error {
		out, err := exec.Command(filepath.Join(bin, "vaultctl"), append(slices.Clone(path), "--help")...).Output()
		if err != nil {
			return fmt.Errorf("vaultctl %s --help: %w", strings.Join(path, " "), err)
		}
		_, usage, _ := strings.Cut(string(out), "Usage:")
		var found [][]string
		if len(path) == 0 || strings.Contains(usage, "[command]") {
			found = helpLine.FindAllStringSubmatch(usage, -1)
		}
		name := strings.Join(path, " ")
		if len(found) == 0 && !listed[name] && !slices.Contains(notRun, name) {
			return fmt.Errorf("%q is in no list of internal/scripttest/session.go", name)
		}
		for _, m := range found {
			if slices.Contains(notRun, strings.Join(append(slices.Clone(path), m[1]), " ")) && m[1] != "audit" {
				continue
			}
			if err := walk(append(slices.Clone(path), m[1])); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(nil)
}

// installShadows makes, in the schema public, a function, operator, type and table of every name in pg_catalog, as the
// owner of a database can. A shadow that is called advances a sequence, which no ROLLBACK undoes, and fails.
const installShadows = `
CREATE SEQUENCE public.shadow_calls;
GRANT ALL ON SEQUENCE public.shadow_calls TO PUBLIC;
GRANT USAGE ON SCHEMA public TO PUBLIC;
DO $do$
DECLARE p record; made int := 0;
  body constant text :=
    'BEGIN PERFORM pg_catalog.nextval(''public.shadow_calls''); RAISE EXCEPTION ''shadow called''; END';
BEGIN
  FOR p IN SELECT oid, proname, pg_get_function_identity_arguments(oid) AS args, format_type(prorettype, NULL) AS result
             FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a', 'w') AND NOT proretset LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS %L',
                     p.proname, p.args, p.result, body);
      made := made + 1;
    EXCEPTION WHEN others THEN NULL;  -- a type that no plpgsql function takes
    END;
  END LOOP;
  FOR p IN SELECT oid, oprname, format_type(oprleft, NULL) AS l, format_type(oprright, NULL) AS r,
                  format_type(oprresult, NULL) AS result
             FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft <> 0 LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION public.shadow_%s(%s, %s) RETURNS %s LANGUAGE plpgsql '
                     'SET search_path = pg_catalog AS %L', p.oid, p.l, p.r, p.result, body);
      EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.shadow_%s, LEFTARG = %s, RIGHTARG = %s)',
                     p.oprname, p.oid, p.l, p.r);
      made := made + 1;
    EXCEPTION WHEN others THEN NULL;
    END;
  END LOOP;
  EXECUTE format('CREATE FUNCTION public.shadow_of_type() RETURNS boolean LANGUAGE plpgsql '
                 'SET search_path = pg_catalog AS %L', body);
  FOR p IN SELECT typname FROM pg_type
            WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typelem = 0 LOOP
    BEGIN
      EXECUTE format('CREATE DOMAIN public.%1$I AS pg_catalog.%1$I CHECK (public.shadow_of_type())', p.typname);
      made := made + 1;
    EXCEPTION WHEN others THEN NULL;
    END;
  END LOOP;
  FOR p IN SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') LOOP
    EXECUTE format('CREATE TABLE public.%I (shadow int)', p.relname);
  END LOOP;
  IF made < 2500 THEN
    RAISE EXCEPTION 'only % shadows', made;
  END IF;
END $do$;
`

// hostileSettings are settings that ALTER DATABASE and ALTER ROLE can give a session, each other than the vault needs.
var hostileSettings = []string{
	`search_path = public, pg_catalog`, `standard_conforming_strings = off`,
	`default_transaction_isolation = 'serializable'`,
	`default_transaction_deferrable = on`, `row_security = off`, `client_encoding = 'LATIN1'`,
	`"TimeZone" = 'Asia/Kathmandu'`,
	`"DateStyle" = 'German, DMY'`, `"IntervalStyle" = 'sql_standard'`, `bytea_output = 'escape'`,
	`extra_float_digits = -15`,
	`client_min_messages = 'error'`, `array_nulls = off`, `transform_null_equals = on`, `quote_all_identifiers = on`,
	`check_function_bodies = off`, `exit_on_error = on`, `jit = on`, `jit_above_cost = 0`,
	`plan_cache_mode = 'force_custom_plan'`,
	`idle_session_timeout = '900ms'`, `idle_in_transaction_session_timeout = '900ms'`, `statement_timeout = '900ms'`,
	`lock_timeout = '900ms'`,
	`backslash_quote = off`, `escape_string_warning = on`, `xmloption = 'document'`, `lc_messages = 'C'`,
	`default_toast_compression = 'pglz'`,
	`synchronous_commit = off`, `enable_indexscan = off`,
}

// hostile shadows | settings on-database|on-role ROLE... | reset: attacks of the database's owner on its sessions.
func (h *harness) cmdHostile(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	database := pgx.Identifier{s.store.Database}.Sanitize()
	var statements []string
	switch {
	case slices.Equal(args, []string{"shadows"}):
		statements = []string{installShadows, `ALTER DATABASE ` + database + ` SET search_path = public, pg_catalog`}
	case slices.Equal(args, []string{"settings", "on-database"}):
		for _, setting := range hostileSettings {
			statements = append(statements, `ALTER DATABASE `+database+` SET `+setting)
		}
	case len(args) > 2 && args[0] == "settings" && args[1] == "on-role":
		for _, role := range args[2:] {
			for _, setting := range hostileSettings {
				statements = append(statements,
					`ALTER ROLE `+pgx.Identifier{role}.Sanitize()+` IN DATABASE `+database+` SET `+setting)
			}
		}
	case slices.Equal(args, []string{"reset"}):
		statements = []string{`ALTER DATABASE ` + database + ` RESET ALL`}
		for _, role := range []string{vaulttest.Operator, vaulttest.Daemon, vaulttest.Superuser} {
			statements = append(statements, `ALTER ROLE `+role+` IN DATABASE `+database+` RESET ALL`)
		}
	default:
		ts.Fatalf("usage: hostile shadows | settings on-database | settings on-role ROLE... | reset")
	}
	// others look into it
	s.cleanup = append(s.cleanup, func() { _ = s.inPostgres([]string{`ALTER DATABASE ` + database + ` RESET ALL`}) })
	ts.Check(s.inPostgres(statements))
}

// inPostgres runs statements in the vault's database, in a session without that database's settings.
func (s *session) inPostgres(statements []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	config, err := pgx.ParseConfig(s.store.URL(vaulttest.Superuser))
	if err != nil {
		return err
	}
	config.RuntimeParams["search_path"], config.RuntimeParams["standard_conforming_strings"] = "pg_catalog", "on"
	config.RuntimeParams["default_transaction_isolation"], config.RuntimeParams["statement_timeout"] = "read committed",
		"0"
	config.RuntimeParams["idle_session_timeout"] = "0"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.PgConn().Exec(ctx, statement).ReadAll(); err != nil {
			return fmt.Errorf("%.60s: %w", statement, err)
		}
	}
	return nil
}
