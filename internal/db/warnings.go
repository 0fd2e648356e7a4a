package db

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const warningKey = "hyperiondb-vault: warning" // in a connection's CustomData

// keepWarning is the OnNotice of every connection: it keeps the last warning. The text is in the server's language, so
// only its presence counts. It runs while the connection reads, and shares nothing with other goroutines.
func keepWarning(conn *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" {
		conn.CustomData()[warningKey] = oneLine((*pgconn.PgError)(n))
	}
}

func forgetWarning(conn *pgx.Conn) { delete(conn.PgConn().CustomData(), warningKey) }

// lastWarning is the last warning since forgetWarning; "" for none.
func lastWarning(conn *pgx.Conn) string {
	text, _ := conn.PgConn().CustomData()[warningKey].(string)
	return text
}
