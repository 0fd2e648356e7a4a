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

// Ledger holds the answers that clients got. It is safe for concurrent use.
type Ledger struct {
	mu       sync.Mutex
	writes   []Write
	reads    []Read
	attempts []Attempt
	dues     []Due
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
