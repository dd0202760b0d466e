package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

// Somebody to whom everybody writes does not stop the others: a message waits for those
// that were there before it, and for no more.
func TestWriterHotOwner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const sessions, outstanding, batch = 30, 4, 10
		memory := storetest.NewMemory()
		var owners []store.OwnerID
		for _, user := range []string{"hot", "lone"} {
			a, err := memory.CreateAccount(t.Context(), user, nil)
			if err != nil {
				t.Fatal(err)
			}
			owners = append(owners, a.Owner)
		}
		writer := store.NewWriter(t.Context(), &database{Timelines: memory}, store.WriterOptions{MaxBatch: batch})
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for i := range sessions {
			group.Go(func() { flood(ctx, t, writer, owners[0], fmt.Sprint(i), outstanding) })
		}
		<-time.After(10 * transaction)
		for range 3 {
			begun := time.Now()
			answered := make(chan error)
			a := store.Append{Drafts: []store.Draft{{Owner: owners[1], Stanza: []byte("x")}}}
			if err := writer.Submit(t.Context(), a, func(done store.Appended) { answered <- done.Err }); err != nil {
				t.Fatal(err)
			}
			if err := <-answered; err != nil {
				t.Error(err)
			}
			const most = (sessions*outstanding/batch + 2) * transaction
			if waited := time.Since(begun); waited > most {
				t.Errorf("it took %v, more than %v", waited, most)
			}
		}
		stop()
		group.Wait()
		if err := writer.Close(); err != nil {
			t.Error(err)
		}
	})
}

// flood keeps so many messages on their way until ctx ends.
func flood(ctx context.Context, t *testing.T, w *store.Writer, owner store.OwnerID, name string, outstanding int) {
	t.Helper()
	window := make(chan struct{}, outstanding)
	for ctx.Err() == nil {
		window <- struct{}{}
		a := store.Append{Drafts: []store.Draft{{Owner: owner, Stanza: []byte(name)}}}
		if err := w.Submit(t.Context(), a, func(store.Appended) { <-window }); err != nil {
			t.Error(err)
			return
		}
	}
	for range outstanding {
		window <- struct{}{}
	}
}
