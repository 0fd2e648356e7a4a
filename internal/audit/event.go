package audit

import (
	"errors"
	"time"
)

// ErrUnrecorded refuses an action that must be on record and cannot be recorded.
var ErrUnrecorded = errors.New("it cannot be put on record")

// Outcome is the result of an event.
type Outcome string

const (
	OK     Outcome = "ok"
	Denied Outcome = "denied" // the client, token or role may not do that
	Failed Outcome = "failed"
)

// Actions of events that do not belong to a change.
const (
	Read   = "read"
	Verify = "verify" // detail: valid, match (current or grace)

	// Of clients of the KV version 2 API.
	Describe = "describe" // a secret's versions and times, without a value
	List     = "list"     // the names in a folder; detail: folder, count
	Identify = "identify" // what a credential or mount is; recorded if it was refused

	Gap        = "audit.gap"        // reads of a node that are lost; detail: from, to
	Unreadable = "audit.unreadable" // an event of a node that the database cannot read; detail: boot, seq, reason, event
	SpoolBegun = "audit.spool"      // a spool began without records: a new node, or an emptied folder
	TornTail   = "audit.torn_tail"  // a record half written at a crash was cut off; detail: segment, bytes
	Damaged    = "audit.damaged"    // a segment that cannot be read whole was set aside; detail: segment, reason
	Unrecorded = "audit.unrecorded" // reads that were answered all the same (audit_on_failure = "allow"); detail: count
	Refused    = "audit.refused"    // refusals that were counted, not listed; detail: count
)

// Event is one audit event.
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
