package bucket

import (
	"context"
	"strings"
)

// MaxObject is the largest object of [Objects], in bytes.
const MaxObject = 32 << 20

// Objects keeps objects of any content under the prefix of a URI. It is safe for concurrent use.
type Objects struct{ remote }

// OpenObjects reads the AWS configuration and sends no request; ctx bounds that.
func OpenObjects(ctx context.Context, uri string) (*Objects, error) {
	return openObjects(ctx, uri, defaultTiming())
}

func openObjects(ctx context.Context, uri string, limits timing) (*Objects, error) {
	r, err := connect(ctx, uri, limits, MaxObject)
	if err != nil {
		return nil, err
	}
	return &Objects{r}, nil
}

func (o *Objects) key(path string) string { return strings.TrimPrefix(o.uri.prefix+"/"+path, "/") }

// Put puts a new object, and is [ErrThere] if there is one of its path.
func (o *Objects) Put(ctx context.Context, path string, content []byte) error {
	return o.putNew(ctx, o.key(path), "application/zstd", content)
}

// Get returns an object; of one that is larger than [MaxObject] a byte more than that.
func (o *Objects) Get(ctx context.Context, path string) ([]byte, error) {
	return o.getObject(ctx, o.key(path), MaxObject)
}

// List returns the paths of all objects that begin with a text, in order.
func (o *Objects) List(ctx context.Context, begin string) ([]string, error) {
	prefix := o.key(begin)
	own := len(prefix) - len(begin)
	var paths []string
	for after := prefix; ; {
		keys, more, err := o.listKeys(ctx, prefix, after)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			paths, after = append(paths, key[own:]), key
		}
		if !more {
			return paths, nil
		}
	}
}
