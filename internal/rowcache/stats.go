package rowcache

import (
	"sync/atomic"
	"time"
)

// reason is why rows were dropped.
type reason int

const (
	named       reason = iota // by a poll
	changedHere               // by this process
	outdated                  // a read has shown something newer
	evicted                   // to make room
	newSession                // and from here on all rows: the first poll of a feed
	overflow                  // more changes than one poll may name
	belowFloor                // the feed no longer reaches back to the last poll
	newScope                  // the role may read other names
	namedAll                  // a change that may concern any name
	lost                      // the feed, or a poll of it, failed
	closed                    // the cache
	reasons
)

var reasonNames = [reasons]string{"named", "changed_here", "outdated", "evicted", "session", "overflow", "floor",
	"scope", "any_name", "lost", "closed"}

type counters struct {
	loads, polls, waited, survived atomic.Uint64

	drops      [reasons]atomic.Uint64 // of one row
	dropsOfAll [reasons]atomic.Uint64
}

// Stats are counts since the start, and what is kept now.
type Stats struct {
	Hits     uint64 // reads that were answered from memory
	Loads    uint64 // queries for a row to be kept
	Polls    uint64
	Waited   uint64 // reads that the node did not answer at once, because it was away
	Survived uint64 // reads that were answered from memory while it was away, and not confirmed

	Dropped    map[string]uint64 // rows, by reason
	DroppedAll map[string]uint64 // how often all rows were dropped, by reason

	Rows  int
	Bytes int64

	Following bool          // polls name changes, and rows are kept
	Confirmed time.Duration // since the newest confirmation, if Following. Without reads it grows: there are no polls
	Trouble   string        // why rows are not kept; "" also while a feed is being opened
	Surviving bool          // reads of kept rows go on though the node is away
}

// Stats for metrics.
func (c *Cache) Stats() Stats {
	s := Stats{Loads: c.stats.loads.Load(), Polls: c.stats.polls.Load(), Waited: c.stats.waited.Load(),
		Survived: c.stats.survived.Load(), Bytes: c.bytes.Load(), Following: c.following.Load() != nil,
		Dropped: map[string]uint64{}, DroppedAll: map[string]uint64{}}
	for i := range c.shards {
		s.Hits += c.shards[i].hits.Load()
		s.Rows += c.shards[i].size()
	}
	for why := range reasons {
		if why < newSession {
			s.Dropped[reasonNames[why]] = c.stats.drops[why].Load()
		} else if why != closed {
			s.DroppedAll[reasonNames[why]] = c.stats.dropsOfAll[why].Load()
		}
	}
	now := c.now()
	if confirmed := c.confirmed.Load(); confirmed != nil {
		s.Confirmed = time.Duration(now - confirmed.at)
		s.Surviving = c.survives(confirmed, now)
	}
	c.mu.Lock()
	s.Trouble = c.trouble
	c.mu.Unlock()
	return s
}
