package db

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hangar is a coalescer whose queries take as long as the test wants.
type hangar struct {
	t    *testing.T
	c    *coalescer[string]
	crew sync.WaitGroup

	mu       sync.Mutex
	sent     [][]string        // what each query asked for, in the order they were sent
	lands    []chan struct{}   // closed by the test: the query answers
	answered map[string]string // by what the test called the request
}

// inHangar runs a test in a bubble: what is not blocked has run when settled returns.
func inHangar(t *testing.T, test func(h *hangar)) {
	synctest.Test(t, func(t *testing.T) {
		h := &hangar{t: t, answered: map[string]string{}}
		h.c = &coalescer[string]{limit: 10 * time.Second, query: func(ctx context.Context, names []string) (map[string]string, error) {
			land := make(chan struct{})
			h.mu.Lock()
			n := len(h.sent)
			h.sent, h.lands = append(h.sent, slices.Sorted(slices.Values(names))), append(h.lands, land)
			h.mu.Unlock()
			select {
			case <-land:
			case <-ctx.Done():
				return nil, classify(ctx.Err())
			}
			if slices.Contains(names, "panic") {
				panic("canary-value-in-a-panic")
			}
			if slices.Contains(names, "error") {
				return nil, errors.New("the query failed")
			}
			answers := map[string]string{}
			for _, name := range names {
				answers[name] = fmt.Sprintf("%s by query %d", name, n)
			}
			return answers, nil
		}}
		test(h)
		h.crew.Wait()
		h.c.mu.Lock()
		defer h.c.mu.Unlock()
		if h.c.flying || len(h.c.queue) != 0 {
			t.Errorf("at the end one flies (%v) and %d wait, want none", h.c.flying, len(h.c.queue))
		}
	})
}

func (h *hangar) ask(ctx context.Context, request, name string) {
	h.start(ctx, request, name)
	synctest.Wait()
}

func (h *hangar) start(ctx context.Context, request, name string) {
	h.crew.Go(func() {
		answer, err := h.c.get(ctx, name)
		if err != nil {
			answer = "error: " + err.Error()
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.answered[request] = answer
	})
}

func (h *hangar) land(query int) {
	h.mu.Lock()
	close(h.lands[query])
	h.mu.Unlock()
	synctest.Wait()
}

func (h *hangar) wantSent(want ...string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var got []string
	for _, names := range h.sent {
		got = append(got, strings.Join(names, " "))
	}
	if !slices.Equal(got, want) {
		h.t.Errorf("sent %q, want %q", got, want)
	}
}

func (h *hangar) answer(request string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answered[request]
}

func (h *hangar) wantAnswered(want map[string]string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !maps.Equal(h.answered, want) {
		h.t.Errorf("got the answers %q, want %q", h.answered, want)
	}
}

// Whoever comes while a query is under way waits for one that is sent afterwards, also for the same name.
func TestArrivalsShareTheNextQuery(t *testing.T) {
	inHangar(t, func(h *hangar) {
		ctx := h.t.Context()
		h.ask(ctx, "first", "a")
		h.wantSent("a") // nobody waits while none is under way
		h.ask(ctx, "late", "a")
		h.ask(ctx, "later", "a")
		h.ask(ctx, "latest", "c")
		h.wantSent("a")
		h.land(0)
		h.wantSent("a", "a c")
		h.wantAnswered(map[string]string{"first": "a by query 0"})
		h.ask(ctx, "last", "c")
		h.wantSent("a", "a c")
		h.land(1)
		h.wantSent("a", "a c", "c")
		h.wantAnswered(map[string]string{"first": "a by query 0", "late": "a by query 1", "later": "a by query 1", "latest": "c by query 1"})
		h.land(2)
		h.ask(ctx, "alone again", "d")
		h.wantSent("a", "a c", "c", "d")
		h.land(3)
	})
}

// Whoever leaves is not asked for any more, and nobody else notices.
func TestLeavingBeforeTakeOff(t *testing.T) {
	inHangar(t, func(h *hangar) {
		ctx := h.t.Context()
		h.ask(ctx, "first", "a")
		leaving, leave := context.WithCancel(ctx)
		h.ask(leaving, "gone", "c")
		h.ask(leaving, "one of two", "d")
		h.ask(ctx, "the other", "d")
		leave()
		synctest.Wait()
		h.land(0)
		h.wantSent("a", "d")
		h.land(1)
		h.wantAnswered(map[string]string{"first": "a by query 0", "the other": "d by query 1",
			"gone": "error: context canceled", "one of two": "error: context canceled"})
	})
	inHangar(t, func(h *hangar) {
		h.ask(h.t.Context(), "first", "a")
		leaving, leave := context.WithCancel(h.t.Context())
		h.ask(leaving, "gone", "c")
		leave()
		synctest.Wait()
		h.land(0)
		h.wantSent("a") // a flight that everybody left is not sent
	})
}

// Whoever shares a query that is under way may leave it: the others have their answer.
func TestLeavingInFlight(t *testing.T) {
	inHangar(t, func(h *hangar) {
		h.ask(h.t.Context(), "before", "before")
		leaving, leave := context.WithCancel(h.t.Context())
		h.ask(leaving, "gone", "a")
		h.ask(h.t.Context(), "stays", "b")
		h.land(0)
		h.wantSent("before", "a b")
		leave()
		synctest.Wait()
		if got := h.answer("gone"); got != "error: context canceled" {
			t.Errorf("who left got %q", got)
		}
		h.land(1)
		if got := h.answer("stays"); got != "b by query 1" {
			t.Errorf("who stayed got %q", got)
		}
	})
}

func TestAFlightIsFull(t *testing.T) {
	inHangar(t, func(h *hangar) {
		h.ask(h.t.Context(), "before", "before")
		for i := range namesPerFlight + 1 {
			h.ask(h.t.Context(), fmt.Sprint(i), fmt.Sprintf("name%04d", i))
		}
		h.land(0)
		h.land(1)
		h.mu.Lock()
		if len(h.sent) != 3 || len(h.sent[1]) != namesPerFlight || !slices.Equal(h.sent[2], []string{fmt.Sprintf("name%04d", namesPerFlight)}) {
			t.Errorf("%d queries were sent, the last for %q, want one that is full and one for the last name", len(h.sent), h.sent[len(h.sent)-1])
		}
		h.mu.Unlock()
		h.land(2)
	})
}

// A query that does not come back holds up those who share it, until their own deadlines, and nobody else.
func TestAQueryThatHangs(t *testing.T) {
	inHangar(t, func(h *hangar) {
		hasty, cancel := context.WithTimeout(h.t.Context(), time.Second)
		defer cancel()
		h.ask(hasty, "hasty", "a")
		h.ask(h.t.Context(), "patient", "b")
		h.wantSent("a")
		time.Sleep(overdueAfter)
		synctest.Wait()
		h.wantSent("a", "b")
		h.ask(h.t.Context(), "next", "c")
		time.Sleep(overdueAfter)
		synctest.Wait()
		h.wantSent("a", "b", "c")
		h.land(2)
		h.ask(h.t.Context(), "after", "d")
		h.land(3)
		h.wantAnswered(map[string]string{"next": "c by query 2", "after": "d by query 3", "hasty": "error: the database did not answer in time"})
		h.land(1)
		h.ask(h.t.Context(), "at last", "e")
		h.land(4)
		if got := h.answer("patient"); got != "b by query 1" {
			t.Errorf("the patient got %q", got)
		}
		time.Sleep(h.c.limit) // the one that nobody waits for ends by itself
	})
}

// There is one watch for all: it was set for a query that has landed, and looks at the one that flies now.
func TestTheWatchLooksAtWhatFliesNow(t *testing.T) {
	inHangar(t, func(h *hangar) {
		h.ask(h.t.Context(), "soon back", "a")
		time.Sleep(overdueAfter / 4)
		h.land(0)
		time.Sleep(overdueAfter / 4)
		h.ask(h.t.Context(), "hangs", "b")
		h.ask(h.t.Context(), "waits", "c")
		time.Sleep(overdueAfter - time.Nanosecond)
		synctest.Wait()
		h.wantSent("a", "b")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		h.wantSent("a", "b", "c")
		h.land(2)
		h.land(1)
		time.Sleep(2 * overdueAfter) // it rests meanwhile
		h.ask(h.t.Context(), "hangs too", "d")
		h.ask(h.t.Context(), "waits too", "e")
		time.Sleep(overdueAfter)
		synctest.Wait()
		h.wantSent("a", "b", "c", "d", "e")
		h.land(4)
		h.land(3)
	})
}

// When nothing comes back at all, whoever waits is told so at the limit, with or without a deadline of his own.
func TestNothingComesBack(t *testing.T) {
	inHangar(t, func(h *hangar) {
		began := time.Now()
		want := map[string]string{}
		for i := range 24 * namesPerFlight {
			name := fmt.Sprintf("name%04d", i)
			want[name] = "error: the database did not answer in time"
			h.start(h.t.Context(), name, name)
		}
		h.crew.Wait()
		if took := time.Since(began); took > h.c.limit {
			t.Errorf("the last was told after %s, want %s at most", took, h.c.limit)
		}
		h.wantAnswered(want)
	})
}

func TestAQueryThatFails(t *testing.T) {
	inHangar(t, func(h *hangar) {
		h.ask(h.t.Context(), "before", "before")
		h.ask(h.t.Context(), "a", "a")
		h.ask(h.t.Context(), "error", "error")
		h.land(0)
		h.ask(h.t.Context(), "b", "b")
		h.ask(h.t.Context(), "panic", "panic")
		h.land(1)
		h.land(2)
		for request, want := range map[string]string{"a": "the query failed", "error": "the query failed", "b": "panic with a string", "panic": "panic with a string"} {
			if got := h.answer(request); got != "error: "+want {
				t.Errorf("%s got %q, want %q", request, got, want)
			}
		}
		h.ask(h.t.Context(), "panic", "panic")
		h.land(3)
		if got := h.answer("panic"); got != "error: panic with a string" {
			t.Errorf("who asked alone got %q", got)
		}
		h.ask(h.t.Context(), "after", "a")
		h.land(4)
		if got := h.answer("after"); got != "a by query 4" {
			t.Errorf("the next query answered %q", got)
		}
	})
}

// BenchmarkCoalescer is what sharing costs beside the query itself.
func BenchmarkCoalescer(b *testing.B) {
	c := &coalescer[int]{limit: time.Second, query: func(_ context.Context, names []string) (map[string]int, error) {
		answers := make(map[string]int, len(names))
		for i, name := range names {
			answers[name] = i
		}
		return answers, nil
	}}
	names := make([]string, 64)
	for i := range names {
		names[i] = fmt.Sprint("name", i)
	}
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(clients)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := c.get(b.Context(), names[i%len(names)]); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
