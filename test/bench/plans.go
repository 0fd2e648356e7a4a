package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// planner is a login like the daemon's whose every statement, those inside functions too, leaves its plan in the
// server's log.
const planner = "planner"

var plannerSettings = []string{
	`ALTER ROLE planner SET session_preload_libraries = 'auto_explain'`,
	`ALTER ROLE planner SET auto_explain.log_min_duration = 0`,
	`ALTER ROLE planner SET auto_explain.log_analyze = on`,
	`ALTER ROLE planner SET auto_explain.log_buffers = on`,
	`ALTER ROLE planner SET auto_explain.log_timing = off`,
	`ALTER ROLE planner SET auto_explain.log_nested_statements = on`,
	`ALTER ROLE planner SET auto_explain.log_format = 'json'`,
}

// planned is a statement as the server ran it.
type planned struct {
	Query string   `json:"Query Text"`
	Plan  planNode `json:"Plan"`
}

type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Index    string     `json:"Index Name"`
	Rows     float64    `json:"Actual Rows"` // of one loop
	Filtered float64    `json:"Rows Removed by Filter"`
	Loops    float64    `json:"Actual Loops"`
	Hit      float64    `json:"Shared Hit Blocks"`
	Read     float64    `json:"Shared Read Blocks"`
	Plans    []planNode `json:"Plans"`
}

func (n planNode) all(yield func(planNode) bool) bool {
	if !yield(n) {
		return false
	}
	for _, child := range n.Plans {
		if !child.all(yield) {
			return false
		}
	}
	return true
}

// buffers are the pages that a statement read, without those of the functions that it called, which have plans of
// their own.
func (p planned) buffers() float64 { return p.Plan.Hit + p.Plan.Read }

// large are the tables that grow with the vault or with its use, if only by dead rows: no plan may read one of them
// whole.
var large = regexp.MustCompile(
	`^(secrets|secret_versions|rotation_jobs|rotation_candidates|requests|tx_context|audit_log_[0-9].*)$`)

// check refuses a plan that grows with the vault: one that reads a large table whole, or more than rows rows of an
// index.
func (p planned) check(rows float64) error {
	var errs []error
	p.Plan.all(func(n planNode) bool {
		touched := (n.Rows + n.Filtered) * n.Loops
		switch {
		case strings.Contains(n.Type, "Seq Scan") && large.MatchString(n.Relation):
			errs = append(errs, fmt.Errorf("%s of %s", n.Type, n.Relation))
		case large.MatchString(n.Relation) && touched > rows:
			errs = append(errs, fmt.Errorf("%s of %s looks at %.0f rows, more than %.0f", n.Type, n.Relation, touched, rows))
		}
		return true
	})
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w, in %s", errors.Join(errs...), strings.Join(strings.Fields(p.Query), " "))
}

// plansOf returns the plans that the statements of work leave in the log.
func (s *env) plansOf(ctx context.Context, work func() error) ([]planned, error) {
	path := s.cluster.Primary().LogFile()
	before, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := work(); err != nil {
		return nil, err
	}
	mark := fmt.Sprintf("bench: the plans until %d", time.Now().UnixNano())
	if err := s.exec(ctx, fmt.Sprintf(`DO $$ BEGIN RAISE LOG '%s'; END $$`, mark)); err != nil {
		return nil, err
	}
	var text []byte
	err = poll(ctx, startTimeout, shortPause, func() (bool, error) {
		text, err = readFrom(path, before.Size())
		return bytes.Contains(text, []byte(mark)), err
	})
	if err != nil {
		return nil, err
	}
	return readPlans(text)
}

func readFrom(path string, offset int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// readPlans finds plans in the log: an entry that ends its first line with "plan:", and its further lines, which begin
// with a tab.
func readPlans(log []byte) ([]planned, error) {
	var plans []planned
	for {
		_, rest, found := bytes.Cut(log, []byte(" plan:\n"))
		if !found {
			return plans, nil
		}
		end := 0
		for end < len(rest) && rest[end] == '\t' {
			if n := bytes.IndexByte(rest[end:], '\n'); n >= 0 {
				end += n + 1
			} else {
				end = len(rest)
			}
		}
		var p planned
		if err := json.NewDecoder(bytes.NewReader(rest[:end])).Decode(&p); err != nil { // what follows a plan is left
			return nil, fmt.Errorf("reading a plan in the log: %w", err)
		}
		plans = append(plans, p)
		log = rest[end:]
	}
}

// checkPlans checks the plans of all statements of an operation. A statement that fails several times is named once.
func checkPlans(plans []planned, o operation) error {
	var texts []string
	for _, p := range plans {
		if err := p.check(o.limit()); err != nil && !slices.Contains(texts, err.Error()) {
			texts = append(texts, err.Error())
		}
	}
	if len(plans) == 0 {
		return errors.New("it left no plan in the log")
	}
	if len(texts) > 0 {
		return errors.New(strings.Join(texts, "\n"))
	}
	return nil
}
