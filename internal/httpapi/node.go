package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

const minLSNHeader = "X-Vault-Min-LSN"

var minLSNKey = http.CanonicalHeaderKey(minLSNHeader)

// node checks the replication of the local node before it is read.
type node struct {
	await  func(ctx context.Context, position vault.LSN, atMost time.Duration) error
	atMost time.Duration
	fresh  func() error // nil: no limit on how far it is behind
}

// parseMinLSN reads the position that the node must have replayed for this request.
func (q *request) parseMinLSN(n *node) error {
	q.node = n
	headers := q.http.Header[minLSNKey]
	if len(headers) == 0 {
		return nil
	}
	if len(headers) > 1 {
		return badRequest(minLSNHeader + " is given twice")
	}
	var err error
	if q.minLSN, err = vault.ParseLSN(headers[0]); err != nil {
		return badRequest(fmt.Sprintf("%s: %s", minLSNHeader, err))
	}
	return nil
}

// waitForReplay is called right before the node is read. Without the header it causes no statement.
func (q *request) waitForReplay(ctx context.Context) error {
	if q.minLSN > 0 {
		if err := q.node.await(ctx, q.minLSN, q.node.atMost); err != nil {
			return err
		}
	}
	if q.node != nil && q.node.fresh != nil {
		return q.node.fresh()
	}
	return nil
}
