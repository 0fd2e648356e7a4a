package main

import "fmt"

// aim is a bound for a figure of a cell, or for its ratio to the figure of another cell.
type aim struct {
	what   string
	of, to cell // without to: the figure itself
	figure figure
	least  float64 // 0: none
	most   float64 // 0: none
}

func aims() []aim {
	at := func(subject string, connections int) cell { return cell{subject, connections} }
	return []aim{
		{what: "reads at 64 connections, of bare", of: at(readInterval, 64), to: at(bareHTTP, 64), figure: perSecond,
			least: 0.55},
		{what: "reads at 16 connections, of bare", of: at(readInterval, 16), to: at(bareHTTP, 16), figure: perSecond,
			least: 0.5},
		{what: "p50 at 1 connection, of bare", of: at(readInterval, 1), to: at(bareHTTP, 1), figure: p50, most: 1.6},
		{what: "PostgreSQL's CPU for a read at 64, microseconds", of: at(readInterval, 64), figure: postgresCPU, most: 2},
		{what: "reads that ask each time, at 64 connections, of one query a request", of: at(readAsked, 64),
			to: at(oneQuery, 64), figure: perSecond, least: 2},
		{what: "audit always at 64 connections, of off", of: at(readAlways, 64), to: at(readOff, 64), figure: perSecond,
			least: 0.7},
		{what: "verify with 2 live versions at 64 connections, of reads", of: at(verify, 64), to: at(readInterval, 64),
			figure: perSecond, least: 0.8},
		{what: "vaultd's memory at 64 connections, MB at most", of: at(readInterval, 64), figure: peakMB, most: 40},
		{what: "an idle daemon and its sessions, percent of a processor", of: at(idle, 1), figure: corePercent, most: 0.5},
		{what: "reads with a token at 64 connections, of without", of: at(readToken, 64),
			to: at(readInterval, 64), figure: perSecond, least: 0.95},
		{what: "p99 of an app at 1 connection while another floods, of without a flood", of: at(readFlooded, 1),
			to: at(readPaced, 1), figure: p99, most: 2},
		{what: "puts at 8 connections, of pgbench", of: at(put, writers), to: at(putPgbench, writers), figure: perSecond,
			least: 0.75},
		{what: "rotations, of pgbench", of: at(rotate, rotationsAtOnce), to: at(rotatePgbench, rotationsAtOnce),
			figure: perSecond, least: 0.6},
		{what: "p99 of reads while rotations drain, of before", of: at(readRotating, 16), to: at(readInterval, 16),
			figure: p99, most: 2},
		{what: "reads at 1 connection, of the peer", of: at(readInterval, 1), to: at(peerRead, 1), figure: perSecond,
			least: 10},
		{what: "reads at 16 connections, of the peer", of: at(readInterval, 16), to: at(peerRead, 16), figure: perSecond,
			least: 16},
		{what: "reads at 64 connections, of the peer", of: at(readInterval, 64), to: at(peerRead, 64), figure: perSecond,
			least: 20},
		{what: "vaultctl put, a whole process, of the peer's kv put", of: at(cliPut, 1), to: at(peerPut, 1), figure: p50,
			most: 0.3},
	}
}

// verdict is the result of an aim. An aim whose cells were not measured has none.
type verdict struct {
	What     string  `json:"what"`
	Least    float64 `json:"least,omitempty"`
	Most     float64 `json:"most,omitempty"`
	Measured spread  `json:"measured"`
	Met      bool    `json:"met"`
}

func (a aim) compare(r results) (verdict, bool) {
	measured, known := r.ratio(a.of, a.to, a.figure)
	if !known {
		return verdict{}, false
	}
	return verdictOf(a.what, a.least, a.most, measured), true
}

func verdictOf(what string, least, most float64, measured spread) verdict {
	met := (least == 0 || measured.Median >= least) && (most == 0 || measured.Median <= most)
	return verdict{What: what, Least: least, Most: most, Measured: measured, Met: met}
}

func (v verdict) bound() string {
	if v.Least > 0 {
		return fmt.Sprintf(">= %g", v.Least)
	}
	return fmt.Sprintf("<= %g", v.Most)
}

func (v verdict) word() string {
	if v.Met {
		return "met"
	}
	return "falls short"
}
