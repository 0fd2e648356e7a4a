package rowcache

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/hyperiondb/vault/internal/db"
)

// shardCount spreads the names, so that requests on many processors seldom meet at one lock.
const shardCount = 64

// entryOverhead is about what an entry takes besides its rows: itself, and its place in the map.
const entryOverhead = 320

// shard has some of the names.
type shard struct {
	mu      sync.RWMutex
	entries map[string]*entry
	loads   map[string]*load
	// of all entries: the next to be evicted first, unless it was read meanwhile
	oldest, newest *entry

	hits atomic.Uint64
	_    [64]byte // keeps the counters of two shards out of one cache line
}

// entry is one secret: its live versions as a load found them. Constant but for read and the list.
type entry struct {
	name    string
	reading db.Reading
	began   int64 // before the load's query
	done    int64 // when the entry was made: a poll that began later has a later snapshot than the load
	ends    int64 // when the first grace ends, in nanoseconds of the node's clock; MaxInt64: none
	bytes   int64

	read atomic.Bool // since the eviction last passed

	older, newer *entry // guarded by the shard's mu
}

// load is a query for one name that is in flight.
type load struct {
	began  int64
	doomed bool  // guarded by the shard's mu
	next   *load // of the same name
}

func (s *shard) get(name string) *entry {
	s.mu.RLock()
	e := s.entries[name]
	s.mu.RUnlock()
	return e
}

// register is called before the query of a load, so that a poll which names what the query does not see yet dooms it.
func (s *shard) register(name string, began int64) *load {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &load{began: began, next: s.loads[name]}
	if s.loads == nil {
		s.loads = map[string]*load{}
	}
	s.loads[name] = l
	return l
}

// finish takes a load out, and is false if it was doomed. It is called with mu held.
func (s *shard) finish(name string, l *load) bool {
	first := s.loads[name]
	if first == l {
		if first = l.next; first == nil {
			delete(s.loads, name)
		} else {
			s.loads[name] = first
		}
		return !l.doomed
	}
	for at := first; at != nil; at = at.next {
		if at.next == l {
			at.next = l.next
			break
		}
	}
	return !l.doomed
}

// doom is called with mu held.
func (l *load) doom() {
	for ; l != nil; l = l.next {
		l.doomed = true
	}
}

// drop removes a name and dooms its loads. It returns the bytes that are free now, 0 if the name was not kept.
func (s *shard) drop(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads[name].doom()
	return s.remove(s.entries[name])
}

// dropAll removes every name and dooms all loads.
func (s *shard) dropAll() (bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.loads {
		l.doom()
	}
	for e := s.oldest; e != nil; e = e.newer {
		bytes += e.bytes
	}
	s.entries, s.oldest, s.newest = nil, nil, nil
	return bytes
}

// insert is called with mu held. It returns by how much the bytes have grown.
func (s *shard) insert(e *entry) int64 {
	freed := s.remove(s.entries[e.name])
	if s.entries == nil {
		s.entries = map[string]*entry{}
	}
	s.entries[e.name] = e
	s.append(e)
	return e.bytes - freed
}

// append and unlink are called with mu held.
func (s *shard) append(e *entry) {
	e.older, e.newer = s.newest, nil
	if s.newest != nil {
		s.newest.newer = e
	} else {
		s.oldest = e
	}
	s.newest = e
}

func (s *shard) unlink(e *entry) {
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		s.oldest = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		s.newest = e.older
	}
	e.older, e.newer = nil, nil
}

// remove is called with mu held; e may be nil.
func (s *shard) remove(e *entry) int64 {
	if e == nil {
		return 0
	}
	delete(s.entries, e.name)
	s.unlink(e)
	return e.bytes
}

// evict removes the oldest entry that was not read since the last time (second chance). It returns its bytes, 0 if the
// shard is empty.
func (s *shard) evict() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.oldest; e != nil; e = s.oldest {
		if !e.read.Swap(false) {
			return s.remove(e)
		}
		s.unlink(e)
		s.append(e)
	}
	return 0
}

// size is for metrics.
func (s *shard) size() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.entries)
}

func firstEnd(r db.Reading) int64 {
	if at, graced := r.FirstExpiry(); graced {
		return at.UnixNano()
	}
	return math.MaxInt64
}
