package db_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

func TestFeedNamesWhatChanged(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator), PlanOnce: true})
	must(t, err)
	defer reader.Close()
	feed, err := reader.OpenFeed(t.Context())
	must(t, err)
	defer feed.Close()
	first, err := feed.Poll(t.Context(), 0)
	must(t, err)
	if len(first.Names) > 0 || first.XMin == 0 || !first.Instance.Known() {
		t.Fatalf("got %+v, want no names", first)
	}
	conn := mustConnect(t, store.URL(vaulttest.Operator))
	for _, step := range []string{"BEGIN", "AUTHORISE", put("app1/a", 1, 24, 32, uuid.NewString()), "COMMIT"} {
		must(t, runStep(t.Context(), conn, step))
	}
	second, err := feed.Poll(t.Context(), first.XMin)
	must(t, err)
	if !slices.Equal(second.Names, []string{"app1/a"}) || second.All || second.XMin <= first.XMin {
		t.Fatalf("got %+v after %+v, want app1/a", second, first)
	}
	_, instance, err := reader.LoadLive(t.Context(), "app1/a")
	must(t, err)
	if instance != second.Instance {
		t.Fatalf("got %+v, want %+v", instance, second.Instance)
	}
}
