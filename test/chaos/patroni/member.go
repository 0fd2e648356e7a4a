package patroni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const lookTimeout = 2 * time.Second // of one query to a member that may be dead

// Member is one Patroni and its server.
type Member struct {
	Name string

	cluster   *Cluster
	port      int
	restPort  int
	poolPort  int
	patroni   *process
	pgbouncer *process // nil before StartPoolers
}

func (m *Member) folder() string     { return filepath.Join(m.cluster.dir, m.Name) }
func (m *Member) data() string       { return filepath.Join(m.folder(), "data") }
func (m *Member) server() postmaster { return findPostmaster(m.data()) }

// URL names this member only, leader or not.
func (m *Member) URL(database, role string) string {
	return m.cluster.url(database, role, []string{address(m.port)}, url.Values{"connect_timeout": {"2"}})
}

// Start starts Patroni, which starts the server: as a replica of the leader, if there is one.
func (m *Member) Start() error {
	settings, err := m.settings()
	if err != nil {
		return err
	}
	path := filepath.Join(m.folder(), "patroni.yml")
	if err := m.cluster.user.writeFile(path, settings); err != nil {
		return err
	}
	m.patroni, err = m.cluster.user.start(m.folder(), patroniProgram, path)
	return err
}

// Kill ends Patroni first, or it would start its server again.
func (m *Member) Kill(ctx context.Context) error {
	m.patroni.end(syscall.SIGKILL, lookTimeout)
	return m.server().kill(ctx)
}

func (m *Member) end() error {
	for _, p := range []*process{m.pgbouncer, m.patroni} {
		if p != nil {
			p.end(syscall.SIGKILL, lookTimeout)
		}
	}
	return m.server().end()
}

// state is the cluster by the member's REST API.
type state struct {
	Members []struct {
		Name  string `json:"name"`
		Role  string `json:"role"`
		State string `json:"state"`
	} `json:"members"`
}

func (s state) role(name string) string {
	for _, m := range s.Members {
		if m.Name == name {
			return m.Role
		}
	}
	return ""
}

func (s state) count(role string) (n int) {
	for _, m := range s.Members {
		if m.Role == role {
			n++
		}
	}
	return n
}

func (m *Member) state(ctx context.Context) (s state, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	body, err := m.rest(ctx, http.MethodGet, "/cluster", nil)
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

func (m *Member) switchover(ctx context.Context) error {
	_, err := m.rest(ctx, http.MethodPost, "/switchover", []byte(fmt.Sprintf(`{"leader": %q}`, m.Name)))
	return err
}

func (m *Member) rest(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+address(m.restPort)+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s of %s: %s: %s", method, path, m.Name, response.Status, bytes.TrimSpace(answer))
	}
	return answer, err
}

// streaming counts the replicas that stream from this member.
func (m *Member) streaming(ctx context.Context) (n int, err error) {
	err = m.queryValue(ctx, `SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'`, &n)
	return n, err
}

func (m *Member) inRecovery(ctx context.Context) (recovering bool, err error) {
	err = m.queryValue(ctx, `SELECT pg_is_in_recovery()`, &recovering)
	return recovering, err
}

func (m *Member) queryValue(ctx context.Context, sql string, into any) error {
	return m.queryValueIn(ctx, "postgres", sql, into)
}

func (m *Member) queryValueIn(ctx context.Context, database, sql string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, m.URL(database, Superuser))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return conn.QueryRow(ctx, sql).Scan(into)
}
