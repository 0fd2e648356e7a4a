package main

import (
	"context"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/httpapi"
)

// nodeApps are the apps of the local node.
type nodeApps struct{ reader *db.Reader }

var _ httpapi.Apps = nodeApps{}

func (n nodeApps) ReadSnapshot(ctx context.Context) (access.Snapshot, error) {
	return accessdb.ReadSnapshot(ctx, n.reader)
}

func (n nodeApps) ReadEpoch(ctx context.Context) (uuid.UUID, error) {
	return accessdb.ReadEpoch(ctx, n.reader)
}
