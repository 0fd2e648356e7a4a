package access

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Action is what a rule allows.
type Action string

const (
	Read   Action = "read"   // values and metadata of a name
	Verify Action = "verify" // compare a presented value with the stored one
	List   Action = "list"   // names
)

// Actions are all actions, in the order they are shown.
var Actions = []Action{Read, Verify, List}

// DefaultActions are those of a rule that names none.
var DefaultActions = []Action{Read, Verify}

// ParseAction reads the name of an action.
func ParseAction(text string) (Action, error) {
	if a := Action(text); slices.Contains(Actions, a) {
		return a, nil
	}
	return "", fmt.Errorf("%q is not an action: want read, verify or list", text)
}

// Kind is the kind of a credential.
type Kind string

const (
	ByToken Kind = "token"
	ByCert  Kind = "cert"
	ByUnix  Kind = "unix"
)

// Anonymous is the app whose rules hold for clients without a credential.
const Anonymous = "anonymous"

// Snapshot is every app of a node at one epoch.
type Snapshot struct {
	Epoch uuid.UUID
	Apps  []App
}

// App has a name of 1 to 64 bytes, see [CheckAppName].
type App struct {
	Name        string
	DisabledAt  *time.Time // nil = not disabled
	Rules       []Rule
	Credentials []Credential // revoked and expired ones too, so that a refusal can say which it was
}

// Rule allows the actions on every name that the pattern covers.
type Rule struct {
	Pattern Pattern
	Actions []Action
}

// Credential of an app. At most one that is not revoked has the same kind and match.
type Credential struct {
	ID          uuid.UUID // of a token: the id in its text
	Kind        Kind
	TokenSHA256 [32]byte       // of a token: SHA-256 of its secret part
	Match       string         // of the others, see ParseMatch
	Networks    []netip.Prefix // from which it may be used; none = any
	CreatedAt   time.Time
	ExpiresAt   *time.Time // nil = never
	RevokedAt   *time.Time // nil = not revoked
}

// maxAppName is the longest name of an app in bytes.
const maxAppName = 64

// CheckAppName returns nil if an app can have this name: 1 to 64 of a-z 0-9 - _ . with a letter or digit first. The
// name is shown in metrics and the audit log.
func CheckAppName(name string) error {
	if len(name) < 1 || len(name) > maxAppName {
		return fmt.Errorf("the name of an app has 1 to %d characters, not %d", maxAppName, len(name))
	}
	for i := range len(name) {
		c := name[i]
		word := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !word && (i == 0 || c != '-' && c != '_' && c != '.') {
			return fmt.Errorf(`the name of an app has a-z, 0-9, "-", "_" and ".", a letter or digit first: not %q at offset %d`,
				name[i:i+1], i)
		}
	}
	return nil
}
