package db_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// argument has a good value of a parameter, and values that are refused, null and enormous ones among them. "any" says
// why every value of the type is accepted, or what it does.
type argument struct {
	good string
	bad  []refused
	any  string
}

// refused is a value in SQL, and the SQLSTATE of its error.
type refused struct{ value, code string }

// bounded is a function that a granted role may call, with all of its parameters.
type bounded struct {
	as     string // a role that may; with a token where admin
	admin  bool
	good   string // SQLSTATE of a call with good values, where there is nothing for it to find
	params map[string]argument
}

func takes(good string, bad ...refused) argument { return argument{good: good, bad: bad} }

func takesAny(good, why string) argument { return argument{good: good, any: why} }

// not lists values that get 22023.
func not(values ...string) (list []refused) {
	for _, v := range values {
		list = append(list, refused{v, "22023"})
	}
	return list
}

func code(code string, values ...string) (list []refused) {
	for _, v := range values {
		list = append(list, refused{v, code})
	}
	return list
}

// bytes is a bytea, and text a text, of n bytes.
func bytesOf(n int) string { return fmt.Sprintf(`decode(repeat('00', %d), 'hex')`, n) }
func textOf(n int) string  { return fmt.Sprintf(`repeat('x', %d)`, n) }

// windowRow is the rows of a batch: one, with the number 3.
func windowRow(earlier, own, readers string) string {
	return fmt.Sprintf(`'[{"at":"2026-01-02T00:00:00Z","seq":3,"action":"read","secret":"s",
		"request":"00000000-0000-7000-8000-000000000001","own":%s,"earlier":%s,"readers":%s}]'`, own, earlier, readers)
}

const (
	most   = "2147483647"
	least  = "-2147483648"
	newID  = "gen_random_uuid()"
	longer = "interval '170000000 years'"
)

// surfaceOfFunctions lists every function that vault_service, vault_worker, vault_auditor or PUBLIC may execute. A
// function or parameter that is missing here fails the test: add its bounds, and make it refuse other values.
func surfaceOfFunctions() map[string]bounded {
	service, worker, auditor := vaulttest.Operator, vaulttest.Daemon, vaulttest.Operator
	request := takes(newID, not("NULL")...)
	name := takes("'app1/a'", code(denied, "NULL")...)
	limit := takes("10", not("NULL", "-1", least, most)...)
	job := takesAny("99", "a job that is not there is a lost claim (VA002), or nothing")
	attempt := takesAny("1", "another attempt than the claim's is a lost claim (VA002), or nothing")
	return map[string]bounded{
		"replication_lag": {as: service}, "sealing_lag": {as: service}, "status": {as: service}, "health": {as: service},
		"replication": {as: service},
		"xmin_holder": {as: service},
		"challenge":   {as: service}, "my_token": {as: service, admin: true}, "list_tokens": {as: service, admin: true},
		"prepare_audit_prune": {as: service, admin: true}, "beat": {as: worker},
		"standbys": {as: service, params: map[string]argument{"p_lsn": takesAny("'0/0'", "it is compared")}},
		"_too_powerful": {as: service,
			params: map[string]argument{"p_role": takesAny("'app1'",
				"a role that is not there is none too powerful; a grant looks for it first")}},
		"create_app": {as: service, admin: true, params: map[string]argument{
			"p_name": takes("'app'",
				append(not("NULL", "''", textOf(65), textOf(1<<20)), code("23514", "'App'", "'a b'")...)...),
			"p_rules": takes(`'[{"pattern":"app1/*","actions":["read"]}]'`,
				append(not("NULL", "'{}'", "'null'", "'[null]'", "'[{}]'", `'[{"pattern":"a"}]'`,
					`'[{"pattern":"a","actions":["write"]}]'`, `'[{"pattern":"a","actions":[null]}]'`,
					`'[{"pattern":null,"actions":["read"]}]'`, "jsonb_build_array("+textOf(1<<20)+")",
					`(SELECT jsonb_agg(jsonb_build_object('pattern', 'a' || n, 'actions', jsonb_build_array('read')))
						FROM generate_series(1, 65) AS n)`),
					code("23514", `'[{"pattern":"a","actions":[]}]'`, `'[{"pattern":"a*","actions":["read"]}]'`,
						`'[{"pattern":"/*","actions":["read"]}]'`, `'[{"pattern":"a/../b","actions":["read"]}]'`)...)...),
			"p_credentials": takes("'[]'", append(not("NULL", "'{}'", "'[null]'", "'[{}]'", `'[{"kind":"jwt"}]'`,
				"(SELECT jsonb_agg(n) FROM generate_series(1, 9) AS n)", "jsonb_build_array("+textOf(1<<20)+")"),
				code("23514", strings.Replace(appCredential("token", ""), "token_sha256", "match", 1),
					appCredential("cert", ""))...)...),
			"p_request": request,
		}},
		"allow_app": {as: service, admin: true, good: "VA004", params: map[string]argument{
			"p_app": takes("'app'", not("NULL", "''", textOf(1<<20))...),
			"p_rules": takes(`'[{"pattern":"app1/*","actions":["read"]}]'`,
				not("NULL", "'[]'", "jsonb_build_array("+textOf(1<<20)+")")...),
			"p_request": request,
		}},
		"disallow_app": {as: service, admin: true, good: "VA004", params: map[string]argument{
			"p_app": takes("'app'", not("NULL", "''", textOf(1<<20))...),
			"p_patterns": takes("ARRAY['a']", not("NULL", "'{}'", "ARRAY[NULL]::text[]", "ARRAY['']", "ARRAY["+textOf(256)+"]",
				"array_fill('a'::text, ARRAY[65])")...),
			"p_request": request,
		}},
		"set_app_enabled": {as: service, admin: true, good: "VA004", params: map[string]argument{
			"p_app":     takes("'app'", not("NULL", "''", textOf(1<<20))...),
			"p_enabled": takes("false", not("NULL")...), "p_request": request,
		}},
		"delete_app": {as: service, admin: true, good: "VA004", params: map[string]argument{
			"p_app": takes("'app'", not("NULL", "''", textOf(1<<20))...), "p_request": request,
		}},
		"add_app_credential": {as: service, admin: true, good: "VA004", params: map[string]argument{
			"p_app":        takes("'app'", not("NULL", "''", textOf(1<<20))...),
			"p_credential": takes("'{}'", not("NULL", "jsonb_build_object('id', "+textOf(1<<20)+")")...), "p_request": request,
		}},
		"revoke_app_credential": {as: service, admin: true, good: "VA004", params: map[string]argument{
			"p_app": takes("'app'", not("NULL", "''", textOf(1<<20))...),
			"p_id":  takesAny(newID, "null: all of the app's"), "p_request": request,
		}},
		"ship_reads": {as: worker, params: map[string]argument{
			"p_node":      takes("'n'", not("NULL", "''", textOf(256))...),
			"p_boot":      takes(newID, not("NULL")...),
			"p_first_seq": takes("1", not("NULL", "0", "-1", "-9223372036854775808", "9223372036854775807")...),
			"p_lost":      takesAny("false", "null is false"),
			"p_previous": takes("ARRAY["+bytesOf(32)+"]", not("NULL", "'{}'", "ARRAY[NULL::bytea]", "ARRAY["+bytesOf(31)+"]",
				"ARRAY["+bytesOf(1<<20)+"]", "array_fill("+bytesOf(32)+", ARRAY[2])")...),
			"p_events": takes(`ARRAY['{"action":"read","outcome":"ok","at":"2026-01-01T00:00:00Z"}']`,
				not("ARRAY[NULL::text]", "ARRAY['']", "ARRAY["+textOf(16385)+"]", "ARRAY["+textOf(40<<20)+"]",
					"array_fill('{}'::text, ARRAY[10001])")...),
		}},
		"ship_windows": {as: worker, params: map[string]argument{
			"p_node":      takes("'n'", not("NULL", "''", textOf(256))...),
			"p_boot":      takes(newID, not("NULL")...),
			"p_first_seq": takes("1", not("NULL", "0", "-1", "2", "9223372036854775807")...),
			"p_next_seq":  takes("4", not("NULL", "0", "1", "3", "5", "1000002", "-9223372036854775808")...),
			"p_lost":      takesAny("false", "null is false"),
			"p_previous":  takes(bytesOf(32), not("NULL", bytesOf(31), bytesOf(1<<20))...),
			"p_last":      takes(bytesOf(32), not("NULL", bytesOf(31), bytesOf(1<<20))...),
			"p_seqs": takes("ARRAY[1]::bigint[]", not("NULL", "'{}'", "ARRAY[NULL]::bigint[]", "ARRAY[2]::bigint[]",
				"ARRAY[1, 2]::bigint[]", "ARRAY[[1]]::bigint[]")...),
			"p_events": takes(`ARRAY['{"action":"put","outcome":"ok","at":"2026-01-01T00:00:00Z"}']`,
				not("NULL", "ARRAY[NULL::text]", "ARRAY['']", "ARRAY["+textOf(16385)+"]", "array_fill('{}'::text, ARRAY[2])")...),
			"p_readers": takes(`'[{"actor":"client:192.0.2.1","client":"192.0.2.1","version":1,"detail":{}}]'`,
				append(not("NULL", "'[]'", "'{}'", "json_build_array("+textOf(17<<20)+")",
					`'[{"actor":"client:192.0.2.1","detail":{"match":"grace"}}]'`, `'[{"actor":"a","detail":{"a":[1]}}]'`,
					`'[{"actor":"a","detail":{"a":1e9}}]'`, `'[{"actor":"a","detail":[]}]'`),
					code("22P02", `'[{"actor":"a","client":"nowhere"}]'`)...)...),
			"p_rows": takes(windowRow("1", "1", "[1]"), append(not("NULL", "'[]'", "'{}'", windowRow("0", "1", "[1]"),
				windowRow("2", "1", "[1]"), windowRow("-1", "1", "[1]"), windowRow("1", "0", "[1]"), windowRow("1", "2", "[1]"),
				windowRow("1", "1", "[]"), windowRow("1", "1", "[2]"), windowRow("1", "1", "[null]"), windowRow("1", "1", "null"),
				windowRow("null", "1", "[1]")), code("22003", windowRow("9999999999", "1", "[1]"))...)...),
			"p_ago": takes("ARRAY[5]", not("NULL", "'{}'", "ARRAY[-1]", "ARRAY[60000001]", "ARRAY[NULL]::int[]", "ARRAY[1, 2]",
				"ARRAY[[5]]", "'[0:0]={5}'")...),
			"p_back":     takes("ARRAY[1]", not("NULL", "'{}'", "ARRAY[0]", "ARRAY[2]", "ARRAY[-1]", "ARRAY[NULL]::int[]")...),
			"p_requests": takes("ARRAY["+newID+"]", not("NULL", "'{}'", "ARRAY["+newID+", "+newID+"]")...),
			"p_reader":   takes("ARRAY[1]::smallint[]", not("NULL", "'{}'", "ARRAY[0]::smallint[]", "ARRAY[2]::smallint[]")...),
		}},
		"record_read": {as: service, params: map[string]argument{
			"p_action":  takes("'read'", not("NULL", "'put'", textOf(1<<20))...),
			"p_secret":  takes("'app1/a'", not("NULL", "''", textOf(1<<20))...),
			"p_version": takes("1", not("0", "-1", least)...),
			"p_outcome": takes("'ok'", not("NULL", "'maybe'", textOf(1<<20))...),
			"p_request": takesAny(newID, "null: it has none"),
			"p_detail":  takes("'{}'", not("NULL", "jsonb_build_object('x', "+textOf(1<<20)+")")...),
		}},
		"record_reads": {as: service,
			params: map[string]argument{"p_reads": takes(`'[{"action":"read","secret":"x","outcome":"ok","detail":{}}]'`,
				not("NULL", "'[]'", "'{}'", "'null'", "(SELECT jsonb_agg(n) FROM generate_series(1, 1001) AS n)", `'[null]'`,
					`'[{}]'`)...)}},
		"grace_report": {as: auditor, params: map[string]argument{
			"p_name":  takesAny("''", "a name that is not there has no versions, nor has null"),
			"p_exact": takesAny("false", "null is false; the rows are those that the caller may read"),
			"p_since": takesAny("'-infinity'", "null is from the beginning"),
		}},
		"authorize_proof": {as: service, good: badToken, params: map[string]argument{
			"p_token_id": takes(newID, code(badToken, "NULL")...),
			"p_proof":    takes(bytesOf(32), code(badToken, "NULL", "''", bytesOf(33), bytesOf(16<<20))...),
		}},
		"record_refusal": {as: service, params: map[string]argument{
			"p_action":   takes("'put'", not("NULL", "''", textOf(1<<20))...),
			"p_secret":   takesAny(textOf(1<<20), "cut to 255 characters; null: of none"),
			"p_reason":   takesAny(textOf(1<<20), "cut to 200 characters; null: of none"),
			"p_token_id": takesAny(newID, "a claim, null: none"),
			"p_request":  takesAny(newID, "null: it has none"),
		}},
		"put_version": {as: service, admin: true, params: map[string]argument{
			"p_action": takes("'put'", not("NULL", "'purge'", textOf(1<<20))...),
			"p_name": takes("'app1/new'", slices.Concat(code(denied, "NULL"),
				code("23514", "''", textOf(256), textOf(1<<20)))...),
			"p_sealed":            takesSealed("app1/new"),
			"p_request":           request,
			"p_create_only":       takesAny("false", "null is false"),
			"p_generator":         takes("'uuid'", code("23514", "''", textOf(1<<20))...),
			"p_rotation_interval": takes("'1 day'", not("'0'", "'-1 day'", longer)...),
			"p_grace_period":      takes("'1 day'", not("'-1 day'", longer)...),
			"p_rotator":           takes("''", code("23514", textOf(1<<20))...),
			"p_window":            takes("''", not("'x'", textOf(1<<20))...),
		}},
		"put_versions": {as: service, admin: true,
			params: map[string]argument{"p_puts": takes(`jsonb_build_array(jsonb_build_object('name', 'app1/m',
				'sealed', `+sealedRow("app1/m", 1, 24, 32)+`, 'request_id', `+newID+`))`,
				slices.Concat(not("NULL", "'[]'", "'{}'", "'null'", "(SELECT jsonb_agg(n) FROM generate_series(1, 1001) AS n)"),
					code(denied, `'[{}]'`))...)}},
		"update_secret": {as: service, admin: true, params: map[string]argument{
			"p_name": name, "p_request": request,
			"p_generator":         takes("'uuid'", code("23514", "''", textOf(1<<20))...),
			"p_rotation_interval": takes("'1 day'", not("'0'", "'-1 day'", longer)...),
			"p_grace_period":      takes("'1 day'", not("'-1 day'", longer)...),
			"p_manual":            takes("false", not("NULL")...),
			"p_no_rotation":       takes("false", not("NULL")...),
			"p_rotator":           takes("''", code("23514", textOf(1<<20))...),
			"p_window":            takes("''", not("'x'", textOf(1<<20))...),
		}},
		"end_grace": {as: service, admin: true, good: "VA004",
			params: map[string]argument{"p_name": name, "p_request": request,
				"p_version": takesAny("NULL", "null is all; one that is not in grace is not found")}},
		"request_rotation": {as: service, admin: true,
			params: map[string]argument{"p_name": takes("'app1/auto'", code(denied, "NULL")...), "p_request": request}},
		"retry_rotation": {as: service, admin: true, good: "VA004",
			params: map[string]argument{"p_name": name, "p_request": request}},
		"pause_rotation": {as: service, admin: true,
			params: map[string]argument{"p_name": takes("'app1/auto'", code(denied, "NULL")...), "p_request": request,
				"p_pause": takes("true", not("NULL")...)}},
		"set_max_rotations": {as: service, admin: true, params: map[string]argument{"p_request": request,
			"p_max": takes("NULL", code("23514", "-1", least, most)...)}},
		"set_retention": {as: service, admin: true, params: map[string]argument{"p_request": request,
			"p_job_days":     takes("1", code("23514", "0", "-1", "3651", least, most)...),
			"p_version_days": takes("1", code("23514", "0", "-1", "3651", least, most)...)}},
		"delete_secret": {as: service, admin: true, params: map[string]argument{"p_name": name, "p_request": request,
			"p_window": takes("'1 day'", not("NULL", "'-1 day'", longer)...)}},
		"restore_secret": {as: service, admin: true, good: "VA001",
			params: map[string]argument{"p_name": name, "p_request": request}},
		"purge_secret": {as: service, admin: true, params: map[string]argument{"p_name": name, "p_request": request}},
		"wrapped_keys": {as: service, admin: true, params: map[string]argument{
			"p_prefix":     takes("''", code(denied, "NULL")...),
			"p_exact":      takes("false", not("NULL")...),
			"p_kms_key_id": takes("'k'", not("NULL", "''", textOf(1<<20))...),
			"p_after":      takes("''", not("NULL", textOf(1<<20))...),
			"p_limit":      takes("10", not("NULL", "0", "-1", least, most)...),
		}},
		"rewrap": {as: service, admin: true, params: map[string]argument{"p_name": name, "p_request": request,
			"p_version":     takes("1", code("VA001", "NULL", "0", "-1", most)...),
			"p_job":         takes("NULL", code("VA001", "-1", "9223372036854775807")...),
			"p_old":         takes(`'\x01'`, slices.Concat(not("NULL"), code("VA001", "''", bytesOf(1<<20)))...),
			"p_kms_key_id":  takes("'new'", slices.Concat(code("23502", "NULL"), code("23514", "''", textOf(1<<20)))...),
			"p_wrapped_dek": takes(`'\x03'`, slices.Concat(not("NULL"), code("23514", "''", bytesOf(1<<20)))...),
		}},
		"create_token": {as: service, admin: true, params: map[string]argument{"p_request": request,
			"p_id": takes(newID, code("23502", "NULL")...),
			"p_name": takes("'t'", slices.Concat(code("23502", "NULL"),
				code("23514", "''", textOf(65), textOf(1<<20)))...),
			"p_sha256":     takes("sha256('x')", slices.Concat(not("NULL"), code("23514", "''", bytesOf(1<<20)))...),
			"p_scope":      takes("''", slices.Concat(code("23502", "NULL"), code("23514", textOf(1<<20)))...),
			"p_expires_at": takes("NULL", not("'infinity'", "'-infinity'", "'2000-01-01'", "'10000-01-01'")...),
		}},
		"revoke_token": {as: service, admin: true, good: "VA004", params: map[string]argument{"p_request": request,
			"p_name": takes("'none'", code("VA004", "NULL", textOf(1<<20))...)}},
		"grant_service_role": {as: service, admin: true, params: map[string]argument{"p_request": request,
			"p_role":   takes("'app1'", code("VA004", "NULL", "''", textOf(1<<20))...),
			"p_prefix": takes("'app1/'", code("23514", textOf(1<<20))...)}},
		"grant_worker_role": {as: service, admin: true, params: map[string]argument{"p_request": request,
			"p_role": takes("'app1'", code("VA004", "NULL", "''", textOf(1<<20))...)}},
		"grant_auditor_role": {as: service, admin: true, params: map[string]argument{"p_request": request,
			"p_role": takes("'app1'", code("VA004", "NULL", "''", textOf(1<<20))...)}},
		"revoke_service_role": {as: service, admin: true, params: map[string]argument{"p_request": request,
			"p_role":   takes("'app1'", code("VA004", "NULL", "''", textOf(1<<20))...),
			"p_prefix": takes("'app1/'", code("VA004", textOf(1<<20))...)}},
		"prune_audit": {as: service, admin: true, good: "VA004", params: map[string]argument{"p_request": request,
			"p_month": takes("'2020-01-01'",
				slices.Concat(not("NULL", "'infinity'", "'-infinity'", "'0044-03-01 BC'", "'2020-01-02'"),
					code("22008", "'5874897-01-01'"))...),
			"p_action":          takes("NULL", not("'audit.prune'")...),
			"p_rows":            takesAny("1", "it has to be the number of rows that are there"),
			"p_last_seal":       takesAny("1", "it has to be the last seal of the month"),
			"p_exported_sha256": takes("sha256('')", not("NULL")...),
			"p_seals":           takesAny("NULL", "there has to be one for each of the leaves"),
			"p_leaves":          takesAny("NULL", "they have to be 48 bytes for each of the rows"),
		}},

		"report_daemon": {as: worker, params: map[string]argument{
			"p_id":      takes(newID, not("NULL")...),
			"p_node":    takes("'n'", not("NULL", "''", textOf(256), textOf(1<<20))...),
			"p_version": takes("'1'", not("NULL", "''", textOf(129), textOf(1<<20))...),
			"p_commit":  takes("''", not("NULL", textOf(129), textOf(1<<20))...),
			"p_schema":  takes("13", not("NULL", "0", "-1", least, most)...),
		}},
		"forget_daemon": {as: worker,
			params: map[string]argument{"p_id": takesAny(newID, "one that is not there, or another role's, stays as it is")}},
		"supervise": {as: worker, params: map[string]argument{"p_limit": limit}},
		"report_round": {as: worker, params: map[string]argument{
			"p_part":  takes("'claim'", not("NULL", "''", "'purge'", textOf(1<<20))...),
			"p_error": takesAny(textOf(1<<20), "cut to 500 characters; null: the part works"),
		}},
		"odd_roles": {as: service},
		"revocation_holds": {as: service,
			params: map[string]argument{"p_since": takesAny("now()",
				"null is now; it only chooses which open transactions are named")}},
		"enqueue_due_rotations": {as: worker, params: map[string]argument{"p_limit": limit}},
		"expire_grace_versions": {as: worker, params: map[string]argument{"p_limit": limit}},
		"purge_deleted":         {as: worker, params: map[string]argument{"p_limit": limit}},
		"claim_rotations": {as: worker, params: map[string]argument{
			"p_worker": takes("'w'", not("NULL", "''", textOf(1<<20))...),
			"p_limit":  limit, "p_ahead": limit,
			"p_stale": takes("'1 hour'", not("NULL", "'0'", "'1 microsecond'", "'2.9 seconds'", "'-1 hour'", "'-1 mon'",
				"'1 mon -31 days'", "'25 hours'", longer)...),
		}},
		"complete_rotations": {as: worker, params: map[string]argument{
			"p_jobs":     takes("'{99}'", not("NULL", "'{}'", "'{99,98}'", "array_fill(99::bigint, ARRAY[10001])")...),
			"p_attempts": takes("'{1}'", not("NULL", "'{}'", "'{1,2}'")...),
			"p_sealed": takes("ARRAY["+sealedOf(sealedFields("app1/a"))+"]", slices.Concat(not("NULL", "'{}'",
				"array_fill("+sealedOf(sealedFields("app1/a"))+", ARRAY[2])"),
				code("23502", "ARRAY[NULL::vault.sealed_value]"))...),
			"p_requests": takes("ARRAY["+newID+"]", not("NULL", "'{}'", "ARRAY[NULL::uuid]")...),
			"p_wait":     takes("false", code("VA002", "true")...),
		}},
		"store_candidate": {as: worker, good: "VA002", params: map[string]argument{"p_job": job, "p_attempt": attempt,
			"p_sealed": takesAny(sealedOf(sealedFields("app1/a")),
				"a claim has to be held first; then the rules of the table")}},
		"rotation_candidate": {as: worker, params: map[string]argument{"p_job": job, "p_attempt": attempt}},
		"finish_rotation": {as: worker, good: "VA002",
			params: map[string]argument{"p_job": job, "p_attempt": attempt, "p_request": request}},
		"release_rotation": {as: worker, params: map[string]argument{"p_job": job, "p_attempt": attempt}},
		"fail_rotation": {as: worker, params: map[string]argument{"p_job": job, "p_attempt": attempt,
			"p_error":    takesAny(textOf(1<<20), "cut to 500 characters"),
			"p_retry_in": takes("NULL", not("'-1 second'", "'31 days'", longer)...),
		}},
		"next_audit_window": {as: worker,
			params: map[string]argument{"p_limit": takes("1000", not("NULL", "0", "-1", least, most)...)}},
		"audit_window": {as: worker, params: map[string]argument{
			"p_system": takesAny("0", "of another system there are no rows, nor of null"),
			"p_from":   takesAny("'0'", "it is compared"),
			"p_to":     takesAny("'1'", "it is compared"),
		}},
		"add_audit_seal": {as: worker,
			params: map[string]argument{"p_seal": takes(auditSeal("now()", "'k'"), slices.Concat(code("VA001", "NULL"),
				not(auditSeal("'infinity'", "'k'"), auditSeal("'-infinity'", "'k'"),
					auditSeal("now() - interval '2 hours'", "'k'"),
					auditSeal("now() + interval '2 minutes'", "'k'"), auditSeal("NULL", "'k'"), auditSeal("now()", "E'k\\x1b[2J'")),
				code("23514", auditSeal("now()", textOf(1<<20))))...)}},
	}
}

// sealedFields are the fields of vault.sealed_value with good values, in their order.
func sealedFields(name string) []string {
	return []string{"1", "1", "'k'", bytesOf(1), bytesOf(24), bytesOf(32), bytesOf(32), "'" + name + ":1'"}
}

func sealedOf(fields []string) string {
	return "ROW(" + strings.Join(fields, ", ") + ")::vault.sealed_value"
}

// takesSealed is a sealed value of a new secret, and the same with each field spoilt.
func takesSealed(name string) argument {
	all := takes(sealedOf(sealedFields(name)), not("NULL", "ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)")...)
	for field, bad := range [][]refused{
		slices.Concat(not("NULL", "0", "-1", least), code("VA001", "2", most)),
		not("NULL", "0", "-1", "32768", most),
		slices.Concat(code("23502", "NULL"), code("23514", "''", textOf(1<<20))),
		slices.Concat(not("NULL"), code("23514", "''", bytesOf(1<<20))),
		slices.Concat(not("NULL"), code("23514", "''", bytesOf(1<<20))),
		slices.Concat(not("NULL"), code("23514", "''", bytesOf(1<<20))),
		code("23514", "NULL", "''", bytesOf(1<<20)),
		slices.Concat(code("23502", "NULL"), code("23514", "''", textOf(1<<20))),
	} {
		for _, r := range bad {
			fields := sealedFields(name)
			fields[field] = r.value
			all.bad = append(all.bad, refused{sealedOf(fields), r.code})
		}
	}
	return all
}

// auditSeal covers all that can be sealed now.
func auditSeal(sealedAt, keyID string) string {
	return `(SELECT ROW(1, min(system_id), date_trunc('month', now() AT TIME ZONE 'UTC')::date, '0'::xid8, to_tx, count(*),
		min(id), max(id), sha256(''),
		sha256(convert_to('hyperiondb-vault/audit-chain/1', 'UTF8') || '\x00'::bytea ||
			uuid_send((SELECT cluster_id FROM vault.config))), sha256('x'),
		` + keyID + `, '\x00'::bytea, (` + sealedAt + `)::timestamptz,
		decode(repeat('00', 4 * count(*)::int), 'hex'))::vault.audit_seals
		FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS to_tx) AS w,
		LATERAL vault.audit_window((SELECT system_identifier FROM pg_control_system()), '0', w.to_tx) AS l GROUP BY to_tx)`
}

// call is a call with good values, except for one.
func (b bounded) call(function, param, value string) string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(b.params)) {
		good := b.params[name].good
		if name == param {
			good = value
		}
		args = append(args, name+" => "+good)
	}
	return "SELECT vault." + function + "(" + strings.Join(args, ", ") + ")"
}

// Every parameter of every function that a granted role may call has bounds. Without them, a negative lease made
// claim_rotations take over fresh claims, an expiry that no client can read hid every token, and a null switched
// rotation off.
func TestEveryParameterHasBounds(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "app1/a")
	mustPutAutomatic(t, store, "app1/auto")
	store.MustExec(t, `SELECT vault.supervise()`) // a month for the audit log
	surface := surfaceOfFunctions()
	checkListed(t, store, surface)
	conns := map[string]*pgx.Conn{}
	try := func(b bounded, sql string) (string, string) {
		conn := conns[b.as]
		if conn == nil {
			conn = mustConnect(t, store.URL(b.as))
			conns[b.as] = conn
		}
		must(t, runStep(t.Context(), conn, "BEGIN"))
		defer func() { must(t, runStep(t.Context(), conn, "ROLLBACK")) }()
		if b.admin {
			must(t, runStep(t.Context(), conn, "AUTHORISE"))
		}
		err := runStep(t.Context(), conn, sql)
		var server *pgconn.PgError
		if err != nil && !errors.As(err, &server) {
			t.Fatalf("%s: %v", sql, err)
		}
		if err == nil {
			return "", ""
		}
		return server.Code, server.Message
	}
	for function, b := range surface {
		if got, text := try(b, b.call(function, "", "")); got != b.good {
			t.Errorf("%s with good values: got %q %s, want %q", function, got, text, b.good)
		}
		for name, a := range b.params {
			for _, r := range a.bad {
				got, text := try(b, b.call(function, name, r.value))
				if got != r.code {
					t.Errorf("%s with %s = %.80s: got %q %s, want %s", function, name, r.value, got, text, r.code)
				}
			}
		}
	}
}

// checkListed compares the table with the functions that the server says may be called.
func checkListed(t *testing.T, store *vaulttest.Store, surface map[string]bounded) {
	t.Helper()
	rows, err := mustConnect(t, store.URL(vaulttest.Superuser)).Query(t.Context(), `SELECT p.proname::text,
			coalesce((SELECT array_agg(p.proargnames[n] ORDER BY n) FROM generate_subscripts(p.proargnames, 1) AS n
				WHERE p.proargmodes IS NULL OR p.proargmodes[n] IN ('i', 'b', 'v')), '{}')::text[]
		FROM pg_proc p WHERE p.pronamespace = 'vault'::regnamespace AND (
			EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0)
			OR EXISTS (SELECT FROM unnest(ARRAY['vault_service', 'vault_worker', 'vault_auditor']) AS r
			WHERE has_function_privilege(r, p.oid, 'EXECUTE')))`)
	must(t, err)
	seen := map[string]bool{}
	for rows.Next() {
		var function string
		var params []string
		must(t, rows.Scan(&function, &params))
		b, listed := surface[function]
		if !listed || seen[function] {
			t.Errorf("%s(%s) may be called and is not in the table, once", function, strings.Join(params, ", "))
		}
		seen[function] = true
		for _, p := range params {
			if a, listed := b.params[p]; !listed || (len(a.bad) > 0) == (a.any != "") {
				t.Errorf("%s: there is neither a value that parameter %s refuses, nor a reason why it takes any", function, p)
			}
		}
		if len(params) != len(b.params) {
			t.Errorf("%s takes %v, the table has %v", function, params, slices.Sorted(maps.Keys(b.params)))
		}
	}
	must(t, rows.Err())
	for function := range surface {
		if !seen[function] {
			t.Errorf("%s is in the table and may not be called", function)
		}
	}
}

// No argument of another worker ends a claim before it times out.
func TestALiveClaimIsNotTakenOver(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	worker := store.URL(vaulttest.Daemon)
	must(t, runSession(t, worker, []string{supervise, claimOne}))
	for _, stale := range []string{"-1 hour", "0", "-infinity", "3 mons -89 days", "-3 mons 91 days"} {
		// refused, or without effect
		_ = runSession(t, worker, []string{`SELECT vault.claim_rotations('thief', 1, '` + stale + `')`})
	}
	if got := store.MustQuery(t, `SELECT attempt || ' ' || claimed_by FROM vault.rotation_jobs`); got != "1 w" {
		t.Fatalf("got the claim %q, want the first one's", got)
	}
	ageClaims(t, store)
	must(t, runSession(t, worker, []string{claimLate}))
	if got := store.MustQuery(t, `SELECT attempt FROM vault.rotation_jobs`); got != "2" {
		t.Errorf("got attempt %s, want 2", got)
	}
}

// ageClaims makes all claims an hour older.
func ageClaims(t *testing.T, store *vaulttest.Store) {
	t.Helper()
	store.MustExec(t, `UPDATE vault.rotation_jobs SET claimed_at = claimed_at - interval '1 hour' WHERE state = 'claimed'`)
}
