package patroni

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	etcdProgram    = "/usr/bin/etcd"
	patroniProgram = "/usr/bin/patroni"
	binaries       = "/usr/lib/postgresql/15/bin"

	// Superuser is PostgreSQL's, with the cluster's password.
	Superuser = "postgres"
)

// Cluster is an etcd and three members.
type Cluster struct {
	Members []*Member

	dir      string
	user     runAs
	password string // of every role
	etcd     *process
	etcdPort int
}

// Start makes a cluster and waits until it is ready. The caller closes it.
func Start(ctx context.Context) (*Cluster, error) {
	c := &Cluster{password: rand.Text()}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) (err error) {
	for _, program := range []string{etcdProgram, patroniProgram, pgbouncerProgram, filepath.Join(binaries, "postgres")} {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("%w\nhint: tools/install-patroni; tools/install-postgres 15", err)
		}
	}
	if c.user, err = chooseUser(); err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "patroni"); err != nil {
		return err
	}
	if err := os.Chown(c.dir, c.user.uid, c.user.gid); err != nil {
		return err
	}
	ports, err := freePorts(11)
	if err != nil {
		return err
	}
	if err := c.startEtcd(ports[0], ports[1]); err != nil {
		return err
	}
	for i := range 3 {
		c.Members = append(c.Members, &Member{Name: fmt.Sprintf("node%d", i+1), cluster: c, port: ports[2+3*i],
			restPort: ports[3+3*i], poolPort: ports[4+3*i]})
	}
	for _, m := range c.Members {
		if err := c.user.makeFolder(m.folder()); err != nil {
			return err
		}
		if err := m.Start(); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

func (c *Cluster) startEtcd(clients, peers int) (err error) {
	c.etcdPort = clients
	client, peer := "http://"+address(clients), "http://"+address(peers)
	c.etcd, err = c.user.start(c.dir, etcdProgram, "--name", "etcd", "--data-dir", filepath.Join(c.dir, "etcd"),
		"--log-level", "warn", "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "etcd="+peer)
	return err
}

// freePorts finds unused ports. All are held until the last is found, so no two are the same.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// Close ends all processes at once and removes the data.
func (c *Cluster) Close() error {
	var errs []error
	for _, m := range c.Members {
		errs = append(errs, m.end())
	}
	if c.etcd != nil {
		c.etcd.end(syscall.SIGTERM, 5*time.Second)
	}
	if c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// URL names every member; clients find the one that takes writes.
func (c *Cluster) URL(database, role string) string {
	var hosts []string
	for _, m := range c.Members {
		hosts = append(hosts, address(m.port))
	}
	return c.url(database, role, hosts, url.Values{"target_session_attrs": {"read-write"}, "connect_timeout": {"2"}})
}

func (c *Cluster) url(database, role string, hosts []string, query url.Values) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, c.password), Host: strings.Join(hosts, ","),
		Path: "/" + database, RawQuery: query.Encode()}
	return u.String()
}

// CreateLogin makes a database role that may log in with the cluster's password.
func (c *Cluster) CreateLogin(ctx context.Context, role string) error {
	return c.exec(ctx, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'`, pgx.Identifier{role}.Sanitize(), c.password))
}

// CreateDatabase makes a database that the superuser owns.
func (c *Cluster) CreateDatabase(ctx context.Context, name string) error {
	return c.exec(ctx, `CREATE DATABASE `+pgx.Identifier{name}.Sanitize())
}

func (c *Cluster) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres", Superuser))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// Leader returns the member that leads, by the members' REST APIs; nil if they know none.
func (c *Cluster) Leader(ctx context.Context) *Member {
	for _, asked := range c.Members {
		state, err := asked.state(ctx)
		if err != nil {
			continue
		}
		for _, m := range c.Members {
			if state.role(m.Name) == "leader" && m.server().pid != 0 {
				return m
			}
		}
	}
	return nil
}

// WaitReady waits for a leader with two streaming replicas, one of them synchronous and known to etcd as such: without
// it no member takes over from a leader that dies.
func (c *Cluster) WaitReady(ctx context.Context) error {
	err := until(ctx, "there is a leader with two streaming replicas, one of them synchronous", func() (bool, string) {
		leader := c.Leader(ctx)
		if leader == nil {
			return false, "no leader"
		}
		state, err := leader.state(ctx)
		if err != nil {
			return false, err.Error()
		}
		streaming, err := leader.streaming(ctx)
		if err != nil {
			return false, err.Error()
		}
		return state.count("sync_standby") == 1 && streaming == len(c.Members)-1,
			fmt.Sprintf("%+v, %d streaming", state.Members, streaming)
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.logs())
	}
	return nil
}

// Switchover moves leadership to the synchronous standby and returns the old leader.
func (c *Cluster) Switchover(ctx context.Context) (*Member, error) {
	leader := c.Leader(ctx)
	if leader == nil {
		return nil, errors.New("no leader to switch over from")
	}
	if err := leader.switchover(ctx); err != nil {
		return leader, err
	}
	return leader, c.waitOther(ctx, leader)
}

// KillLeader kills the leader's Patroni and its server, and waits until another member leads. The killed one stays
// down until it is started.
func (c *Cluster) KillLeader(ctx context.Context) (*Member, error) {
	leader := c.Leader(ctx)
	if leader == nil {
		return nil, errors.New("no leader to kill")
	}
	if err := leader.Kill(ctx); err != nil {
		return leader, err
	}
	return leader, c.waitOther(ctx, leader)
}

func (c *Cluster) waitOther(ctx context.Context, old *Member) error {
	err := until(ctx, "another member than "+old.Name+" leads and takes writes", func() (bool, string) {
		m := c.Leader(ctx)
		if m == nil || m == old {
			return false, "no new leader"
		}
		recovering, err := m.inRecovery(ctx)
		return err == nil && !recovering, fmt.Sprintf("%s leads, in recovery %t, error %v", m.Name, recovering, err)
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.logs())
	}
	return nil
}

func (c *Cluster) logs() string {
	var all []string
	if c.etcd != nil {
		all = append(all, "etcd:\n"+c.etcd.tail())
	}
	for _, m := range c.Members {
		if m.patroni != nil {
			all = append(all, m.Name+":\n"+m.patroni.tail())
		}
	}
	return strings.Join(all, "\n")
}
