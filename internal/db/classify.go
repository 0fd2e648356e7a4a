package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs of the vault's own functions and of PostgreSQL (appendix A of its manual) that have a meaning here.
var kinds = map[string]error{
	"VA001":          ErrConflict,
	"VA002":          ErrClaimLost,
	"VA003":          ErrConflict,
	"VA004":          ErrNotFound,
	"VA005":          ErrDeleted,
	"VA006":          ErrBusy,    // a lock of the vault's is held: the text names the holder
	"28000":          ErrRefused, // invalid_authorization_specification: the token; or pg_hba.conf
	"28P01":          ErrRefused, // invalid_password
	"42501":          ErrRefused, // insufficient_privilege
	"22023":          ErrInvalid, // invalid_parameter_value
	"23514":          ErrInvalid, // check_violation
	"3D000":          ErrUnavailable,
	"3F000":          ErrNotInitialised, // invalid_schema_name
	"42P01":          ErrNotInitialised, // undefined_table
	"42883":          ErrSchema,         // undefined_function
	"25006":          ErrUnavailable,    // read_only_sql_transaction: not the primary (any more)
	lockNotAvailable: ErrBusy,
	"57014":          ErrUnavailable, // query_canceled: a timeout of the server's
	"40001":          ErrUnavailable, // serialization_failure, also "due to conflict with recovery" on a standby
	"40P01":          ErrUnavailable, // deadlock_detected
}

// classify turns an error of pgx into one of this package. It keeps the server's message, which in class VA is the
// vault's own, and drops DETAIL, which may quote a row.
func classify(err error) error {
	var known *Error
	var server *pgconn.PgError
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, ErrFenced) && errors.As(err, &connect):
		return &Error{Kind: ErrFenced, Text: "connecting to the primary: " + distinctLines(connect.Unwrap())}
	case errors.As(err, &known) && errors.As(err, &connect):
		return &Error{Kind: known.Kind, Text: "connecting to the database: " + distinctLines(connect.Unwrap()),
			Code: known.Code}
	case err == nil, errors.As(err, &known), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case errors.As(err, &server):
		return classifyServer(server)
	case errors.As(err, &connect):
		return &Error{Kind: ErrUnavailable, Text: "connecting to the database: " + distinctLines(connect.Unwrap())}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Kind: ErrUnavailable, Text: "the database did not answer in time"}
	default:
		return &Error{Kind: ErrUnavailable, Text: "talking to the database: " + oneLine(err)}
	}
}

func classifyServer(e *pgconn.PgError) error {
	kind, ok := kinds[e.Code]
	switch class := e.Code[:min(2, len(e.Code))]; {
	case ok:
	case isDisconnect(e), class == "53", class == "58": // insufficient resources, system error
		kind = ErrUnavailable
	case class == "22", class == "23":
		kind = ErrInvalid
	default:
		kind = fmt.Errorf("SQLSTATE %s", e.Code)
	}
	text := e.Message
	switch {
	case e.Code == "42501" && e.Routine == "aclcheck_error": // Message is in the server's language
		text = "the database role is not allowed to use the vault: " + text
	case e.Code == lockNotAvailable:
		text = "another session is changing it and has not finished"
	case e.Code == "23514":
		text = fmt.Sprintf("the database refused it: rule %q", e.ConstraintName)
	}
	return &Error{Kind: kind, Text: text, Code: e.Code}
}

// isDisconnect reports whether the server ends the session (class 08, operator intervention 57P01 to 57P05, or FATAL).
func isDisconnect(e *pgconn.PgError) bool {
	return strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "57P") || e.SeverityUnlocalized == "FATAL" ||
		e.SeverityUnlocalized == "PANIC"
}

// isDefinite reports whether the server itself reported that the transaction failed. Without that, a COMMIT may have
// succeeded.
func isDefinite(err error) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return !isDisconnect(server)
	}
	return errors.Is(err, pgx.ErrTxCommitRollback)
}

// validateFailed is pgconn's text before the error of a connection that was made and is not what the caller needs.
const validateFailed = "ValidateConnect failed: "

// distinctLines joins the errors of several hosts without repetition: with and without TLS, one host fails with the
// same text.
func distinctLines(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		line = strings.Replace(strings.TrimSpace(line), validateFailed, "", 1)
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
