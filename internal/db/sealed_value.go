package db

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// SealedValue is one value of a secret, encrypted: what put_version, store_candidate and complete_rotations store as a
// vault.sealed_value.
//
// The parameters of statements are of built-in types. A parameter of the type itself would have its oid, which each
// connection would have to look up, again after DROP EXTENSION.
type SealedValue struct {
	Version    int
	Format     int
	KMSKeyID   string
	WrappedDEK []byte
	Nonce      []byte
	Ciphertext []byte
	KeyCommit  []byte
	AAD        string
}

// sealedRow is a sealed value whose fields are the first eight parameters of a statement.
const sealedRow = `ROW($1, $2, $3, $4, $5, $6, $7, $8)::vault.sealed_value`

func (v SealedValue) fields() []any {
	return []any{v.Version, v.Format, v.KMSKeyID, v.WrappedDEK, v.Nonce, v.Ciphertext, v.KeyCommit, v.AAD}
}

// quoteField escapes a text in the literal of a row.
var quoteField = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// literal is the value in the text form of a row, for a statement with many of them. It has two bytes for each, which
// costs a put of 64 KB a quarter more of the server's time than sealedRow.
func (v SealedValue) literal() string {
	var b strings.Builder
	b.Grow(64 + len(v.KMSKeyID) + len(v.AAD) +
		2*(len(v.WrappedDEK)+len(v.Nonce)+len(v.Ciphertext)+len(v.KeyCommit)))
	b.WriteString("(" + strconv.Itoa(v.Version) + "," + strconv.Itoa(v.Format) + `,"` + quoteField.Replace(v.KMSKeyID))
	for _, field := range [][]byte{v.WrappedDEK, v.Nonce, v.Ciphertext, v.KeyCommit} {
		b.WriteString(`","\\x`)
		_, _ = hex.NewEncoder(&b).Write(field) // a Builder takes everything
	}
	b.WriteString(`","` + quoteField.Replace(v.AAD) + `")`)
	return b.String()
}
