package chaos

import (
	"context"
	"fmt"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

// Cluster says how the workload and the oracle reach the vault under test. It does not change during a run: clients
// find the present primary among the hosts of the connection strings, and a restarted vaultd has its old address.
type Cluster struct {
	Nodes        []Node
	WriteURL     string // names every node; a role that may write, and read the audit log
	SuperuserURL string // names every node; for moving due times, and for the oracle
	KMSKeys      []string
	Token        vault.Token
	Vaultctl     string   // the binary; "" = no writer uses it
	VaultctlEnv  []string // its whole environment, with the token, the database and the key
	Synchronous  bool     // an acknowledged write is on a standby
}

// Node is one server with its vaultd.
type Node struct {
	Name      string
	DaemonURL string // of vaultd's API
	ServerURL string // of its own server, as a superuser; "" = the workload has no apps
}

// primary is a vault that reads from the primary as well.
type primary struct {
	*vault.Vault
	close func()
}

func (c Cluster) openPrimary(ctx context.Context, conns int) (primary, error) {
	options := db.Options{URL: c.WriteURL, ApplicationName: "chaos", MaxConns: conns}
	writer, err := db.NewWriter(ctx, options)
	if err != nil {
		return primary{}, err
	}
	reader, err := db.NewReader(ctx, options) // the connection string itself asks for a read-write session
	if err != nil {
		writer.Close()
		return primary{}, err
	}
	ring, err := kms.OpenKeyring(ctx, c.KMSKeys)
	if err != nil {
		writer.Close()
		reader.Close()
		return primary{}, fmt.Errorf("opening the keys: %w", err)
	}
	v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring})
	return primary{v, func() { v.Close(); _ = ring.Close(); reader.Close(); writer.Close() }}, nil
}
