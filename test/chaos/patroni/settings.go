package patroni

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// A leader that does not renew its key for ttl seconds has lost it. Patroni asks for loop_wait + 2*retry_timeout <=
// ttl.
const (
	ttl          = 8
	loopWait     = 1
	retryTimeout = 3
)

type tree = map[string]any

// settings is a member's configuration. Patroni reads YAML, and JSON is YAML.
func (m *Member) settings() ([]byte, error) {
	c := m.cluster
	hba := []string{"local all all trust", "host all all 127.0.0.1/32 scram-sha-256",
		"host replication all 127.0.0.1/32 scram-sha-256"}
	login := func(user string) tree { return tree{"username": user, "password": c.password} }
	return json.MarshalIndent(tree{
		"scope": "vault", "name": m.Name,
		"etcd3":   tree{"host": address(c.etcdPort)},
		"restapi": tree{"listen": address(m.restPort), "connect_address": address(m.restPort)},
		"bootstrap": tree{
			"dcs": tree{
				"ttl": ttl, "loop_wait": loopWait, "retry_timeout": retryTimeout, "maximum_lag_on_failover": 1 << 20,
				"synchronous_mode": true,
				"postgresql": tree{"use_pg_rewind": true, "use_slots": true, "parameters": tree{
					// only a crash of the machine loses data by it, not a killed process
					"wal_log_hints": "on", "max_connections": 100, "fsync": "off",
				}},
			},
			"initdb": []any{"data-checksums", tree{"encoding": "UTF8"}, tree{"locale": "C"}},
			"pg_hba": hba,
		},
		"postgresql": tree{
			"listen": address(m.port), "connect_address": address(m.port), "bin_dir": binaries, "data_dir": m.data(),
			"pgpass":         filepath.Join(m.folder(), "pgpass"),
			"authentication": tree{"superuser": login(Superuser), "replication": login("replicator")},
			"parameters":     tree{"unix_socket_directories": m.folder()},
			"pg_hba":         hba,
		},
	}, "", "  ")
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
