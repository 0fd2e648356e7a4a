package target

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hyperiondb/vault/internal/rotation"
)

// shapePassword makes the value of a role's secret. Of a pair, the role that the value in force does not name gets the
// next password; other fields of that value (a host, a database) are kept.
func (s Spec) shapePassword(current, generated []byte) ([]byte, error) {
	if err := checkPassword(generated); err != nil {
		return nil, err
	}
	if !s.isPair() {
		return bytes.Clone(generated), nil
	}
	if current == nil {
		return appendLogin(s.roles[0], generated, nil), nil
	}
	inForce, err := readLogin(current)
	defer clear(inForce.password)
	if err != nil {
		return nil, s.noRoleInForce(err)
	}
	return appendLogin(s.otherRole(inForce.user), generated, inForce.others), nil
}

// otherRole is the role of a pair that readers do not use.
func (s Spec) otherRole(inUse string) string {
	if inUse == s.roles[0] {
		return s.roles[1]
	}
	return s.roles[0]
}

// roleToAlter is the role that Set will alter.
func (s Spec) roleToAlter(c rotation.Change) (string, error) {
	switch {
	case !s.isPair():
		return s.roles[0], nil
	case c.Candidate != nil:
		role, password, err := s.splitCandidate(c.Candidate)
		clear(password)
		return role, err
	case c.Current == nil:
		return s.roles[0], nil
	}
	inForce, err := readLogin(c.Current)
	clear(inForce.password)
	if err != nil {
		return "", s.noRoleInForce(err)
	}
	return s.otherRole(inForce.user), nil
}

// noRoleInForce is the error for a value in force that names no role: altering the role in use would end its login.
func (s Spec) noRoleInForce(err error) error {
	return fmt.Errorf(`the value in force %w; put {"username":%q,"password":"..."} with what is in use now`,
		err, s.roles[0])
}

// appendLogin writes the JSON into one buffer that never grows, so that no copy of the password is left.
func appendLogin(user string, password []byte, others map[string]json.RawMessage) []byte {
	room := len(`{"username":,"password":}`) + jsonRoom([]byte(user)) + jsonRoom(password)
	for name, raw := range others {
		room += len(",:") + jsonRoom([]byte(name)) + len(raw)
	}
	value := append(make([]byte, 0, room), `{"username":`...)
	value = appendJSON(value, []byte(user))
	value = append(value, `,"password":`...)
	value = appendJSON(value, password)
	for _, name := range slices.Sorted(maps.Keys(others)) {
		value = append(value, ',')
		value = appendJSON(value, []byte(name))
		value = append(value, ':')
		value = append(value, others[name]...)
	}
	return append(value, '}')
}

// login is a pair's value.
type login struct {
	user     string
	password []byte
	others   map[string]json.RawMessage // all other fields
}

// readLogin reads a pair's value. Errors repeat nothing of it. The caller wipes the password.
func readLogin(value []byte) (login, error) {
	var l login
	if json.Unmarshal(value, &l.others) != nil || l.others == nil {
		return login{}, errors.New("is not a JSON object")
	}
	var password string
	defer clear(l.others["password"])
	if json.Unmarshal(l.others["username"], &l.user) != nil || l.user == "" {
		return login{}, errors.New("names no username")
	}
	if json.Unmarshal(l.others["password"], &password) != nil {
		return login{}, errors.New("has no password")
	}
	delete(l.others, "username")
	delete(l.others, "password")
	l.password = []byte(password)
	return l, nil
}

// splitCandidate returns the role and the password of a candidate. The caller wipes the password.
func (s Spec) splitCandidate(candidate []byte) (role string, password []byte, err error) {
	if !s.isPair() {
		return s.roles[0], bytes.Clone(candidate), checkPassword(candidate)
	}
	l, err := readLogin(candidate)
	if err != nil {
		return "", nil, fmt.Errorf("the candidate %w", err)
	}
	if !slices.Contains(s.roles[:], l.user) {
		return "", l.password, fmt.Errorf("the candidate is for role %q, which the rotator no longer names", l.user)
	}
	return l.user, l.password, checkPassword(l.password)
}
