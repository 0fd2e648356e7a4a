package scripttest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// machines are servers of PostgreSQL made by hand, under the names that a page gives to machines: each has an address
// of its own on loopback, and all have one port. A machine's commands run as the user of its server.
type machines struct {
	r    *reader
	user *syscall.Credential // nil: the caller
	port int
}

// theirHBA lets the vault's roles in from every machine, and leaves replication to the page.
const theirHBA = `local all all trust
local replication postgres trust
host all postgres,owner,operator,landlord,vaultd,app,drill 127.0.0.0/8 trust
`

func (r *reader) machines(names ...string) *machines {
	r.t.Helper()
	m := &machines{r: r, user: r.serverUser()}
	l, err := net.Listen("tcp", m.address(0)+":0")
	if err != nil {
		r.t.Fatal(err)
	}
	m.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	r.setenv("PGPORT", strconv.Itoa(m.port), "PGUSER", "postgres", "PGCONNECT_TIMEOUT", "10",
		"PGCTLTIMEOUT", "110") // less than an attempt may take
	for i, name := range names {
		host, folder := m.address(i+1), filepath.Join(r.dir, name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			r.t.Fatal(err)
		}
		r.giveTo(m.user, folder)
		r.on[name] = []string{"MACHINE=" + name, "PGDATABASE=postgres", "PGHOST=" + folder, "PGDATA=" + folder + "/data",
			"ADDRESS=" + host}
		where := regexp.MustCompile(`(@|,|host=|-h |")` + regexp.QuoteMeta(name) + `([,:/ "?]|$)`)
		r.rename = append(r.rename, rename{where, "${1}" + host + "${2}"})
	}
	// pg_ctl as each machine has it: its own address, and a log.
	r.program("pg_ctl", `case " $* " in
*" start "*|*" restart "*) exec `+clientPrograms+`/pg_ctl -l "$PGDATA.log" -o "-c listen_addresses=$ADDRESS \
-c port=$PGPORT -c unix_socket_directories=$PGHOST -c cluster_name=$MACHINE -c fsync=off -c shared_buffers=16MB" \
"$@" ;;
*) exec `+clientPrograms+`/pg_ctl "$@" ;;
esac`)
	r.t.Cleanup(func() {
		for _, name := range names {
			m.stop(name)
		}
	})
	return m
}

// address is that of a machine. If another test program has the same, their ports differ.
func (m *machines) address(n int) string { return ownLoopback(n + 1) }

// ownLoopback is an address of loopback that seldom another test program has: up to 255 of them.
func ownLoopback(n int) string { return fmt.Sprintf("127.%d.0.%d", 64+os.Getpid()%128, n) }

// create makes a server with nothing in it, and starts it.
func (m *machines) create(name string) {
	m.r.t.Helper()
	m.command(name, `initdb -U postgres -A trust -N --no-instructions >/dev/null
echo '`+theirHBA+`' > $PGDATA/pg_hba.conf
echo wal_log_hints=on >> $PGDATA/postgresql.conf`)
	m.start(name)
}

func (m *machines) start(name string) {
	m.r.t.Helper()
	m.command(name, m.r.dir+"/bin/pg_ctl -w start >/dev/null")
}

// stop ends a server at once, as a power cut does.
func (m *machines) stop(name string) {
	m.r.t.Helper()
	m.command(name, "if [ -e $PGDATA/postmaster.pid ]; then pg_ctl -m immediate -w stop >/dev/null; fi")
}

// command runs one as the user of the machine's server.
func (m *machines) command(name, commands string) string {
	m.r.t.Helper()
	cmd := exec.Command("sh", "-euc", commands)
	cmd.Dir, cmd.Env = "/", append(append([]string{}, m.r.environ...), m.r.on[name]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: m.user}
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.r.t.Fatalf("on %s: %v\n%s\n%s", name, err, commands, out)
	}
	return string(out)
}

// configure adds a part of a file of a server's settings, and makes the server take it.
func (m *machines) configure(name, file, text string) {
	m.r.t.Helper()
	m.command(name, "cat >> $PGDATA/"+file+" <<'END'\n"+text+"END\n"+m.r.dir+"/bin/pg_ctl -w -m fast restart >/dev/null")
}

// serverUser is the user that runs servers: the caller, or for root, as which PostgreSQL does not start, the user of
// Debian's package.
func (r *reader) serverUser() *syscall.Credential {
	r.t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	found, err := user.Lookup("postgres")
	if err != nil {
		r.t.Fatal(err)
	}
	uid, errUser := strconv.ParseUint(found.Uid, 10, 32)
	gid, errGroup := strconv.ParseUint(found.Gid, 10, 32)
	if err := errors.Join(errUser, errGroup); err != nil || uid == 0 {
		r.t.Fatalf("the user postgres has the id %q: %v", found.Uid, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// vaultdProgram makes vaultd a program that goes on in the background when it is given a configuration, as a unit does,
// and systemctl one that stops and starts it.
func (r *reader) vaultdProgram(config string) {
	r.t.Helper()
	binary := filepath.Join(r.h.bin, "vaultd")
	if r.as != nil { // who may not enter the folder of the built commands
		binary = r.dir + "/bin/.vaultd"
		r.copyBinary("vaultd", binary)
	}
	r.named(`(?m)^vaultd --config`, r.dir+"/bin/vaultd --config") // a page's PATH may have the other first
	pid := r.dir + "/vaultd.pid"
	timers, err := filepath.Glob(filepath.Join(r.h.module, "deploy", "*.timer"))
	if err != nil || len(timers) == 0 {
		r.t.Fatalf("got timers %q, %v", timers, err)
	}
	var units []string
	for _, timer := range timers {
		name := strings.TrimSuffix(filepath.Base(timer), ".timer")
		units = append(units, `"enable --now `+name+`.timer"`, `"edit `+name+`.service"`)
	}
	r.program("vaultd", `case "${1-}" in --config) ;; *) exec `+binary+` "$@" ;; esac
rm -f `+r.dir+`/addresses
nohup `+binary+` "$@" >> `+r.dir+`/vaultd.log 2>&1 &
echo $! > `+pid+`
n=0
until [ -s `+r.dir+`/addresses ]; do
  n=$((n+1)); [ $n -lt 600 ] || { tail -5 `+r.dir+`/vaultd.log; exit 1; }; sleep 0.1
done`)
	r.program("systemctl", `stopped() { ! kill -0 $(cat `+pid+`) 2>/dev/null; }
case "$*" in
"stop vaultd") kill $(cat `+pid+`); until stopped; do sleep 0.05; done ;;
"start vaultd") exec vaultd --config `+config+` ;;
`+strings.Join(units, "|")+`) ;;
*) echo "unknown: $*" >&2; exit 1 ;;
esac`)
	r.t.Cleanup(func() {
		if text, err := os.ReadFile(pid); err == nil {
			if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL) // it may have ended
			}
		}
	})
}

func (r *reader) copyBinary(name, to string) {
	r.t.Helper()
	content, err := os.ReadFile(filepath.Join(r.h.bin, name))
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}
