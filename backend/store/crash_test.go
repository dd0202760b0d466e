package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/backend/store"
)

// crashURL names, in the environment of a child process, the database that it
// writes to until it is killed.
const crashURL = "STORE_TEST_CRASH_URL"

const (
	crashRounds    = 3
	crashProcesses = 2   // which start, write and die together
	crashSessions  = 6   // which write at the same time, in each
	crashAcks      = 150 // after which a process is killed
)

// TestCrash kills processes that write, again and again, on one database. What
// they had acknowledged must be there, once and with its number; what they had
// not is there as far as each session's handled count says.
func TestCrash(t *testing.T) {
	t.Parallel()
	if child := os.Getenv(crashURL); child != "" {
		writeUntilKilled(t, child)
	}
	onEach(t, func(t *testing.T, url string) {
		acknowledged := make(map[string]uint64)
		for round := range crashRounds {
			var heard [crashProcesses]map[string]uint64
			var group sync.WaitGroup
			for i := range heard {
				group.Go(func() { heard[i] = killWriter(t, url) })
			}
			group.Wait()
			for _, acks := range heard {
				maps.Copy(acknowledged, acks)
			}
			checkCrash(t, url, (round+1)*crashProcesses*crashSessions, acknowledged)
		}
	})
}

// killWriter runs a child until it has acknowledged enough, kills it, and
// returns what it has acknowledged: numbers by body.
func killWriter(t *testing.T, url string) map[string]uint64 {
	t.Helper()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrash$")
	child.Env = append(os.Environ(), crashURL+"="+url)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	acknowledged := make(map[string]uint64)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var body string
		var seq uint64
		if n, _ := fmt.Sscanf(lines.Text(), "ack %s %d", &body, &seq); n != 2 {
			t.Logf("a process says: %s", lines.Text()) // cut off, or from package testing
			continue
		}
		acknowledged[body] = seq
		if len(acknowledged) == crashAcks {
			kill()
		}
	}
	if err := child.Wait(); err == nil || len(acknowledged) < crashAcks {
		t.Errorf("a process ended by itself after %d messages: %v", len(acknowledged), err)
	}
	return acknowledged
}

// checkCrash looks at what is left of the sessions of all rounds so far.
func checkCrash(t *testing.T, url string, wantSessions int, acknowledged map[string]uint64) {
	t.Helper()
	db := open(t, url, store.Options{})
	defer db.Close()
	account, err := db.Account(t.Context(), "alice@example.com")
	if err != nil {
		t.Fatal(err)
	}
	seqs, counts := crashedTimeline(t, db, account.Owner)
	for body, seq := range acknowledged {
		if seqs[body] != seq {
			t.Errorf("message %s was acknowledged as number %d and is number %d", body, seq, seqs[body])
		}
	}
	sessions, err := db.SessionsOf(t.Context(), account.Owner)
	if err != nil {
		t.Fatal(err)
	}
	if len(sessions) != wantSessions {
		t.Errorf("%d sessions are left of %d", len(sessions), wantSessions)
	}
	for _, s := range sessions {
		if s.Handled != counts[s.ID] {
			t.Errorf("session %s has handled %d messages, and %d are there", s.ID, s.Handled, counts[s.ID])
		}
	}
}

// crashedTimeline reads the timeline: the numbers of its messages and how
// many each session has. It checks that there is no gap and nothing twice, and
// that each session's messages are in order.
func crashedTimeline(t *testing.T, db *store.DB, owner store.OwnerID) (seqs map[string]uint64, counts map[string]uint32) {
	t.Helper()
	seqs, counts = make(map[string]uint64), make(map[string]uint32)
	head, _, err := db.Head(t.Context(), owner)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := db.Read(t.Context(), owner, 0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(entries)) != head {
		t.Errorf("%d entries and the head is %d", len(entries), head)
	}
	for i, e := range entries {
		if e.Seq != uint64(i)+1 {
			t.Fatalf("entry %d has number %d", i+1, e.Seq)
		}
		session, n, _ := strings.Cut(string(e.Stanza), "/")
		counts[session]++
		if n != fmt.Sprint(counts[session]) {
			t.Fatalf("number %d is %s, but it is the %dth of its session", e.Seq, e.Stanza, counts[session])
		}
		seqs[string(e.Stanza)] = e.Seq
	}
	return seqs, counts
}

// writeUntilKilled is the child: its sessions submit messages as fast as they
// are taken, and it prints each acknowledgement.
func writeUntilKilled(t *testing.T, url string) {
	t.Helper()
	db := open(t, url, store.Options{BusyTimeout: time.Minute})
	owner := crashOwner(t, db)
	writer := store.NewWriter(t.Context(), db, store.WriterOptions{MaxBatch: 20, MaxBytes: 64 << 10})
	var ids [crashSessions]string
	for i := range ids { // all of them first: the kill may come while one writes alone
		ids[i] = fmt.Sprintf("%d-%d", os.Getpid(), i)
		if _, err := db.CreateSession(t.Context(), store.Session{ID: ids[i], Owner: owner, Resource: ids[i], Node: "node-1"}); err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	for _, id := range ids {
		group.Go(func() { t.Error(crashSession(t, writer, owner, id)) })
	}
	group.Wait()
}

// crashOwner returns the account, which one of the processes creates.
func crashOwner(t *testing.T, db *store.DB) store.OwnerID {
	t.Helper()
	if _, err := db.CreateAccount(t.Context(), "alice@example.com", nil); err != nil && !errors.Is(err, store.ErrExists) {
		t.Fatal(err)
	}
	account, err := db.Account(t.Context(), "alice@example.com")
	if err != nil {
		t.Fatal(err)
	}
	return account.Owner
}

func crashSession(t *testing.T, w *store.Writer, owner store.OwnerID, id string) error {
	t.Helper()
	for n := uint32(1); ; n++ {
		body := fmt.Sprintf("%s/%d", id, n)
		err := w.Submit(t.Context(), store.Append{
			Session: id, Epoch: 1, Handled: n,
			Drafts: []store.Draft{{Owner: owner, Stanza: []byte(body)}},
		}, func(a store.Appended) {
			if a.Err != nil {
				t.Errorf("message %s: %v", body, a.Err)
				return
			}
			fmt.Printf("ack %s %d\n", body, a.Seqs[0])
		})
		if err != nil {
			return err
		}
	}
}
