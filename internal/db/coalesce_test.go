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

// stub is a coalescer whose queries return when the test says so.
type stub struct {
	t       *testing.T
	c       *coalescer[string]
	callers sync.WaitGroup

	mu       sync.Mutex
	sent     [][]string        // what each query asked for, in the order they were sent
	returns  []chan struct{}   // closed by the test: the query returns
	answered map[string]string // by the test's name of the request
}

// withStub runs a test in a bubble: goroutines that are not blocked have run when synctest.Wait returns.
func withStub(t *testing.T, test func(s *stub)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{t: t, answered: map[string]string{}}
		s.c = &coalescer[string]{limit: 10 * time.Second,
			query: func(ctx context.Context, names []string) (map[string]string, error) {
				done := make(chan struct{})
				s.mu.Lock()
				n := len(s.sent)
				s.sent, s.returns = append(s.sent, slices.Sorted(slices.Values(names))), append(s.returns, done)
				s.mu.Unlock()
				select {
				case <-done:
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
		test(s)
		s.callers.Wait()
		synctest.Wait() // the leader ends after it has answered its caller
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		if s.c.busy || len(s.c.queue) != 0 {
			t.Errorf("at the end a leader is busy (%v) and %d batches wait, want none", s.c.busy, len(s.c.queue))
		}
	})
}

func (s *stub) ask(ctx context.Context, request, name string) {
	s.start(ctx, request, name)
	synctest.Wait()
}

func (s *stub) start(ctx context.Context, request, name string) {
	s.callers.Go(func() {
		answer, err := s.c.get(ctx, name)
		if err != nil {
			answer = "error: " + err.Error()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.answered[request] = answer
	})
}

func (s *stub) finish(query int) {
	s.mu.Lock()
	close(s.returns[query])
	s.mu.Unlock()
	synctest.Wait()
}

func (s *stub) wantSent(want ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []string
	for _, names := range s.sent {
		got = append(got, strings.Join(names, " "))
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("sent %q, want %q", got, want)
	}
}

func (s *stub) answer(request string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered[request]
}

func (s *stub) wantAnswered(want map[string]string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !maps.Equal(s.answered, want) {
		s.t.Errorf("got the answers %q, want %q", s.answered, want)
	}
}

// A request that arrives while a query is in flight waits for one that is sent afterwards, also for the same name.
func TestArrivalsShareTheNextQuery(t *testing.T) {
	withStub(t, func(s *stub) {
		ctx := s.t.Context()
		s.ask(ctx, "first", "a")
		s.wantSent("a") // a request does not wait while none is in flight
		s.ask(ctx, "late", "a")
		s.ask(ctx, "later", "a")
		s.ask(ctx, "latest", "c")
		s.wantSent("a")
		s.finish(0)
		s.wantSent("a", "a c")
		s.wantAnswered(map[string]string{"first": "a by query 0"})
		s.ask(ctx, "last", "c")
		s.wantSent("a", "a c")
		s.finish(1)
		s.wantSent("a", "a c", "c")
		s.wantAnswered(map[string]string{"first": "a by query 0", "late": "a by query 1", "later": "a by query 1",
			"latest": "c by query 1"})
		s.finish(2)
		s.ask(ctx, "alone again", "d")
		s.wantSent("a", "a c", "c", "d")
		s.finish(3)
	})
}

// The name of a request that leaves is not asked for, and the other requests are unaffected.
func TestLeavingBeforeTheQueryIsSent(t *testing.T) {
	withStub(t, func(s *stub) {
		ctx := s.t.Context()
		s.ask(ctx, "first", "a")
		leaving, leave := context.WithCancel(ctx)
		s.ask(leaving, "gone", "c")
		s.ask(leaving, "one of two", "d")
		s.ask(ctx, "the other", "d")
		leave()
		synctest.Wait()
		s.finish(0)
		s.wantSent("a", "d")
		s.finish(1)
		s.wantAnswered(map[string]string{"first": "a by query 0", "the other": "d by query 1",
			"gone": "error: context canceled", "one of two": "error: context canceled"})
	})
	withStub(t, func(s *stub) {
		s.ask(s.t.Context(), "first", "a")
		leaving, leave := context.WithCancel(s.t.Context())
		s.ask(leaving, "gone", "c")
		leave()
		synctest.Wait()
		s.finish(0)
		s.wantSent("a") // an empty batch is not sent
	})
}

// A request may leave a query that is in flight: the others get their answer.
func TestLeavingInFlight(t *testing.T) {
	withStub(t, func(s *stub) {
		s.ask(s.t.Context(), "before", "before")
		leaving, leave := context.WithCancel(s.t.Context())
		s.ask(leaving, "gone", "a")
		s.ask(s.t.Context(), "stays", "b")
		s.finish(0)
		s.wantSent("before", "a b")
		leave()
		synctest.Wait()
		if got := s.answer("gone"); got != "error: context canceled" {
			t.Errorf("the request that left got %q", got)
		}
		s.finish(1)
		if got := s.answer("stays"); got != "b by query 1" {
			t.Errorf("the request that stayed got %q", got)
		}
	})
}

func TestABatchIsFull(t *testing.T) {
	withStub(t, func(s *stub) {
		s.ask(s.t.Context(), "before", "before")
		for i := range namesPerBatch + 1 {
			s.ask(s.t.Context(), fmt.Sprint(i), fmt.Sprintf("name%04d", i))
		}
		s.finish(0)
		s.finish(1)
		s.mu.Lock()
		if len(s.sent) != 3 || len(s.sent[1]) != namesPerBatch ||
			!slices.Equal(s.sent[2], []string{fmt.Sprintf("name%04d", namesPerBatch)}) {
			t.Errorf("%d queries were sent, the last for %q, want one that is full and one for the last name", len(s.sent),
				s.sent[len(s.sent)-1])
		}
		s.mu.Unlock()
		s.finish(2)
	})
}

// A query that does not return delays the requests of its batch, until their own deadlines, and no others.
func TestAQueryThatHangs(t *testing.T) {
	withStub(t, func(s *stub) {
		short, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		s.ask(short, "short", "a")
		s.ask(s.t.Context(), "unbounded", "b")
		s.wantSent("a")
		time.Sleep(overdueAfter)
		synctest.Wait()
		s.wantSent("a", "b")
		s.ask(s.t.Context(), "next", "c")
		time.Sleep(overdueAfter)
		synctest.Wait()
		s.wantSent("a", "b", "c")
		s.finish(2)
		s.ask(s.t.Context(), "after", "d")
		s.finish(3)
		s.wantAnswered(map[string]string{"next": "c by query 2", "after": "d by query 3",
			"short": "error: the database did not answer in time"})
		s.finish(1)
		s.ask(s.t.Context(), "at last", "e")
		s.finish(4)
		if got := s.answer("unbounded"); got != "b by query 1" {
			t.Errorf("the request without a deadline got %q", got)
		}
		time.Sleep(s.c.limit) // the abandoned query ends at its limit
	})
}

// One timer watches all queries: it was set for one that has returned, and checks the one now in flight.
func TestTheTimerChecksTheQueryInFlight(t *testing.T) {
	withStub(t, func(s *stub) {
		s.ask(s.t.Context(), "soon back", "a")
		time.Sleep(overdueAfter / 4)
		s.finish(0)
		time.Sleep(overdueAfter / 4)
		s.ask(s.t.Context(), "hangs", "b")
		s.ask(s.t.Context(), "waits", "c")
		time.Sleep(overdueAfter - time.Nanosecond)
		synctest.Wait()
		s.wantSent("a", "b")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		s.wantSent("a", "b", "c")
		s.finish(2)
		s.finish(1)
		time.Sleep(2 * overdueAfter) // the timer stops meanwhile
		s.ask(s.t.Context(), "hangs too", "d")
		s.ask(s.t.Context(), "waits too", "e")
		time.Sleep(overdueAfter)
		synctest.Wait()
		s.wantSent("a", "b", "c", "d", "e")
		s.finish(4)
		s.finish(3)
	})
}

// When no query returns, every request fails at the limit, with or without a deadline of its own.
func TestNoQueryReturns(t *testing.T) {
	withStub(t, func(s *stub) {
		began := time.Now()
		want := map[string]string{}
		for i := range 24 * namesPerBatch {
			name := fmt.Sprintf("name%04d", i)
			want[name] = "error: the database did not answer in time"
			s.start(s.t.Context(), name, name)
		}
		s.callers.Wait()
		if took := time.Since(began); took > s.c.limit {
			t.Errorf("the last request failed after %s, want %s at most", took, s.c.limit)
		}
		s.wantAnswered(want)
	})
}

func TestAQueryThatFails(t *testing.T) {
	withStub(t, func(s *stub) {
		s.ask(s.t.Context(), "before", "before")
		s.ask(s.t.Context(), "a", "a")
		s.ask(s.t.Context(), "error", "error")
		s.finish(0)
		s.ask(s.t.Context(), "b", "b")
		s.ask(s.t.Context(), "panic", "panic")
		s.finish(1)
		s.finish(2)
		for request, want := range map[string]string{"a": "the query failed", "error": "the query failed",
			"b": "panic with a string", "panic": "panic with a string"} {
			if got := s.answer(request); got != "error: "+want {
				t.Errorf("%s got %q, want %q", request, got, want)
			}
		}
		s.ask(s.t.Context(), "panic", "panic")
		s.finish(3)
		if got := s.answer("panic"); got != "error: panic with a string" {
			t.Errorf("the request that was alone got %q", got)
		}
		s.ask(s.t.Context(), "after", "a")
		s.finish(4)
		if got := s.answer("after"); got != "a by query 4" {
			t.Errorf("the next query answered %q", got)
		}
	})
}

// BenchmarkCoalescer measures the cost of sharing, without the query itself.
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
