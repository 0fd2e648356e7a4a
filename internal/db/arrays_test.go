package db_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// The arrays arrive as they were, empty ones too, and those of pgx's own types beside them, however a session sends its
// parameters.
func TestArraysArrive(t *testing.T) {
	config, err := pgx.ParseConfig(vaulttest.New(t).URL(vaulttest.Superuser))
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		config.DefaultQueryExecMode = mode
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(t.Context()) })
		db.RegisterArrays(conn)
		ids := db.UUIDArray{{1, 15: 2}, {}, {255, 15: 255}}
		for _, ids := range []db.UUIDArray{ids, {}, ids[:1]} {
			n := len(ids)
			twos, fours := db.Int2Array{1, -32768, 32767}[:n], db.Int4Array{Elements: []int32{-2147483648, 0, 2147483647}[:n]}
			fours.Ahead = ids.Size() + twos.Size()
			var got [4]string
			err := conn.QueryRow(t.Context(), `SELECT $1::int[]::text, $2::uuid[]::text, $3::smallint[]::text, $4::int[]::text`,
				fours, ids, twos, fours.Elements).Scan(&got[0], &got[1], &got[2], &got[3])
			if err != nil {
				t.Fatalf("%s: %v", mode, err)
			}
			var want [4]string
			switch n {
			case 0:
				want = [4]string{"{}", "{}", "{}", "{}"}
			case 1:
				want = [4]string{"{-2147483648}", "{01000000-0000-0000-0000-000000000002}", "{1}", "{-2147483648}"}
			default:
				want = [4]string{"{-2147483648,0,2147483647}", "{01000000-0000-0000-0000-000000000002," +
					"00000000-0000-0000-0000-000000000000,ff000000-0000-0000-0000-0000000000ff}", "{1,-32768,32767}",
					"{-2147483648,0,2147483647}"}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", mode, diff)
			}
		}
	}
}
