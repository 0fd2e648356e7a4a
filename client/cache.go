package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Cache keeps the values over a restart of the program. What it is given holds them in the clear. Save is called by one
// goroutine at a time.
type Cache interface {
	Load() ([]byte, error) // nil, nil: nothing is kept yet
	Save(content []byte) error
}

// File is a cache in a file of mode 0600, which is replaced as a whole. Loading refuses a file that its group or others
// can read or write, and one of another user. Each program has a file of its own, in a folder that only it writes.
func File(path string) Cache { return cacheFile(path) }

type cacheFile string

const maxCache = 64 << 20

// errExposed ends New: the values in the file are known to others, and an operator should hear it.
var errExposed = errors.New("others can read it")

func (c cacheFile) Load() ([]byte, error) {
	f, err := os.Open(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%q is no regular file", string(c))
	case exposed(info):
		return nil, fmt.Errorf("%w: %q has mode %04o or another owner; hint: rotate its secrets, then rm %q", errExposed,
			string(c), info.Mode().Perm(), string(c))
	}
	return io.ReadAll(io.LimitReader(f, maxCache))
}

func (c cacheFile) Save(content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(string(c)), filepath.Base(string(c))+".*.partial") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), string(c))
	}
	return err
}

type cacheContent struct {
	Format  int                   `json:"format"`
	Secrets map[string]cacheEntry `json:"secrets"`
}

type cacheEntry struct {
	Value          []byte    `json:"value"`
	Version        int       `json:"version"`
	VersionID      string    `json:"version_id"`
	CreatedAt      time.Time `json:"created_at"`
	NextRotationAt time.Time `json:"next_rotation_at"`
	Seen           time.Time `json:"seen_at"` // when vaultd last confirmed it
}

const cacheFormat = 1

// loadCache puts the cached values of the names into their secrets, without a claim that they are current.
func loadCache(cache Cache, secrets map[string]*Secret) error {
	content, err := cache.Load()
	if err != nil || content == nil {
		return err
	}
	var c cacheContent
	if err := json.Unmarshal(content, &c); err != nil || c.Format != cacheFormat {
		return errors.New("it is not a cache of this package") // without err, which may quote it
	}
	for name, e := range c.Secrets {
		if s := secrets[name]; s != nil && e.Version > 0 && isID(e.VersionID) {
			s.get().value = newValue(&stored{value: e.Value, version: e.Version, id: e.VersionID, createdAt: e.CreatedAt,
				nextRotationAt: e.NextRotationAt})
			s.get().seen = e.Seen
		}
	}
	return nil
}

func saveCache(cache Cache, secrets map[string]*Secret) error {
	c := cacheContent{Format: cacheFormat, Secrets: map[string]cacheEntry{}}
	for name, s := range secrets {
		now := s.get()
		now.mu.Lock()
		v, seen := now.value.stored(), now.seen
		now.mu.Unlock()
		if v != nil {
			c.Secrets[name] = cacheEntry{Value: v.value, Version: v.version, VersionID: v.id, CreatedAt: v.createdAt,
				NextRotationAt: v.nextRotationAt, Seen: seen}
		}
	}
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return cache.Save(content)
}
