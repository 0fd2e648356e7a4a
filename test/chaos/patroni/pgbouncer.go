package patroni

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"
)

const pgbouncerProgram = "/usr/sbin/pgbouncer"

// pgbouncerSettings are for transaction mode, to one member alone: the client finds the one that takes writes. A dead
// server is noticed in seconds instead of minutes.
const pgbouncerSettings = `[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = transaction
server_round_robin = 1
min_pool_size = 3
default_pool_size = 5
server_connect_timeout = 2
server_login_retry = 1
query_wait_timeout = 3
`

// StartPoolers starts a pgbouncer beside every member, for the roles given.
func (c *Cluster) StartPoolers(ctx context.Context, roles ...string) error {
	users := ""
	for _, role := range roles {
		users += fmt.Sprintf("%q %q\n", role, c.password)
	}
	for _, m := range c.Members {
		list, settings := m.folder()+"/pgbouncer.users", m.folder()+"/pgbouncer.ini"
		if err := c.user.writeFile(list, []byte(users)); err != nil {
			return err
		}
		if err := c.user.writeFile(settings, fmt.Appendf(nil, pgbouncerSettings, m.port, m.poolPort, list)); err != nil {
			return err
		}
		var err error
		if m.pgbouncer, err = c.user.start(m.folder(), pgbouncerProgram, settings); err != nil {
			return err
		}
	}
	return until(ctx, "every pgbouncer listens", func() (bool, string) {
		for _, m := range c.Members {
			conn, err := net.DialTimeout("tcp", address(m.poolPort), time.Second)
			if err != nil {
				return false, err.Error() + "\n" + m.pgbouncer.tail()
			}
			conn.Close()
		}
		return true, ""
	})
}

// PooledURL names every pgbouncer; clients find that of the leader.
func (c *Cluster) PooledURL(database, role string) string {
	var hosts []string
	for _, m := range c.Members {
		hosts = append(hosts, address(m.poolPort))
	}
	return c.url(database, role, hosts, url.Values{"target_session_attrs": {"read-write"}, "connect_timeout": {"2"}})
}
