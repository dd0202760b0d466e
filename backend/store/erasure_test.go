package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imlb/backend/store"
)

// erasedWord is in all that the test's user has.
const erasedWord = "Rosebud"

// What was erased is not in the file any more, nor in its log, while nodes that have it open
// go on.
func TestErasedIsOverwritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "imlb.db")
	node := open(t, path, store.Options{})
	defer node.Close()
	db := open(t, path, store.Options{})
	defer db.Close()
	var users []string
	for i := range 40 {
		users = append(users, fmt.Sprintf("%s%d@example.com", erasedWord, i), fmt.Sprintf("user%d@example.com", i))
	}
	for round := range 3 { // pages are split, and shared with others
		for _, user := range users {
			occupy(t, node, user, round)
		}
	}
	for _, user := range users {
		if strings.HasPrefix(user, erasedWord) {
			if _, err := db.EraseAccount(t.Context(), user); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Nodes must hear of it: the addresses of the last accounts that were deleted stay.
	kept := len(lines(t, look(t, path), `SELECT name FROM account_changes`))
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte(erasedWord), []byte("?"+erasedWord))
		if n := bytes.Count(b, []byte(erasedWord)); n > kept {
			at := bytes.LastIndex(b, []byte(erasedWord))
			t.Errorf("imlb.db%s has %d times what was erased, and %d changes: …%q…", suffix, n, kept, b[max(at-100, 0):min(at+100, len(b))])
		}
	}
}

// occupy gives a user something of everything, or other things instead.
func occupy(t *testing.T, db *store.DB, user string, round int) {
	t.Helper()
	a, err := db.Account(t.Context(), user)
	if err != nil {
		if a, err = db.CreateAccount(t.Context(), user, nil); err != nil {
			t.Fatal(err)
		}
	}
	word := strings.Repeat(fmt.Sprintf("%.7s %d ", user, round), 20+300*round)
	entries := make([]store.Append, 30)
	for i := range entries {
		entries[i].Drafts = []store.Draft{{Owner: a.Owner, Peer: user[:7] + "@example.net", Stanza: []byte(word[:200]), Hidden: i%2 == 0}}
	}
	for _, do := range []func(context.Context) error{
		func(ctx context.Context) error { return db.SetVCard(ctx, a.Owner, []byte(word)) },
		func(ctx context.Context) error {
			return db.SetPrivateXML(ctx, a.Owner, []store.PrivateXML{{Space: user, XML: []byte(word)}}, store.Quota{})
		},
		func(ctx context.Context) error {
			_, err := db.UpdateBlocklist(ctx, a.Owner, func([]string) []string { return []string{user + "/" + word[:100]} })
			return err
		},
		func(ctx context.Context) error {
			return db.SetArchivePrefs(ctx, a.Owner, store.ArchivePrefs{Never: []string{user + "/" + word[:100]}})
		},
		func(ctx context.Context) error {
			var items []store.RosterItem
			for i := range 20 {
				items = append(items, store.RosterItem{Contact: fmt.Sprint(i, user), Name: word[:100*round+40], InRoster: true, PendingIn: []byte(word)})
			}
			return db.RestoreRoster(ctx, a.Owner, items, uint64(round)+1)
		},
		func(ctx context.Context) error {
			_, err := db.AppendBatch(ctx, entries)
			return err
		},
		func(ctx context.Context) error {
			_, _, err := db.Trim(ctx, store.Retention{Hidden: time.Now().Add(time.Hour)}, 0, 1000)
			return err
		},
		func(ctx context.Context) error {
			return db.SetState(ctx, user, store.AccountState{Suspended: true, Reason: word[:100]})
		},
	} {
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
