package chaos

import (
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Outcome is the answer to a write.
type Outcome string

const (
	Acked   Outcome = "acked"   // done
	Failed  Outcome = "failed"  // not done
	Unknown Outcome = "unknown" // may have been done: the vault said so, or the writer was killed
)

// Hash is the hash of a value.
type Hash [sha256.Size]byte

// Write is one put or rotate.
type Write struct {
	Action   string // put or rotate
	Name     string
	Expect   int // the version that it follows; -1 = any
	Hash     Hash
	Outcome  Outcome
	Request  uuid.UUID // zero: vaultctl was killed, or failed, before it printed one
	Version  int       // if acknowledged
	Called   time.Time
	Returned time.Time
	Client   int
	Why      string // of a failure, for the report
}

// Read is one read that was answered.
type Read struct {
	Node     string // "" = the primary, through a writer's own connection
	Name     string
	Version  int // 0 = there is no such secret
	Hash     Hash
	Called   time.Time
	Returned time.Time
	Client   int
}

// Attempt is one read through a node's vaultd, whether or not it was answered.
type Attempt struct {
	Node     string
	Called   time.Time
	Returned time.Time
	Err      string // "" = answered
}

// Due is a moment at which a secret was made due, once the database had acknowledged it.
type Due struct {
	Name string
	At   time.Time
}

// AppChange is the creation of an app with its one token, or the revocation of that token.
type AppChange struct {
	Action   string // create or revoke
	App      string
	Token    uuid.UUID // the public id
	Prepared bool      // made before the run: every node has it, and it is never revoked
	Outcome  Outcome
	Called   time.Time
	Returned time.Time
	Why      string // of a failure
}

// Standing is what a node's own server shows of a token.
type Standing string

const (
	Unseen  Standing = "" // the server did not answer
	Absent  Standing = "absent"
	Live    Standing = "live"
	Revoked Standing = "revoked"
)

// AppRead is one read with an app's token through a node's vaultd.
type AppRead struct {
	Node   string
	App    string
	Token  uuid.UUID
	Name   string
	Own    bool // the app's rule covers the name
	Status int  // 0 = no answer

	// What the node's server showed before the request and after its answer, in one session. A session does not outlive
	// its server, so the server has neither restarted nor been replaced in between. If it has, After is Unseen.
	Before, After Standing
	Standby       bool

	Called   time.Time // after Before was seen
	Returned time.Time
}

// Ledger holds the answers that clients got. It is safe for concurrent use.
type Ledger struct {
	mu       sync.Mutex
	writes   []Write
	reads    []Read
	attempts []Attempt
	dues     []Due

	appChanges []AppChange
	appReads   []AppRead
}

func (l *Ledger) wrote(w Write) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes = append(l.writes, w)
}

func (l *Ledger) read(r Read) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads = append(l.reads, r)
}

func (l *Ledger) attempted(a Attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, a)
}

func (l *Ledger) due(d Due) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dues = append(l.dues, d)
}

func (l *Ledger) changedApp(c AppChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appChanges = append(l.appChanges, c)
}

func (l *Ledger) readAsApp(r AppRead) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appReads = append(l.appReads, r)
}

// AppChanges returns every change of an app so far.
func (l *Ledger) AppChanges() []AppChange {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.appChanges)
}

// AppReads returns every read with an app's token so far.
func (l *Ledger) AppReads() []AppRead {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.appReads)
}

// Writes returns every write so far.
func (l *Ledger) Writes() []Write {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.writes)
}

// Reads returns every answered read so far.
func (l *Ledger) Reads() []Read {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.reads)
}

// Attempts returns every read through vaultd so far.
func (l *Ledger) Attempts() []Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.attempts)
}

// Dues returns every due time so far.
func (l *Ledger) Dues() []Due {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.dues)
}
