package auditdb

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
)

// Log is the audit log. It is safe for concurrent use.
type Log struct {
	reader *db.Reader
	writer *db.Writer
}

// New returns the log of a node and its primary; the pools belong to the caller. Without a reader, only methods that
// use the primary work; without a writer, those that write are ErrUnavailable.
func New(reader *db.Reader, writer *db.Writer) *Log { return &Log{reader, writer} }

func (l *Log) primary() (*db.Writer, error) {
	if l.writer == nil {
		return nil, fmt.Errorf("%w: no primary is configured", db.ErrUnavailable)
	}
	return l.writer, nil
}

// IsPrimary reports whether the local node is the primary; for an old primary that came back it is ErrFenced.
func (l *Log) IsPrimary(ctx context.Context) (bool, error) { return l.reader.IsPrimary(ctx) }

// Cluster is the vault's id, which every copy of it has.
func (l *Log) Cluster(ctx context.Context) (uuid.UUID, error) {
	config, err := l.reader.Config(ctx)
	return config.ClusterID, err
}

// NodeName is the local node's cluster_name; "" if it has none.
func (l *Log) NodeName(ctx context.Context) (string, error) {
	return db.One[string](ctx, l.reader, `SELECT current_setting('cluster_name')`)
}
