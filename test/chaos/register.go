package chaos

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is the state of one name: the number of its current version and the value's hash. Version 0 is none.
type register struct {
	version int
	hash    Hash
}

// call is a read, or a write that follows a version (-1 = any). answer is the client's answer; a write whose outcome is
// unknown has none.
type (
	call struct {
		write  bool
		expect int
		hash   Hash
	}
	answer struct {
		known   bool
		version int
		hash    Hash
	}
)

// step is the specification: a write adds one version and returns its number, a read returns the state. An unknown
// write may have taken effect at any time after its call, or never: its end is open, so it can always be ordered last,
// after every read.
func step(state, input, output any) (bool, any) {
	now, in, out := state.(register), input.(call), output.(answer)
	if !in.write {
		return out.version == now.version && (now.version == 0 || out.hash == now.hash), now
	}
	if in.expect >= 0 && in.expect != now.version {
		return !out.known, now // only an unknown write may have met the wrong version
	}
	next := register{now.version + 1, in.hash}
	return !out.known || out.version == next.version, next
}

// Linearizable checks the history of each name for an order of its writes, and of the reads from the primary, in which
// every answer is right and which agrees with the clock. A history that could not be decided within the limit counts as
// a violation. Failed writes are left out; [Judge] checks that they took no effect.
func Linearizable(writes []Write, reads []Read, limit time.Duration) (names, operations int, violations []string) {
	histories := map[string][]porcupine.Operation{}
	for _, w := range writes {
		if w.Outcome == Failed {
			continue
		}
		op := porcupine.Operation{ClientId: w.Client, Input: call{true, w.Expect, w.Hash}, Call: w.Called.UnixNano(),
			Return: math.MaxInt64}
		if w.Outcome == Acked {
			op.Return = w.Returned.UnixNano()
		}
		op.Output = answer{known: w.Outcome == Acked, version: w.Version}
		histories[w.Name] = append(histories[w.Name], op)
	}
	for _, r := range reads {
		if r.Node != "" {
			continue // a standby may be behind, and says nothing about the order
		}
		histories[r.Name] = append(histories[r.Name], porcupine.Operation{ClientId: r.Client, Input: call{expect: -1},
			Call: r.Called.UnixNano(), Output: answer{true, r.Version, r.Hash}, Return: r.Returned.UnixNano()})
	}
	model := porcupine.Model{Init: func() any { return register{} }, Step: step}
	for _, name := range sortedKeys(histories) {
		history := histories[name]
		operations += len(history)
		if got := porcupine.CheckOperationsTimeout(model, history, limit); got != porcupine.Ok {
			violations = append(violations, fmt.Sprintf("the history of %q (%d operations) is not linearizable: %s", name,
				len(history), got))
		}
	}
	return len(histories), operations, violations
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
