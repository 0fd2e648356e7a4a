package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/rotation"
)

// inForce is a change of a secret whose readers have current. The job has no candidate yet.
func inForce(current string) rotation.Change {
	c := change("")
	c.Current, c.Candidate = []byte(current), nil
	return c
}

func wantFound(t *testing.T, targets *Targets, spec string, c rotation.Change, want rotation.Found) {
	t.Helper()
	got, err := targets.Check(t.Context(), spec, c)
	if err != nil || got != want {
		t.Errorf("check: got %d (%v), want %d", got, err, want)
	}
}

// mustRun runs statements at the target as its superuser, unlogged.
func mustRun(t *testing.T, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), node.URL("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range append([]string{"SET log_statement = none", "SET log_min_duration_statement = -1"},
		statements...) {
		if _, err := conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// hold opens a login of the role's own, which uses one of its connections until the test ends.
func hold(t *testing.T, role, password string) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), urlOf(node.URL("postgres", role), password))
	if err != nil {
		t.Fatal(err)
	}
	return func() { _ = conn.Close(context.Background()) }
}

// The scenario of every case: a role whose rotation cannot be tested. The check says why, and readers' value still logs
// in. Siblings: the place of the login (database, server, pg_hba.conf, TLS), the role (NOLOGIN, VALID UNTIL,
// superuser, renamed, another password), the administrator (password, rights, a standby).
func TestARotationThatCannotBeTestedChangesNothing(t *testing.T) {
	const current, candidate = "the-value-in-force", "the-candidate-itself"
	via := "role=blocked via=" + adminSecret
	for says, c := range map[string]struct{ spec, before, after, open string }{
		"does not exist (SQLSTATE 3D000)": {spec: via + " login=postgres:///nowhere?host=" + node.SocketDir() +
			"&port=" + fmt.Sprint(node.Port())},
		"no such file":             {spec: via + " login=postgres:///postgres?host=/nowhere"},
		"refused":                  {spec: via + " login=postgres://127.0.0.1:1/postgres"},
		"not among postgres_hosts": {spec: via + " login=postgres://db.example/postgres"},
		"may not log in (NOLOGIN)": {spec: via, before: "ALTER ROLE blocked NOLOGIN",
			after: "ALTER ROLE blocked LOGIN"},
		"has expired (VALID UNTIL": {spec: via, before: "ALTER ROLE blocked VALID UNTIL '2001-01-01'",
			after: "ALTER ROLE blocked VALID UNTIL 'infinity'"},
		"it is a superuser": {spec: via, before: "ALTER ROLE blocked SUPERUSER",
			after: "ALTER ROLE blocked NOSUPERUSER"},
		"there is no such role": {spec: via, before: "ALTER ROLE blocked RENAME TO renamed",
			after: "ALTER ROLE renamed RENAME TO blocked"},
		"no value that the vault has": {spec: via, before: "ALTER ROLE blocked PASSWORD 'another'",
			after: "ALTER ROLE blocked PASSWORD '" + current + "'"},
		"connecting as the administrator": {spec: via, open: adminURL("admin", "not-the-password")},
		"the server is a standby":         {spec: via, open: urlOf(standby.URL("postgres", "admin"), adminPassword)},
		"must ask this login for scram":   {spec: "role=trusted via=" + adminSecret},
	} {
		t.Run(says, func(t *testing.T) {
			mustRole(t, "blocked", current)
			mustRole(t, "trusted", current)
			if c.before != "" {
				mustRun(t, c.before)
			}
			open := secrets{adminSecret: adminURL("admin", adminPassword)}
			if c.open != "" {
				open[adminSecret] = c.open
			}
			targets := newTargets(Options{Open: open.open})
			_, err := targets.Check(t.Context(), "postgres-role "+c.spec, inForce(current))
			wantRefusal(t, err, says, current, "not-the-password")
			stored := change(candidate)
			stored.Current = []byte(current)
			_, err = targets.Check(t.Context(), "postgres-role "+c.spec, stored)
			wantRefusal(t, err, says, current, candidate, "not-the-password")
			if c.after != "" {
				mustRun(t, c.after)
			}
			wantLogin(t, "blocked", current, true)
		})
	}
}

// A refusal after the server has accepted the password does not stop a rotation, neither before nor after the set: the
// application itself may use up the role's connections. Siblings: those of the database, and the right to connect.
func TestARefusalAfterThePasswordProvesIt(t *testing.T) {
	for name, c := range map[string]struct{ before, after, database string }{
		"CONNECTION LIMIT of the role": {before: "ALTER ROLE busy CONNECTION LIMIT 1", database: "postgres"},
		"CONNECTION LIMIT of the database": {before: "CREATE DATABASE busydb CONNECTION LIMIT 0",
			after: "DROP DATABASE busydb", database: "busydb"},
		"CONNECT": {before: "CREATE DATABASE shut", after: "DROP DATABASE shut",
			database: "shut"},
		"ALLOW_CONNECTIONS": {before: "CREATE DATABASE closed ALLOW_CONNECTIONS false",
			after: "DROP DATABASE closed", database: "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			mustRole(t, "busy", "password-before")
			mustRun(t, c.before)
			if c.after != "" {
				t.Cleanup(func() { mustRun(t, c.after) })
			}
			if c.database == "shut" {
				mustRun(t, "REVOKE CONNECT ON DATABASE shut FROM PUBLIC")
			}
			release := hold(t, "busy", "password-before")
			t.Cleanup(release)
			login := fmt.Sprintf(" login=postgres:///%s?host=%s&port=%d", c.database, node.SocketDir(), node.Port())
			spec, targets := "postgres-role role=busy via="+adminSecret+login, newTargets(Options{})
			wantFound(t, targets, spec, inForce("password-before"), rotation.FoundCurrent)

			next := change("password-after")
			next.Current = []byte("password-before")
			mustSet(t, targets, spec, next)
			mustTest(t, targets, spec, next)
			wrong := change("not-the-password")
			if err := targets.Test(t.Context(), spec, wrong); err == nil {
				t.Error("a wrong password passed")
			}
			_, err := targets.Check(t.Context(), spec, inForce("not-the-password"))
			wantRefusal(t, err, "no value that the vault has", "not-the-password")
		})
	}
}

// A server that is full refuses before it asks for a password: nothing is proven.
func TestARefusalBeforeThePasswordProvesNothing(t *testing.T) {
	for name, answer := range map[string][]byte{
		"too many clients": pgError("53300"), "starting up": pgError("57P03"), "no database": pgError("3D000"),
		// AuthenticationOk without a proof, and one after a proof that is none.
		"let in unasked": append([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 0}, pgError("53300")...),
		"a false proof": append([]byte("R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"+
			"R\x00\x00\x00\x0c\x00\x00\x00\x0cv=zzR\x00\x00\x00\x08\x00\x00\x00\x00"), pgError("53300")...),
	} {
		t.Run(name, func(t *testing.T) {
			address := mustAnswer(t, answer)
			mustRole(t, "fooled", "password-before")
			targets := newTargets(Options{PostgresHosts: []string{address, fmt.Sprintf("%s:%d", node.SocketDir(),
				node.Port())}})
			spec := "postgres-role role=fooled via=" + adminSecret + " login=postgres://" + address +
				"/postgres?sslmode=disable timeout=2s"
			_, err := targets.Check(t.Context(), spec, inForce("password-before"))
			wantRefusal(t, err, "postgres-role: check", "password-before")
			wantRefusal(t, targets.Test(t.Context(), spec, change("password-after")), "postgres-role: test",
				"password-after")
		})
	}
}

func pgError(code string) []byte {
	fields := "SFATAL\x00C" + code + "\x00Mno\x00\x00"
	return append([]byte{'E', 0, 0, 0, byte(4 + len(fields))}, fields...)
}

// mustAnswer is a server that answers each startup message with the same bytes.
func mustAnswer(t *testing.T, answer []byte) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write(answer)
			_, _ = io.Copy(io.Discard, conn) // until the client has read it all
			_ = conn.Close()
		}
	}()
	return listener.Addr().String()
}

// After a crash between set and finish the value in force no longer logs in: the candidate does.
func TestTheWorkOfAnEarlierAttemptIsFound(t *testing.T) {
	mustRole(t, "found", "password-before")
	spec, targets := "postgres-role role=found via="+adminSecret, newTargets(Options{})
	c := change("password-after")
	c.Current = []byte("password-before")
	wantFound(t, targets, spec, c, rotation.FoundCurrent)
	mustSet(t, targets, spec, c)
	wantFound(t, targets, spec, c, rotation.FoundCandidate)
}

// The database of login= went away after the crash. The candidate is still known to be at the target, as the server
// took it before it looked for the database: the worker takes it back.
func TestACandidateThatCannotBeTestedIsKnownToBeInPlace(t *testing.T) {
	mustRole(t, "stranded", "password-before")
	spec := "postgres-role role=stranded via=" + adminSecret + fmt.Sprintf(" login=postgres:///nowhere?host=%s&port=%d",
		node.SocketDir(), node.Port())
	targets, c := newTargets(Options{}), change("password-after")
	c.Current = []byte("password-before")
	_, err := targets.Check(t.Context(), spec, c)
	if err == nil || errors.Is(err, rotation.ErrCandidateInPlace) {
		t.Errorf("with the value in force at the target: got %v", err)
	}
	mustSet(t, targets, spec, c)
	_, err = targets.Check(t.Context(), spec, c)
	if !errors.Is(err, rotation.ErrCandidateInPlace) {
		t.Errorf("with the candidate at the target: got %v", err)
	}
	wantRefusal(t, err, "nowhere", "password-before", "password-after")
}

func TestAnUnknownPasswordIsReplacedOnlyByAdoption(t *testing.T) {
	mustRole(t, "adopted", "of an application")
	targets, c := newTargets(Options{}), inForce("never-set")
	_, err := targets.Check(t.Context(), "postgres-role role=adopted via="+adminSecret, c)
	wantRefusal(t, err, "adopt=yes", "never-set")
	wantFound(t, targets, "postgres-role role=adopted via="+adminSecret+" adopt=yes", c, rotation.FoundNeither)
	// It is no excuse for a login that cannot be made at all.
	_, err = targets.Check(t.Context(),
		"postgres-role role=adopted via="+adminSecret+" login=postgres://127.0.0.1:1/postgres adopt=yes", c)
	wantRefusal(t, err, "refused", "never-set")
}

// The next role of a pair has no connection left, as readers of the version before use it: its test cannot pass, so
// their password is not taken away.
func TestTheNextRoleOfAPairIsLeftAloneWithoutAFreeConnection(t *testing.T) {
	mustRole(t, "full_a", "first-a")
	mustRole(t, "full_b", "first-b")
	mustRun(t, "ALTER ROLE full_b CONNECTION LIMIT 1")
	spec, targets := "postgres-role roles=full_a,full_b via="+adminSecret, newTargets(Options{})
	c := inForce(`{"username":"full_a","password":"first-a"}`)
	release := hold(t, "full_b", "first-b")
	_, err := targets.Check(t.Context(), spec, c)
	wantRefusal(t, err, "no connection left (CONNECTION LIMIT 1)", "first-a", "first-b")
	release()
	eventually(t, "the session has ended", func() bool {
		found, err := targets.Check(t.Context(), spec, c)
		return err == nil && found == rotation.FoundCurrent
	})
}

// A target whose synchronous standby is away commits ALTER ROLE and does not say so: readers would have no login from
// then until the restore is given up, at each attempt. The check waits in the set's place.
func TestATargetThatCannotConfirmACommitIsLeftAlone(t *testing.T) {
	mustRole(t, "unconfirmed", "password-before")
	reload := func(sql string) { mustRun(t, sql); mustRun(t, "SELECT pg_reload_conf()") }
	reload("ALTER SYSTEM SET synchronous_standby_names = 'away'")
	eventually(t, "commits wait", func() bool { return commitWaits(t) })
	t.Cleanup(func() { reload("ALTER SYSTEM RESET synchronous_standby_names") })
	spec := "postgres-role role=unconfirmed via=" + adminSecret + " timeout=5s"
	_, err := newTargets(Options{}).Check(t.Context(), spec, inForce("password-before"))
	wantRefusal(t, err, "does not confirm a commit", "password-before")
	wantLogin(t, "unconfirmed", "password-before", true)
}

// commitWaits reports whether a commit waits for the standby: not before the checkpointer has seen the setting, which
// other sessions may see earlier.
func commitWaits(t *testing.T) bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), node.URL("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), `SELECT pg_logical_emit_message(true, 'test', '')`)
		done <- err
	}()
	waits := false
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return waits
		default:
		}
		waits = waits || mustAsk(t, fmt.Sprintf(`SELECT count(pg_cancel_backend(pid)) > 0 FROM pg_stat_activity
			WHERE pid = %d AND wait_event = 'SyncRep'`, conn.PgConn().PID()))
		time.Sleep(time.Millisecond)
	}
}

// A role that still has an MD5 verifier is rotated, and has a SCRAM verifier afterwards.
func TestAnMD5PasswordInForceIsReplaced(t *testing.T) {
	mustRole(t, "hashed_md5", "x")
	mustRun(t, "SET password_encryption = md5", "ALTER ROLE hashed_md5 PASSWORD 'password-before'")
	spec, targets := "postgres-role role=hashed_md5 via="+adminSecret, newTargets(Options{})
	c := change("password-after")
	c.Current = []byte("password-before")
	wantFound(t, targets, spec, c, rotation.FoundCurrent)
	mustSet(t, targets, spec, c)
	mustTest(t, targets, spec, c)
}

func TestAChangeThatIsNotConfirmedIsTakenBack(t *testing.T) {
	mustRole(t, "back", "password-before")
	spec, targets := "postgres-role role=back via="+adminSecret, newTargets(Options{})
	c := change("password-after")
	c.Current = []byte("password-before")
	mustSet(t, targets, spec, c)
	wantLogin(t, "back", "password-before", false)
	for range 2 { // it may be repeated
		if err := targets.Restore(t.Context(), spec, c); err != nil {
			t.Fatal(err)
		}
		wantLogin(t, "back", "password-before", true)
		wantLogin(t, "back", "password-after", false)
	}
}

// The login of the test is at a server without the new password: the value in force, which logs in there, is restored.
func TestATestThatFailsAfterTheCheckPassedIsTakenBack(t *testing.T) {
	hba := filepath.Join(standby.DataDir(), "pg_hba.conf")
	before := []byte(mustRead(t, hba))
	mustDoFile(t, os.WriteFile(hba, []byte("local all postgres trust\nlocal all all scram-sha-256\n"), 0o600))
	mustStandby(t, "SELECT pg_reload_conf()")
	t.Cleanup(func() {
		mustDoFile(t, os.WriteFile(hba, before, 0o600))
		mustStandby(t, "SELECT pg_reload_conf()")
	})
	mustRole(t, "lagging", "password-before")
	spec := fmt.Sprintf("postgres-role role=lagging via=%s login=postgres:///postgres?host=%s&port=%d", adminSecret,
		standby.SocketDir(), standby.Port())
	targets, c := newTargets(Options{}), change("password-after")
	c.Current = []byte("password-before")
	eventually(t, "the standby knows the role, and asks for its password", func() bool {
		found, err := targets.Check(t.Context(), spec, c)
		return err == nil && found == rotation.FoundCurrent
	})
	mustStandby(t, "SELECT pg_wal_replay_pause()")
	t.Cleanup(func() { mustStandby(t, "SELECT CASE WHEN pg_is_wal_replay_paused() THEN pg_wal_replay_resume() END") })
	mustSet(t, targets, spec, c)
	wantRefusal(t, targets.Test(t.Context(), spec, c), "password authentication failed", "password-after")
	wantLogin(t, "lagging", "password-before", false)
	if err := targets.Restore(t.Context(), spec, c); err != nil {
		t.Fatal(err)
	}
	wantLogin(t, "lagging", "password-before", true)
}

func mustStandby(t *testing.T, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), standby.URL("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}

// An attempt that lost its claim while its statement ran commits nothing: another worker may have finished the job.
func TestALostClaimCommitsNothing(t *testing.T) {
	mustRole(t, "fenced", "password-before")
	spec, targets := "postgres-role role=fenced via="+adminSecret, newTargets(Options{})
	c := change("password-after")
	c.Current = []byte("another")
	c.Held = func(context.Context) error { return errors.New("the claim is lost") }
	for _, step := range []func(context.Context, string, rotation.Change) error{targets.Set, targets.Restore} {
		err := step(t.Context(), spec, c)
		wantRefusal(t, err, "the claim is lost", "password-after")
		if !errors.Is(err, rotation.ErrUntouched) {
			t.Error("it is not said that nothing was changed")
		}
	}
	wantLogin(t, "fenced", "password-before", true)
}

// The error of a Set is ErrUntouched only if it certainly changed nothing.
func TestASetSaysWhetherTheTargetIsUntouched(t *testing.T) {
	mustRole(t, "certain", "password-before")
	spec, c := "postgres-role role=certain via="+adminSecret, change("password-after")
	for name, mark := range map[string]string{"before": "ALTER ROLE\x00", "after": "COMMIT\x00"} {
		cut := mustCutAfter(t, []byte(mark))
		through := strings.Replace(adminURL("admin", adminPassword), url.QueryEscape(node.SocketDir()),
			url.QueryEscape(cut), 1)
		targets := newTargets(Options{Open: secrets{adminSecret: through}.open,
			PostgresHosts: []string{fmt.Sprintf("%s:%d", cut, node.Port())}})
		err := targets.Set(t.Context(), spec, c)
		wantRefusal(t, err, "altering role", "password-after")
		if got, want := errors.Is(err, rotation.ErrUntouched), name == "before"; got != want {
			t.Errorf("the answer was lost %s the commit: got untouched %v, want %v (%v)", name, got, want, err)
		}
	}
	wantRefusal(t, newTargets(Options{}).Set(t.Context(), "postgres-role role=missing via="+adminSecret, c),
		"no such role")
}

// Of a pair readers keep the role that they have. A next role that could not connect is found before its password is
// replaced.
func TestOfAPairTheNextRoleIsLookedAtFirst(t *testing.T) {
	mustRole(t, "pair_a", "first-a")
	mustRole(t, "pair_b", "first-b")
	mustRun(t, "CREATE DATABASE pairdb")
	t.Cleanup(func() { mustRun(t, "DROP DATABASE pairdb") })
	spec := fmt.Sprintf("postgres-role roles=pair_a,pair_b via=%s login=postgres:///pairdb?host=%s&port=%d",
		adminSecret, node.SocketDir(), node.Port())
	targets, c := newTargets(Options{}), inForce(`{"username":"pair_a","password":"first-a"}`)
	wantFound(t, targets, spec, c, rotation.FoundCurrent)
	for says, statements := range map[string][2]string{
		"may not log in": {"ALTER ROLE pair_b NOLOGIN", "ALTER ROLE pair_b LOGIN"},
		"has expired": {"ALTER ROLE pair_b VALID UNTIL '2001-01-01'",
			"ALTER ROLE pair_b VALID UNTIL 'infinity'"},
		"CONNECTION LIMIT 0": {"ALTER ROLE pair_b CONNECTION LIMIT 0",
			"ALTER ROLE pair_b CONNECTION LIMIT -1"},
		"no CONNECT on database": {"REVOKE CONNECT ON DATABASE pairdb FROM PUBLIC",
			"GRANT CONNECT ON DATABASE pairdb TO PUBLIC"},
		"there is no such role": {"ALTER ROLE pair_b RENAME TO pair_c",
			"ALTER ROLE pair_c RENAME TO pair_b; ALTER ROLE pair_b PASSWORD 'first-b'"},
		"does not exist (SQLSTATE 3D": {"ALTER DATABASE pairdb RENAME TO pairdb2",
			"ALTER DATABASE pairdb2 RENAME TO pairdb"},
	} {
		mustRun(t, statements[0])
		_, err := targets.Check(t.Context(), spec, c)
		wantRefusal(t, err, says, "first-a")
		mustRun(t, strings.Split(statements[1], "; ")...)
		wantLogin(t, "pair_b", "first-b", true)
	}
	// A value in force that is refused is accepted, as the other role replaces it.
	wantFound(t, targets, spec, inForce(`{"username":"pair_a","password":"lost"}`), rotation.FoundNeither)
	_, err := targets.Check(t.Context(), spec, inForce("hunter2"))
	wantRefusal(t, err, "not a JSON object", "hunter2")
	// Readers are not moved to a role that cannot connect now, though its password is proven.
	next := change(`{"username":"pair_b","password":"next-b"}`)
	mustSet(t, targets, spec, next)
	mustRun(t, "ALTER ROLE pair_b CONNECTION LIMIT 0")
	wantRefusal(t, targets.Test(t.Context(), spec, next), "53300", "next-b")
	if err := targets.Restore(t.Context(), spec, next); err != nil {
		t.Error(err)
	}
	wantLogin(t, "pair_a", "first-a", true)
}

// one is a receiver that has one value, and the calls it got: the steps, and whether each had its value.
type one struct {
	*receiver
	value string
	steps []string
}

func newOne(t *testing.T, value string) *one {
	o := &one{value: value}
	o.receiver = newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { // its lock is held
		body := o.got[len(o.got)-1].Body
		o.steps = append(o.steps, fmt.Sprintf("%v %v %v", body["step"], body["version"], body["value"]))
		switch {
		case body["step"] == "set":
			o.value = body["value"].(string)
		case body["value"] != o.value:
			w.WriteHeader(http.StatusConflict)
		}
	})
	return o
}

func (o *one) wantSteps(t *testing.T, want ...string) {
	t.Helper()
	if got := strings.Join(o.steps, ", "); got != strings.Join(want, ", ") {
		t.Errorf("the receiver got %q, want %q", got, want)
	}
	o.steps = nil
}

// A webhook sees Check and Restore as calls of its two steps, set and test.
func TestAWebhookIsAskedBeforeAndGivenTheOldValueBack(t *testing.T) {
	o := newOne(t, "value-old")
	c := inForce("value-old")
	wantFound(t, o.targets(), o.spec("/"), c, rotation.FoundCurrent)
	o.wantSteps(t, "test 6 value-old")

	c.Candidate = []byte("value-new")
	mustSet(t, o.targets(), o.spec("/"), c)
	wantFound(t, o.targets(), o.spec("/"), c, rotation.FoundCandidate)
	o.wantSteps(t, "set 7 value-new", "test 6 value-old", "test 7 value-new")
	if err := o.targets().Restore(t.Context(), o.spec("/"), c); err != nil {
		t.Fatal(err)
	}
	o.wantSteps(t, "set 6 value-old", "test 6 value-old")

	o.value = "unknown"
	_, err := o.targets().Check(t.Context(), o.spec("/"), c)
	wantRefusal(t, err, "adopt=yes", "value-")
	wantFound(t, o.targets(), strings.Replace(o.spec("/"), " timeout", " adopt=yes timeout", 1), c,
		rotation.FoundNeither)
	_, err = newTargets(Options{WebhookHosts: []string{"127.0.0.1:1"}}).Check(t.Context(),
		"webhook url=https://127.0.0.1:1 key="+hookSecret+" adopt=yes", c)
	wantRefusal(t, err, "calling", "value-old")
}

// A receiver that answers at once for a key it has finished must not take a set after a restore for the one before it.
func TestASetAfterARestoreHasAKeyOfItsOwn(t *testing.T) {
	o := newOne(t, "value-old")
	seen := map[string]string{}
	for attempt := 1; attempt <= 3; attempt++ {
		c := inForce("value-old")
		c.Attempt, c.Candidate = attempt, []byte("value-new")
		wantFound(t, o.targets(), o.spec("/"), c, rotation.FoundCurrent)
		c.Found = rotation.FoundCurrent
		mustSet(t, o.targets(), o.spec("/"), c)
		if err := o.targets().Restore(t.Context(), o.spec("/"), c); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range o.mustBeCalled(t, 12) {
		if first, ok := seen[c.Once]; ok && c.Body["step"] == "set" {
			t.Errorf("call %d (set) has the key of %s", i, first)
		}
		seen[c.Once] = fmt.Sprint(i)
	}
}

func TestAProgramIsAskedBeforeAndGivenTheOldValueBack(t *testing.T) {
	dir := t.TempDir()
	targets := mustScript(t, `
echo "$VAULT_STEP $VAULT_VERSION" >> "$1/steps"
if [ "$VAULT_STEP" = set ]; then cat > "$1/value"; else cmp -s - "$1/value"; fi`, dir)
	const spec = "exec program=program"
	c := inForce("value-old")
	_, err := targets.Check(t.Context(), spec, c)
	wantRefusal(t, err, "adopt=yes", "value-old")
	wantFound(t, targets, spec+" adopt=yes", c, rotation.FoundNeither)
	c.Candidate = []byte("value-new")
	mustSet(t, targets, spec, c)
	wantFound(t, targets, spec, c, rotation.FoundCandidate)
	if err := targets.Restore(t.Context(), spec, c); err != nil {
		t.Fatal(err)
	}
	wantFound(t, targets, spec, c, rotation.FoundCurrent)
	if got := mustRead(t, dir+"/value"); !bytes.Equal([]byte(got), c.Current) {
		t.Error("the program does not have the old value again")
	}
	if got := strings.ReplaceAll(mustRead(t, dir+"/steps"), "\n",
		","); got != "test 6,test 6,set 7,test 6,test 7,set 6,test 6,test 6," {
		t.Errorf("got steps %q", got)
	}
}
