package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/localpg"
)

const adminPassword = "the administrator's own"

// prepareTarget makes the administrators: one with CREATEROLE, which owns the roles of the tests, and one without
// rights.
func prepareTarget(ctx context.Context, n *localpg.Node) error {
	conn, err := pgx.Connect(ctx, n.URL("postgres", "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	quoted := strings.ReplaceAll(adminPassword, "'", "''")
	_, err = conn.PgConn().Exec(ctx, `SET log_statement = none; SET log_min_duration_statement = -1;
		SELECT pg_reload_conf();
		CREATE ROLE admin LOGIN CREATEROLE PASSWORD '`+quoted+`'; CREATE ROLE powerless LOGIN PASSWORD '`+quoted+`';
		CREATE ROLE root2 LOGIN SUPERUSER`).ReadAll()
	return err
}

func adminURL(user, password string) string { return urlOf(node.URL("postgres", user), password) }

func urlOf(text, password string) string {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String()
}

// mustRole makes a role as the administrator, and removes it.
func mustRole(t *testing.T, name, password string) {
	t.Helper()
	mustDo(t, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", pgx.Identifier{name}.Sanitize(), password))
	t.Cleanup(func() { mustDo(t, "DROP ROLE "+pgx.Identifier{name}.Sanitize()) })
}

// mustDo runs a statement as the administrator, unlogged: the passwords in it are the test's, not ours.
func mustDo(t *testing.T, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), node.URL("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, statement := range []string{"SET log_statement = none", "SET log_min_duration_statement = -1",
		"SET SESSION AUTHORIZATION admin", sql} {
		if _, err := conn.PgConn().Exec(context.Background(), statement).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
}

// logsIn is a login of the test's own, by password, over the socket.
func logsIn(t *testing.T, role, password string) bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), urlOf(node.URL("postgres", role), password))
	if err == nil {
		return conn.Close(t.Context()) == nil
	}
	if refused := new(pgconn.PgError); !errors.As(err, &refused) || refused.Code != "28P01" {
		t.Fatalf("logging in as %s: %v", role, err)
	}
	return false
}

func wantLogin(t *testing.T, role, password string, want bool) {
	t.Helper()
	if got := logsIn(t, role, password); got != want {
		t.Errorf("login as %s: got %v, want %v", role, got, want)
	}
}

func mustShape(t *testing.T, targets *Targets, spec string, current, generated string) string {
	t.Helper()
	var inForce []byte
	if current != "" {
		inForce = []byte(current)
	}
	value, err := targets.Shape(spec, inForce, []byte(generated))
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

func TestARoleLogsInWithTheNewPasswordAndNotWithTheOld(t *testing.T) {
	targets := newTargets(Options{})
	for i, role := range []string{"app", `My"Role';--`, "bénutzer", strings.Repeat("r", 63), "current_user",
		`back\slash`} {
		mustRole(t, role, "password-before")
		spec := "postgres-role role=" + role + " via=" + adminSecret
		c := change(mustShape(t, targets, spec, "password-before", fmt.Sprintf(`next "password" \ %d'`, i)))
		wantRefusal(t, targets.Test(t.Context(), spec, c), "password authentication failed", string(c.Candidate))
		mustSet(t, targets, spec, c)
		mustTest(t, targets, spec, c)
		wantLogin(t, role, string(c.Candidate), true)
		wantLogin(t, role, "password-before", false)
	}
}

func TestOfAPairThePreviousRoleStillLogsIn(t *testing.T) {
	targets := newTargets(Options{})
	spec := "postgres-role roles=app_a,app_b via=" + adminSecret
	mustRole(t, "app_a", "first-a")
	mustRole(t, "app_b", "first-b")

	var current string
	passwords := map[string]string{"app_a": "first-a", "app_b": "first-b"}
	for i, role := range []string{"app_a", "app_b", "app_a", "app_b"} {
		next := fmt.Sprintf("password-%d", i)
		c := change(mustShape(t, targets, spec, current, next))
		if want := fmt.Sprintf(`{"username":%q,"password":%q}`, role, next); string(c.Candidate) != want {
			t.Fatalf("got %s, want %s", c.Candidate, want)
		}
		if current != "" {
			c.Current = []byte(current)
		}
		mustSet(t, targets, spec, c)
		mustTest(t, targets, spec, c)
		wantLogin(t, role, passwords[role], false)
		passwords[role] = next
		for user, password := range passwords {
			wantLogin(t, user, password, true)
		}
		current = string(c.Candidate)
	}
}

func TestWhatAPairsValueSaysBesidesIsKept(t *testing.T) {
	targets, spec := newTargets(Options{}), "postgres-role roles=a,b via=x"
	got := mustShape(t, targets, spec,
		`{"host":"db1","username":"a","port": 5432, "password":"old \u0022","x":{"y":[1,"ü"]}}`, `p"w\`)
	if want := `{"username":"b","password":"p\"w\\","host":"db1","port":5432,"x":{"y":[1,"ü"]}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !json.Valid([]byte(got)) {
		t.Errorf("%s is not JSON", got)
	}
	// The pair was renamed: the role in use is not one of it.
	if got := mustShape(t, targets, spec, `{"username":"elsewhere","password":"x"}`,
		"pw"); got != `{"username":"a","password":"pw"}` {
		t.Errorf("got %s, want the first of the pair", got)
	}
	for current, says := range map[string]string{
		"hunter2-of-role-a":        "not a JSON object",
		`"hunter2"`:                "not a JSON object",
		"null":                     "not a JSON object",
		`{"password":"hunter2"}`:   "names no username",
		`{"username":"a"}`:         "has no password",
		`{"username":7,"x":"y"}`:   "names no username",
		`{"username":"a","passwo`:  "not a JSON object",
		`{"USERNAME":"a"}`:         "names no username",
		`{"username":"a"} {"b":1}`: "not a JSON object",
	} {
		_, err := targets.Shape(spec, []byte(current), []byte("pw"))
		wantRefusal(t, err, says, "hunter2")
	}
}

func TestShapeTouchesNeitherValue(t *testing.T) {
	for _, spec := range []string{"postgres-role role=a via=x", "postgres-role roles=a,b via=x",
		"webhook url=https://h key=k", "exec program=p"} {
		current, generated := []byte(`{"username":"a","password":"old"}`), []byte("generated")
		value, err := newTargets(Options{}).Shape(spec, current, generated)
		if err != nil {
			t.Fatal(err)
		}
		clear(value)
		if string(generated) != "generated" || string(current) != `{"username":"a","password":"old"}` {
			t.Errorf("%s: the value shares its buffer with what it was made of", spec)
		}
	}
}

func TestPasswordsOtherThanASCIIAreRefusedBeforeAnythingIsTouched(t *testing.T) {
	for _, spec := range []string{"postgres-role role=a via=x", "postgres-role roles=a,b via=x"} {
		_, err := newTargets(Options{}).Shape(spec, nil, []byte("pässword"))
		wantRefusal(t, err, "printable ASCII", "pässword")
	}
	for spec, candidate := range map[string]string{"postgres-role role=a via=x": "pässword",
		"postgres-role roles=a,b via=x": `{"username":"a","password":"pässword"}`} {
		wantRefusal(t, newTargets(Options{}).Set(t.Context(), spec, change(candidate)), "printable ASCII", "pässword")
	}
}

func TestSetMayBeRepeated(t *testing.T) {
	targets, spec := newTargets(Options{}), "postgres-role role=again via="+adminSecret
	mustRole(t, "again", "password-before")
	c := change("password-after")
	for c.Attempt = 1; c.Attempt <= 3; c.Attempt++ {
		mustSet(t, targets, spec, c)
		mustTest(t, targets, spec, c)
	}
	wantLogin(t, "again", "password-after", true)
}

// The attempt before altered the role, and its reply was lost: the next one ends in the same state.
func TestASetWhoseAnswerWasLostIsDoneAgain(t *testing.T) {
	mustRole(t, "lost", "password-before")
	spec, c := "postgres-role role=lost via="+adminSecret, change("password-after")
	cut := mustCutAfter(t, []byte("COMMIT\x00"))
	through := strings.Replace(adminURL("admin", adminPassword), url.QueryEscape(node.SocketDir()), url.QueryEscape(cut),
		1)
	targets := newTargets(Options{Open: secrets{adminSecret: through}.open, PostgresHosts: []string{fmt.Sprintf("%s:%d",
		cut, node.Port())}})
	wantRefusal(t, targets.Set(t.Context(), spec, c), `altering role "lost"`, string(c.Candidate))
	eventually(t, "the server has committed", func() bool { return logsIn(t, "lost", "password-after") })

	c.Attempt++
	targets = newTargets(Options{})
	mustSet(t, targets, spec, c)
	mustTest(t, targets, spec, c)
	wantLogin(t, "lost", "password-after", true)
	wantLogin(t, "lost", "password-before", false)
}

// mustCutAfter listens on a socket in a folder of its own and forwards to the target. It drops the answer that holds
// the mark, and the connection with it.
func mustCutAfter(t *testing.T, mark []byte) (folder string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "cut")
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf(".s.PGSQL.%d", node.Port())
	listener, err := net.Listen("unix", filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
		_ = os.RemoveAll(folder)
	})
	go func() {
		defer close(ended)
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			passOn(client, filepath.Join(node.SocketDir(), name), mark)
		}
	}()
	return folder
}

func passOn(client net.Conn, to string, mark []byte) {
	defer client.Close()
	server, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { _, _ = io.Copy(server, client) }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil || bytes.Contains(buffer[:n], mark) {
			return
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func TestWhatCannotBeSetIsExplainedWithoutSecrets(t *testing.T) {
	mustRole(t, "app", "password-before")
	mustRole(t, "sleeper", "x")
	mustDo(t, "ALTER ROLE sleeper NOLOGIN")
	const candidate = "the-candidate-itself"
	for _, refused := range []struct {
		spec, via, says string
	}{
		{"role=app", adminURL("admin", "not-the-password"), "password authentication failed"},
		{"role=app", adminURL("nobody", adminPassword), "connecting as the administrator"},
		{"role=app", node.URL("postgres", "admin"), "connecting as the administrator"}, // no password
		{"role=app", adminURL("powerless", adminPassword), "needs CREATEROLE"},
		{"role=missing", adminURL("admin", adminPassword), "no such role"},
		{"role=APP", adminURL("admin", adminPassword), "no such role"},
		{"role=admin", adminURL("admin", adminPassword), "locked out"},
		{"role=postgres", adminURL("admin", adminPassword), "superuser"},
		{"role=root2", adminURL("postgres", adminPassword), "superuser"},
		{"role=sleeper", adminURL("admin", adminPassword), "may not log in"},
		{"role=app", "postgres://admin:" + url.PathEscape(adminPassword) + "@/postgres?host=/nowhere", "no such file"},
		{"role=app", "postgres://admin:" + url.PathEscape(adminPassword) + "@127.0.0.1:1/postgres", "refused"},
		{"role=app", "postgres://admin:" + url.PathEscape(adminPassword) +
			"@127.0.0.1:1/postgres?sslmode=verify-full&sslrootcert=/nowhere.pem", "has the setting sslrootcert"},
		{"role=app", "postgres://admin:" + url.PathEscape(adminPassword) + "@127.0.0.1/postgres?sslmode=nonsense",
			"not usable"},
		{"role=app", "postgres://127.0.0.1/postgres", "names no user"},
		{"role=app", "host=/tmp user=admin password='" + adminPassword + "'", "not of the form"},
		{"role=app", "postgres://admin:" + adminPassword + "%zz@h/db", "not of the form"},
		{"role=app", "", "does not exist"},
	} {
		open := secrets{adminSecret: refused.via}
		if refused.via == "" {
			delete(open, adminSecret)
		}
		spec := "postgres-role " + refused.spec + " via=" + adminSecret
		err := newTargets(Options{Open: open.open}).Set(t.Context(), spec, change(candidate))
		wantRefusal(t, err, refused.says, candidate, "not-the-password", url.PathEscape(adminPassword))
	}
	wantLogin(t, "app", "password-before", true)
}

func TestARoleOfAPairThatCameIntoUseIsLeftAlone(t *testing.T) {
	mustRole(t, "app_a", "first-a")
	spec, c := "postgres-role roles=app_a,app_b via="+adminSecret, change(`{"username":"app_a","password":"next"}`)
	c.Current = []byte(`{"username":"app_a","password":"first-a"}`) // rolled back while the job was open
	wantRefusal(t, newTargets(Options{}).Set(t.Context(), spec, c), "is the one in use", "next", "first-a")
	wantLogin(t, "app_a", "first-a", true)

	c.Current = c.Candidate // completed, and the reply was lost
	mustSet(t, newTargets(Options{}), spec, c)
	c.Candidate = []byte(`{"username":"app_z","password":"next"}`)
	wantRefusal(t, newTargets(Options{}).Set(t.Context(), spec, c), "no longer names", "next")
}

func TestALoginThatIsNotCheckedProvesNothing(t *testing.T) {
	mustRole(t, "trusted", "x")
	mustRole(t, "cleartext", "x")
	targets := newTargets(Options{})
	for _, role := range []string{"trusted", "cleartext"} {
		spec, c := "postgres-role role="+role+" via="+adminSecret, change("password-after")
		mustSet(t, targets, spec, c)
		wantRefusal(t, targets.Test(t.Context(), spec, c), "must ask this login for scram-sha-256", string(c.Candidate))
	}
}

// An administrator as docs/ROTATORS.md grants it, for a role that another one made.
func TestAnAdministratorNeedsNoMoreThanItSays(t *testing.T) {
	mustRole(t, "theirs", "password-before")
	mustDo(t, "RESET SESSION AUTHORIZATION; CREATE ROLE second LOGIN CREATEROLE PASSWORD '"+
		strings.ReplaceAll(adminPassword, "'", "''")+"'")
	t.Cleanup(func() { mustDo(t, "RESET SESSION AUTHORIZATION; DROP ROLE second") })
	targets := newTargets(Options{Open: secrets{adminSecret: adminURL("second", adminPassword)}.open})
	spec, c := "postgres-role role=theirs via="+adminSecret, change("password-after")
	if mustAsk(t, "SELECT current_setting('server_version_num')::int >= 160000") {
		wantRefusal(t, targets.Set(t.Context(), spec, c), "ADMIN OPTION", string(c.Candidate))
		mustDo(t, "GRANT theirs TO second WITH ADMIN OPTION, INHERIT FALSE, SET FALSE")
	}
	mustSet(t, targets, spec, c)
	mustTest(t, targets, spec, c)
	wantLogin(t, "theirs", string(c.Candidate), true)
}

func TestOfSeveralHostsThePrimaryIsFound(t *testing.T) {
	mustRole(t, "app", "password-before")
	spec, c := "postgres-role role=app via="+adminSecret, change("password-after")
	at := func(folders string) *Targets {
		via := "postgres://admin:" + url.PathEscape(adminPassword) + "@/postgres?host=" + url.QueryEscape(folders)
		return newTargets(Options{Open: secrets{adminSecret: via}.open})
	}
	wantRefusal(t, at(standby.SocketDir()).Set(t.Context(), spec, c), "standby", string(c.Candidate))
	mustSet(t, at(standby.SocketDir()+","+node.SocketDir()), spec, c)
	// The standby trusts every login.
	wantRefusal(t, at(standby.SocketDir()+","+node.SocketDir()).Test(t.Context(), spec, change("another")),
		"password authentication failed", "another")
	mustTest(t, at("/nowhere,"+node.SocketDir()), spec, c)
	wantLogin(t, "app", "password-after", true)
}

func TestTheLoginMayBeElsewhere(t *testing.T) {
	mustRole(t, "elsewhere", "password-before")
	c := change("password-after")
	here := "postgres-role role=elsewhere via=" + adminSecret + " login=postgres:///template1?host=" + node.SocketDir()
	mustSet(t, newTargets(Options{}), here, c)
	mustTest(t, newTargets(Options{}), here, c)
	away := "postgres-role role=elsewhere via=" + adminSecret + " login=postgres:///template1?host=/nowhere"
	wantRefusal(t, newTargets(Options{}).Test(t.Context(), away, c), "no such file", string(c.Candidate))
}

// vaultd's PostgreSQL environment must not reach a host that a secret names.
func TestTheEnvironmentIsNotUsedForATarget(t *testing.T) {
	mustRole(t, "app", "password-before")
	t.Setenv("PGPASSWORD", adminPassword)
	t.Setenv("PGHOST", "/nowhere")
	t.Setenv("PGUSER", "nobody")
	t.Setenv("PGOPTIONS", "-c default_transaction_read_only=on")
	t.Setenv("PGREQUIREAUTH", "none")
	t.Setenv("PGSSLMODE", "disable")
	spec := "postgres-role role=app via=" + adminSecret
	targets := newTargets(Options{Open: secrets{adminSecret: node.URL("postgres", "admin")}.open})
	wantRefusal(t, targets.Set(t.Context(), spec, change("next")), "password", "next")
	mustSet(t, newTargets(Options{}), spec, change("next"))
	mustTest(t, newTargets(Options{}), spec, change("next"))

	remote, err := parseServer("postgres://u:p@db1.example,127.0.0.1:5433,[::1]/app")
	if err != nil {
		t.Fatal(err)
	}
	c, err := postgres{}.config(remote)
	if err != nil {
		t.Fatal(err)
	}
	if c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify || c.TLSConfig.ServerName != "db1.example" ||
		len(c.Fallbacks) != 2 {
		t.Errorf("got TLS %+v with %d others, want verify-full for every host", c.TLSConfig, len(c.Fallbacks))
	}
	if c.Fallbacks[0].Port != 5433 || c.Fallbacks[1].Host != "::1" || c.Fallbacks[1].Port != 5432 ||
		c.Fallbacks[1].TLSConfig == nil {
		t.Errorf("got hosts %+v, %+v", c.Fallbacks[0], c.Fallbacks[1])
	}
}

func TestTheTargetsLogHoldsNoPassword(t *testing.T) {
	mustRole(t, "logged", "password-before")
	const candidate = "canary-of-the-targets-log"
	targets, spec := newTargets(Options{}), "postgres-role role=logged via="+adminSecret
	mustSet(t, targets, spec, change(candidate))
	mustTest(t, targets, spec, change(candidate))
	wantRefusal(t, targets.Test(t.Context(), spec, change(candidate+"-wrong")), "failed", candidate)
	log, err := os.ReadFile(node.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte(`ALTER ROLE "logged" PASSWORD 'SCRAM-SHA-256$4096:`)) {
		t.Error("the log does not have the statement, so it shows nothing")
	}
	for _, secret := range []string{candidate, adminPassword} {
		if bytes.Contains(log, []byte(secret)) {
			t.Error("the log has a password in it")
		}
	}
}

// A worker that is suspended in its transaction has no session left when it continues.
func TestASessionThatFallsSilentIsEndedByTheServer(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), adminURL("admin", adminPassword))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := limitSession(t.Context(), tx, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	pid := conn.PgConn().PID()
	eventually(t, "the server has ended the session",
		func() bool { return !mustAsk(t, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid) })
	if _, err := tx.Exec(t.Context(), `ALTER ROLE powerless PASSWORD 'x'`); err == nil {
		t.Error("a statement was taken after the silence")
	}
}

func TestAnAttemptThatWakesLateChangesNothing(t *testing.T) {
	mustRole(t, "late", "password-before")
	slow := func(ctx context.Context, _ string) ([]byte, error) {
		<-ctx.Done() // and answers all the same
		return []byte(adminURL("admin", adminPassword)), nil
	}
	spec := "postgres-role role=late via=" + adminSecret + " timeout=1s"
	wantRefusal(t, newTargets(Options{Open: slow}).Set(t.Context(), spec, change("password-after")), "not done in time",
		"password-after")
	wantLogin(t, "late", "password-before", true)

	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if inTime(past) == nil || inTime(t.Context()) != nil {
		t.Error("the deadline is not looked at")
	}
}

// A server that accepts the connection and sends nothing.
func TestAHangingServerEndsWithTheDeadline(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	via := fmt.Sprintf("postgres://admin:%s@%s/postgres", url.PathEscape(adminPassword), listener.Addr())
	spec := "postgres-role role=app via=" + adminSecret + " timeout=1s"
	started := time.Now()
	err = newTargets(Options{Open: secrets{adminSecret: via}.open,
		PostgresHosts: []string{listener.Addr().String()}}).Set(t.Context(), spec, change("next"))
	wantRefusal(t, err, "not done in time", "next")
	if took := time.Since(started); took > 2*time.Minute {
		t.Errorf("it took %s", took)
	}
}

// A server that repeats the password it got.
func TestAServerThatRepeatsThePasswordIsCutShort(t *testing.T) {
	s := server{password: adminPassword}
	err := s.explain(&pgconn.PgError{Code: "28P01", Message: "you said " + adminPassword + "\nand more"}, false)
	wantRefusal(t, err, "you said xxxxx")
}

func mustAsk(t *testing.T, sql string, args ...any) (answer bool) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), node.URL("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// eventually polls a condition that another process brings about.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
