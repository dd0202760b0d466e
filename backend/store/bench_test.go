package store_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"imlb/backend/store"
)

// benchEach runs a benchmark on a database of each kind. Both wait for the disk.
func benchEach(b *testing.B, run func(b *testing.B, url string)) {
	b.Helper()
	b.Run("SQLite", func(b *testing.B) { run(b, filepath.Join(b.TempDir(), "imlb.db")) })
	b.Run("PostgreSQL", func(b *testing.B) {
		_, url := ownPostgres(b)
		run(b, url)
	})
}

// benchOwners opens a database with accounts that have a session each, named
// by their number.
func benchOwners(b *testing.B, url string, n int) (*store.DB, []store.OwnerID) {
	b.Helper()
	db := open(b, url, store.Options{})
	b.Cleanup(func() { db.Close() })
	owners := make([]store.OwnerID, n)
	for i := range owners {
		a, err := db.CreateAccount(b.Context(), fmt.Sprint("user", i), nil)
		if err != nil {
			b.Fatal(err)
		}
		owners[i] = a.Owner
		if _, err := db.CreateSession(b.Context(), store.Session{ID: fmt.Sprint(i), Owner: a.Owner, Resource: "r", Node: "n"}); err != nil {
			b.Fatal(err)
		}
	}
	return db, owners
}

// chat is a message of 256 bytes from one user to another.
func chat(owners []store.OwnerID, handled uint32) store.Append {
	from, to := rand.IntN(len(owners)), rand.IntN(len(owners))
	stanza := make([]byte, 256)
	return store.Append{Session: fmt.Sprint(from), Epoch: 1, Handled: handled, Drafts: []store.Draft{
		{Owner: owners[from], Peer: fmt.Sprint("user", to), Sent: true, Resource: "r", Stanza: stanza},
		{Owner: owners[to], Peer: fmt.Sprint("user", from), Stanza: stanza},
	}}
}

func BenchmarkAppendBatch(b *testing.B) {
	benchEach(b, func(b *testing.B, url string) {
		db, owners := benchOwners(b, url, 200)
		for _, size := range []int{1, 10, 100, 500} {
			b.Run(fmt.Sprint(size), func(b *testing.B) {
				batch := make([]store.Append, size)
				b.ReportAllocs()
				for b.Loop() {
					for i := range batch {
						batch[i] = chat(owners, 1)
					}
					if _, err := db.AppendBatch(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "messages/s")
			})
		}
	})
}

// BenchmarkWriter is the rate at which many sessions' messages are stored when
// each waits for its last one.
func BenchmarkWriter(b *testing.B) { benchEach(b, benchWriter) }

func benchWriter(b *testing.B, url string) {
	const sessions = 200
	db, owners := benchOwners(b, url, sessions)
	writer := store.NewWriter(b.Context(), db, store.WriterOptions{})
	defer writer.Close()
	turns := make(chan struct{})
	var group sync.WaitGroup
	for range sessions {
		group.Go(func() {
			stored := make(chan error, 1)
			for range turns {
				err := writer.Submit(b.Context(), chat(owners, 1), func(a store.Appended) { stored <- a.Err })
				if err == nil {
					err = <-stored
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	for b.Loop() {
		turns <- struct{}{}
	}
	close(turns)
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

func BenchmarkRead(b *testing.B) { benchEach(b, benchRead) }

func benchRead(b *testing.B, url string) {
	const each = 1000
	db, owners := benchOwners(b, url, 50)
	for range each {
		var batch []store.Append
		for _, owner := range owners { // the entries of many owners lie mixed
			batch = append(batch, store.Append{Drafts: []store.Draft{{Owner: owner, Stanza: make([]byte, 256)}}})
		}
		if _, err := db.AppendBatch(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	for _, limit := range []int{1, 50} {
		b.Run(fmt.Sprint(limit), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				page, err := db.Read(b.Context(), owners[rand.IntN(len(owners))], uint64(rand.IntN(each-limit)), limit)
				if err != nil || len(page) != limit {
					b.Fatal(len(page), err)
				}
			}
		})
	}
}
