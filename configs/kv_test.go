package configs_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"imlb/configs"
	"imlb/test/consul"
)

func note(comment string) configs.Note {
	return configs.Note{By: "root@here", At: time.Now(), Comment: comment}
}

// TestKV writes to a real agent and reads back.
func TestKV(t *testing.T) {
	t.Parallel()
	agent := configs.Consul{Address: consul.Start(t).Addr}
	kv, err := configs.NewKV(agent, "kv")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("documents", func(t *testing.T) { checkDocuments(t, kv) })
	t.Run("history", func(t *testing.T) { checkHistory(t, kv, agent) })
	t.Run("overrides", func(t *testing.T) { checkOverrides(t, kv) })
	t.Run("watch", func(t *testing.T) { checkWatch(t, agent) })
}

func checkDocuments(t *testing.T, kv *configs.KV) {
	ctx := t.Context()
	if _, err := kv.Document(ctx); !errors.Is(err, configs.ErrNoDocument) {
		t.Fatalf("without a document: got %v, want ErrNoDocument", err)
	}
	first, err := kv.Push(ctx, []byte("---\nfirst: 1\n---\n"), 0, note(`a "first" one: it is`))
	if err != nil {
		t.Fatal(err)
	}
	d, err := kv.Document(ctx)
	if err != nil || string(d.Data) != "---\nfirst: 1\n---\n" || d.Version != first {
		t.Errorf("got %q, version %d, %v; want what was written, as version %d", d.Data, d.Version, err, first)
	}
	if d.Note.By != "root@here" || d.Note.Comment != `a "first" one: it is` || time.Since(d.Note.At) > time.Minute {
		t.Errorf("got the note %+v", d.Note)
	}
	second, err := kv.Push(ctx, []byte("second"), first, note("second"))
	if err != nil {
		t.Fatal(err)
	}
	for _, expected := range []uint64{0, first} {
		_, err = kv.Push(ctx, []byte("late"), expected, note("late"))
		conflict, ok := errors.AsType[*configs.ConflictError](err)
		if !ok || conflict.Expected != expected || conflict.Found != second || conflict.Note.Comment != "second" {
			t.Errorf("with version %d expected: got %v", expected, err)
		}
	}
	if d, err := kv.Version(ctx, first); err != nil || string(d.Data) != "---\nfirst: 1\n---\n" {
		t.Errorf("version %d of the history: got %q, %v", first, d.Data, err)
	}
	large := []byte(strings.Repeat("x", configs.MaxShared))
	if _, err := kv.Push(ctx, large, second, note("large")); err != nil {
		t.Errorf("the largest document: %v", err)
	}
	if _, err := kv.Push(ctx, append(large, 'x'), second, note("larger")); err == nil {
		t.Error("a larger document was taken")
	}
}

func checkHistory(t *testing.T, kv *configs.KV, agent configs.Consul) {
	ctx := t.Context()
	current, err := kv.Document(ctx)
	if err != nil {
		t.Fatal(err)
	}
	version := current.Version
	for i := range configs.KeptDocuments + 3 {
		if version, err = kv.Push(ctx, fmt.Appendf(nil, "document %d", i), version, note("")); err != nil {
			t.Fatal(err)
		}
	}
	client, err := agent.Client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.KV().Put(&api.KVPair{Key: "imlb/kv/history/"}, nil); err != nil { // the folder itself, as some tools make it
		t.Fatal(err)
	}
	list, err := kv.History(ctx)
	if err != nil || len(list) != configs.KeptDocuments {
		t.Fatalf("the history has %d documents, %v; want %d", len(list), err, configs.KeptDocuments)
	}
	for i, d := range list {
		if want := fmt.Sprintf("document %d", configs.KeptDocuments+2-i); string(d.Data) != want {
			t.Errorf("the history has %q as its number %d, want %q", d.Data, i, want)
		}
	}
	if list[0].Version != version {
		t.Errorf("the newest of the history is version %d, want %d", list[0].Version, version)
	}
}

func checkOverrides(t *testing.T, kv *configs.KV) {
	ctx := t.Context()
	drain := configs.Override{Drain: true, Weight: 2.5}.Signed(note("kernel"))
	if err := kv.SetOverride(ctx, "node-1", drain, 0); err != nil {
		t.Fatal(err)
	}
	got, err := kv.Override(ctx, "node-1")
	if err != nil || got.Override != drain || got.Version == 0 {
		t.Errorf("got %+v, %v; want %+v", got, err, drain)
	}
	for _, o := range []configs.Override{{Disabled: true}, {}} {
		err = kv.SetOverride(ctx, "node-1", o, got.Version-1)
		conflict, ok := errors.AsType[*configs.ConflictError](err)
		if !ok || conflict.Found != got.Version || conflict.Note.By != "root@here" {
			t.Errorf("with another version expected: got %v", err)
		}
	}
	all, wrong, err := kv.Overrides(ctx)
	if err != nil || len(wrong) > 0 || len(all) != 1 || all["node-1"] != got {
		t.Errorf("got %v, %v, %v", all, wrong, err)
	}
	if err := kv.SetOverride(ctx, "node-1", configs.Override{By: "me"}, got.Version); err != nil {
		t.Error(err)
	}
	if all, _, err := kv.Overrides(ctx); err != nil || len(all) > 0 {
		t.Errorf("an override that says nothing stayed: %v, %v", all, err)
	}
	if err := kv.SetOverride(ctx, "../config", configs.Override{Drain: true}, 0); err == nil {
		t.Error("a name that is none was taken")
	}
}

// checkWatch follows a document and overrides from nothing to a change.
func checkWatch(t *testing.T, agent configs.Consul) {
	ctx := t.Context()
	kv, err := configs.NewKV(agent, "watched")
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, configs.WatcherOptions{Local: configs.Local{Cluster: "watched", Agent: &agent}})
	eventually(t, "the news that there is no document", func() bool {
		return errors.Is(w.Status().Latest.Err, configs.ErrNoDocument)
	})
	first, err := kv.Push(ctx, []byte(front), 0, note(""))
	if err != nil {
		t.Fatal(err)
	}
	if u := w.next(); u.Version != first || u.Proxy.Cluster != "watched" || len(u.Overrides) > 0 {
		t.Errorf("got %+v, want version %d", u, first)
	}
	if err := kv.SetOverride(ctx, "node-1", configs.Override{Drain: true}, 0); err != nil {
		t.Fatal(err)
	}
	if u := w.next(); !u.Overrides["node-1"].Drain {
		t.Errorf("got %+v, want node-1 to drain", u.Overrides)
	}
	second, err := kv.Push(ctx, []byte(front+"limits: {login_attempts: 7}\n"), first, note(""))
	if err != nil {
		t.Fatal(err)
	}
	if u := w.next(); u.Version != second || u.Proxy.Limits.LoginAttempts != 7 || !u.Overrides["node-1"].Drain {
		t.Errorf("got %+v, want version %d", u, second)
	}
}

// A front that was not running while a real agent lost all that it had goes on with the
// overrides that it knew.
func TestRestartOfBoth(t *testing.T) {
	t.Parallel()
	agent := consul.Start(t)
	options := configs.WatcherOptions{Local: configs.Local{
		Cluster: "kv", Agent: &configs.Consul{Address: agent.Addr}, CacheDir: t.TempDir(),
	}}
	kv, err := configs.NewKV(*options.Local.Agent, "kv")
	if err != nil {
		t.Fatal(err)
	}
	version := uint64(0)
	for range 10 { // which makes its index greater than a new agent's
		if version, err = kv.Push(t.Context(), []byte(front), version, note("")); err != nil {
			t.Fatal(err)
		}
	}
	if err := kv.SetOverride(t.Context(), "node-1", configs.Override{Drain: true}, 0); err != nil {
		t.Fatal(err)
	}
	w := watch(t, options)
	if u := w.next(); !u.Overrides["node-1"].Drain {
		t.Fatalf("got %+v, want node-1 to drain", u.Overrides)
	}
	w.stop()
	agent.Kill()
	agent.Forget()
	agent.Start()
	w = watch(t, options)
	if u := w.next(); !u.Overrides["node-1"].Drain || u.Version != version {
		t.Errorf("got %+v, want node-1 to drain still", u)
	}
	if version, err = kv.Push(t.Context(), []byte(attempts("7")), 0, note("")); err != nil {
		t.Fatal(err)
	}
	if u := w.next(); !u.Overrides["node-1"].Drain || u.Version != version {
		t.Errorf("got %+v, want version %d and node-1 to drain still", u, version)
	}
}
