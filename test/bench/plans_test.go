package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// What auto_explain writes, between other entries: further lines begin with a tab.
const planLog = "2026-07-01 10:00:00.000 UTC [7] planner@many LOG:  duration: 0.031 ms  plan:\n" +
	"\t{\n\t  \"Query Text\": \"SELECT 1\\n FROM vault.secrets\",\n\t  \"Plan\": {\n" +
	"\t    \"Node Type\": \"Limit\", \"Actual Rows\": 1.00, \"Actual Loops\": 1,\n" +
	"\t    \"Shared Hit Blocks\": 4, \"Shared Read Blocks\": 1,\n" +
	"\t    \"Plans\": [{\"Node Type\": \"Index Scan\", \"Relation Name\": \"secrets\", \"Index Name\": " +
	"\"secrets_name_key\", \"Actual Rows\": 3, \"Rows Removed by Filter\": 2, \"Actual Loops\": 2}]\n\t  }\n\t}\n" +
	"\tCONTEXT:  SQL function \"x\"\n" +
	"2026-07-01 10:00:00.001 UTC [7] planner@many CONTEXT:  SQL function \"x\" statement 1\n" +
	"2026-07-01 10:00:00.002 UTC [7] planner@many LOG:  duration: 0.1 ms  plan:\n" +
	"\t{\"Query Text\": \"DELETE FROM vault.tx_context\", \"Plan\": {\"Node Type\": " +
	"\"ModifyTable\", \"Relation Name\": \"tx_context\", \"Actual Loops\": 1,\n" +
	"\t \"Plans\": [{\"Node Type\": \"Seq Scan\", \"Relation Name\": \"tx_context\", " +
	"\"Actual Rows\": 1, \"Actual Loops\": 1}]}}\n" +
	"2026-07-01 10:00:00.003 UTC [8] LOG:  checkpoint starting: time\n"

func TestPlansAreReadFromTheLog(t *testing.T) {
	plans, err := readPlans([]byte(planLog))
	if err != nil {
		t.Fatal(err)
	}
	if len(plans) != 2 || plans[0].Query != "SELECT 1\n FROM vault.secrets" || plans[0].buffers() != 5 ||
		plans[0].Plan.Plans[0].Index != "secrets_name_key" {
		t.Fatalf("got %+v", plans)
	}
	if _, err := readPlans([]byte(strings.Replace(planLog, `"Plan": {`, `"Plan": [`, 1))); err == nil {
		t.Error("half a plan was read")
	}
}

func TestAPlanThatGrowsIsRefused(t *testing.T) {
	plans, err := readPlans([]byte(planLog))
	if err != nil {
		t.Fatal(err)
	}
	if err := plans[0].check(10); err != nil { // (3 + 2) rows, twice
		t.Errorf("ten rows along an index: %v", err)
	}
	if err := plans[0].check(9); err == nil || !strings.Contains(err.Error(),
		"Index Scan of secrets looks at 10 rows, more than 9, in SELECT 1 FROM vault.secrets") {
		t.Errorf("got %v", err)
	}
	if err := plans[1].check(1000); err == nil || !strings.Contains(err.Error(), "Seq Scan of tx_context") {
		t.Errorf("got %v", err)
	}
	if err := checkPlans(append(plans, plans...), operation{rowsRead: 1000}); err == nil ||
		strings.Count(err.Error(), "tx_context, in") != 1 {
		t.Errorf("the same plan twice: got %v", err)
	}
	if err := checkPlans(nil, operation{rowsRead: 1000}); err == nil {
		t.Error("no plan at all is none that is right")
	}
	for relation, refused := range map[string]bool{"config": false, "audit_log_default": false, "audit_log_2026_07": true,
		"rotation_jobs": true} {
		p := planned{Plan: planNode{Type: "Parallel Seq Scan", Relation: relation}}
		if err := p.check(10); (err != nil) != refused {
			t.Errorf("%s: got %v", relation, err)
		}
	}
}

func TestScaleUsageIsRefused(t *testing.T) {
	for _, args := range [][]string{{"-secrets", "999"}, {"-rounds", "0"}, {"more"}, {"-slice", "1ms"}, {"-times", "0"}} {
		var progress strings.Builder
		if _, err := parseScale(args, &progress); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// In a small vault and one five times as large, no operation has a plan that grows with the vault.
func TestScaleFromEndToEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "scale.json")
	var out, progress strings.Builder
	if err := run(t.Context(), []string{"scale", "-secrets", "5000", "-rounds", "1", "-slice", "100ms", "-times", "1",
		"-json", file}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	var got scaleReport
	mustReadJSON(t, file, &got)
	if len(got.Reads) != 12 || len(got.Aims) != len(scaleAims()) || len(got.Sizes) == 0 || len(got.Tables) == 0 {
		t.Errorf("got %d rows of reads, %d verdicts, %d sizes and %d tables", len(got.Reads), len(got.Aims), len(got.Sizes),
			len(got.Tables))
	}
	if want := len(operations(&store{secrets: smallVault})); len(got.Operations) != want {
		t.Errorf("got %d operations, want %d", len(got.Operations), want)
	}
	for _, o := range got.Operations {
		if o.Micros.Median <= 0 || o.FewMicros.Median <= 0 || o.ManyBuffers <= 0 || !strings.Contains(out.String(), o.Name) {
			t.Errorf("%s cost nothing, or is not in the table: %+v", o.Name, o)
		}
	}
}
