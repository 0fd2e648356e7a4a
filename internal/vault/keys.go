package vault

import (
	"context"
	"sync"

	"github.com/hyperiondb/vault/internal/envelope"
)

// DeferKeys opens the keys when they are first needed, and tries again when that failed: a command that needs no key
// opens none, and a daemon starts while the database that names its key does not answer.
func DeferKeys(open func(context.Context) (Keys, error)) Keys {
	return &deferredKeys{open: open}
}

type deferredKeys struct {
	open func(context.Context) (Keys, error)
	mu   sync.Mutex
	keys Keys
}

func (d *deferredKeys) get(ctx context.Context) (Keys, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keys == nil {
		keys, err := d.open(ctx)
		if err != nil {
			return nil, err
		}
		d.keys = keys
	}
	return d.keys, nil
}

func (d *deferredKeys) NewDataKey(ctx context.Context,
	kc envelope.KeyContext) (*envelope.DataKey, envelope.WrappedKey, error) {
	keys, err := d.get(ctx)
	if err != nil {
		return nil, envelope.WrappedKey{}, err
	}
	return keys.NewDataKey(ctx, kc)
}

func (d *deferredKeys) Unwrap(ctx context.Context, w envelope.WrappedKey,
	kc envelope.KeyContext) (*envelope.DataKey, error) {
	keys, err := d.get(ctx)
	if err != nil {
		return nil, err
	}
	return keys.Unwrap(ctx, w, kc)
}
