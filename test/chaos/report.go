package chaos

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is a run with the oracle's verdict.
type Report struct {
	Title     string // which cluster, how long, which seed
	Verdict   Verdict
	Faults    map[string]int
	Skipped   []string // faults that this machine does not allow, and why
	Failovers []Recovery
	Warned    string // without synchronous replication: status's warning of durability; "" = none
	Async     bool
}

// Recovery is how long clients waited at one promotion, from the command to the standby on.
type Recovery struct {
	New         string
	ToWrite     time.Duration // until the first write was acknowledged; negative = none was before the next failover
	ToRotation  time.Duration // until the first rotation was completed; likewise
	PrimaryDead time.Duration // from the end of the old primary until its successor took writes
}

// Recoveries measures the promotions of a run.
func Recoveries(t *Timeline, writes []Write, jobs []JobFact) []Recovery {
	var all []Recovery
	failovers := t.Failovers()
	for i, f := range failovers {
		if f.Promoted.IsZero() || f.Back.IsZero() {
			continue
		}
		end := time.Now()
		if i+1 < len(failovers) {
			end = failovers[i+1].Died
		}
		r := Recovery{New: f.New, ToWrite: -1, ToRotation: -1, PrimaryDead: f.Back.Sub(f.Died)}
		for _, w := range writes {
			if w.Outcome == Acked {
				r.ToWrite = shortest(r.ToWrite, f.Promoted, w.Returned, end)
			}
		}
		for _, j := range jobs {
			if j.State == "done" {
				r.ToRotation = shortest(r.ToRotation, f.Promoted, j.Finished, end)
			}
		}
		all = append(all, r)
	}
	return all
}

// shortest returns the shorter of best and the time from one moment to another, if that is before end.
func shortest(best time.Duration, from, at, end time.Time) time.Duration {
	d := at.Sub(from)
	if d < 0 || at.After(end) || (best >= 0 && best <= d) {
		return best
	}
	return d
}

// Print writes the report as a table.
func (r Report) Print(to io.Writer) error {
	v := r.Verdict
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(what, format string, args ...any) {
		fmt.Fprintf(out, "  %s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(out, "\n%s\n", r.Title)
	line("writes", "%d: acknowledged %d, failed %d, unknown %d (made %d, not made %d)",
		v.Acked+v.Failed+v.Unknown, v.Acked, v.Failed, v.Unknown, v.Made, v.NotMade)
	line("on the surviving primary", "%d versions of %d secrets, each opened", v.Versions, v.Secrets)
	line("rotations", "%d completed for %d due times and the intervals of their own", v.Rotations, v.DueTimes)
	line("lost", "%d", v.Lost)
	line("doubled", "%d", v.Doubled)
	line("unresolved", "%d", v.Unresolved)
	if r.Async {
		line("linearizable", "not asked: an asynchronous failover may lose writes")
		line("status warned of it", "%s", textOrNo(r.Warned))
	} else {
		line("linearizable", "%d operations on %d names", v.Operations, v.Names)
	}
	line("reads, primary dead", "%d of %d answered by nodes left alone (%d reads over the whole run)", v.ReadsOK,
		v.ReadsAll, v.Reads)
	if v.Apps.Reads > 0 {
		r.printApps(line)
	}
	line("promotions", "%d", len(r.Failovers))
	line("  no primary for", "%s", spread(r.Failovers, func(r Recovery) time.Duration { return r.PrimaryDead }))
	line("  to the first acknowledged write", "%s", spread(r.Failovers,
		func(r Recovery) time.Duration { return r.ToWrite }))
	line("  to the first completed rotation", "%s", spread(r.Failovers,
		func(r Recovery) time.Duration { return r.ToRotation }))
	total := 0
	for _, n := range r.Faults {
		total += n
	}
	line("faults", "%d", total)
	for _, kind := range sortedKeys(r.Faults) {
		line("  "+kind, "%d", r.Faults[kind])
	}
	for _, why := range r.Skipped {
		line("  not made", "%s", why)
	}
	line("violations", "%d", len(v.Violations))
	for i, text := range v.Violations {
		if i == 20 {
			fmt.Fprintf(out, "    and %d more\n", len(v.Violations)-i)
			break
		}
		fmt.Fprintf(out, "    %s\n", strings.ReplaceAll(text, "\n", " "))
	}
	return out.Flush()
}

func (r Report) printApps(line func(what, format string, args ...any)) {
	a := r.Verdict.Apps
	line("apps", "%d made (%d lost), %d tokens revoked (%d lost)", a.Made, a.MadeLost, a.Ended, a.EndedLost)
	line("  reads with a token", "%d, of which %d were given a value", a.Reads, a.Served)
	line("  after the replay of its revocation", "%d reads", a.AfterReplay)
	line("  outside the rules", "%d reads", a.Outside)
	line("  revoked, first 403 on a standby", "%s after the commit; %d", durations(a.FirstRefusals),
		len(a.FirstRefusals))
	line("    with a primary, node left alone", "%s; %d", durations(a.FirstUndisturbed),
		len(a.FirstUndisturbed))
	line("    from its replay", "%s; %d", durations(a.FirstAfterReplay), len(a.FirstAfterReplay))
	line("    values given before the replay", "%d", a.ServedAfterRevocation)
}

func textOrNo(text string) string {
	if text == "" {
		return "no"
	}
	return text
}

// spread formats the least, the median and the greatest of the measurements.
func spread(all []Recovery, of func(Recovery) time.Duration) string {
	var known []time.Duration
	for _, r := range all {
		if d := of(r); d >= 0 {
			known = append(known, d)
		}
	}
	text := durations(known)
	if n := len(all) - len(known); n > 0 && len(known) > 0 {
		text += fmt.Sprintf(" (%d without one before the next fault)", n)
	}
	return text
}

// durations formats the least, the median and the greatest.
func durations(all []time.Duration) string {
	if len(all) == 0 {
		return "not measured"
	}
	all = slices.Sorted(slices.Values(all))
	return fmt.Sprintf("min %s, median %s, max %s", short(all[0]), short(all[len(all)/2]), short(all[len(all)-1]))
}

func short(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
