package audit

import (
	"errors"
	"time"
)

// ErrUnrecorded is the refusal of whatever has to be on record and cannot be put there.
var ErrUnrecorded = errors.New("it cannot be put on record")

// Outcome is how it ended.
type Outcome string

const (
	OK     Outcome = "ok"
	Denied Outcome = "denied" // somebody was refused
	Failed Outcome = "failed"
)

// Actions that have no change to go with.
const (
	Read   = "read"
	Verify = "verify" // detail: valid, match (current or grace)

	Gap        = "audit.gap"        // reads of a node that are lost; detail: from, to
	Unreadable = "audit.unreadable" // an event of a node that the database cannot read; detail: boot, seq, reason, event
	SpoolBegun = "audit.spool"      // a spool with no past: a new node, or a folder somebody emptied
	TornTail   = "audit.torn_tail"  // what a crash left half written was cut off; detail: segment, bytes
	Damaged    = "audit.damaged"    // a segment that does not read whole was set aside; detail: segment, reason
	Unrecorded = "audit.unrecorded" // reads that were answered all the same (audit_on_failure = "allow"); detail: count
	Refused    = "audit.refused"    // refusals that were counted, not listed; detail: count
)

// Event is one thing that happened.
type Event struct {
	At        time.Time      `json:"at"`
	Actor     string         `json:"actor"`            // client:ADDRESS, worker:ID, token:NAME, ...
	Client    string         `json:"client,omitempty"` // address; "" over a unix socket
	Node      string         `json:"node,omitempty"`
	Action    string         `json:"action"`
	Secret    string         `json:"secret,omitempty"`
	Version   int            `json:"version,omitempty"`
	Outcome   Outcome        `json:"outcome"`
	RequestID string         `json:"request_id,omitempty"`
	Detail    map[string]any `json:"detail,omitempty"`
}
