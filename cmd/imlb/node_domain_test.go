package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
	"imlb/configs"
	"imlb/test/need"
)

// onEachDatabase runs a test with the URL of an empty database of each kind.
func onEachDatabase(t *testing.T, run func(t *testing.T, url string)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		run(t, "sqlite:"+filepath.Join(t.TempDir(), "imlb.db"))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		server, err := storetest.StartPostgres(t.Context(), "fsync=off")
		if errors.Is(err, storetest.ErrNoPostgres) {
			need.Missing(t, "postgresql")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := server.Stop(); err != nil {
				t.Error(err)
			}
		})
		url, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		run(t, url)
	})
}

// documentOnDatabase is that of a node of a domain.
func documentOnDatabase(t *testing.T, domain, database string) configs.Node {
	t.Helper()
	file := filepath.Join(t.TempDir(), "node.yaml")
	text := fmt.Sprintf("name: node-1\ndomain: %s\nlisten: 127.0.0.1:0\nadmin: {address: '127.0.0.1:0'}\nlog: {level: error}\ndatabase: {url: %q}\n", domain, database)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	doc, err := configs.LoadNode(file)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// A node makes a database that of its domain, and a node of another domain does not start on it.
func TestDatabaseOfAnotherDomain(t *testing.T) {
	t.Parallel()
	onEachDatabase(t, func(t *testing.T, url string) {
		t.Helper()
		ours, theirs := documentOnDatabase(t, "a.example", url), documentOnDatabase(t, "b.example", url)
		db, err := store.Open(t.Context(), url, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for range 2 {
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- runNode(ctx, ours) }()
			eventually(t, "the node serves", func() bool {
				live, err := db.LiveNodes(t.Context())
				return err == nil && len(live) == 1 || len(ended) > 0
			})
			stop()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
		limited, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = runNode(limited, theirs)
		if foreign, ok := errors.AsType[*store.DomainError](err); !ok || foreign.Owner != "a.example" || foreign.Domain != "b.example" {
			t.Errorf("the other node says %v", err)
		}
		for _, domain := range []string{"a.example", "b.example"} {
			c := userCmd{Database: url, Domain: domain}
			err := c.with(t.Context(), func(*directory) error { return nil })
			if refused := err != nil && strings.Contains(err.Error(), "holds the users of a.example"); refused != (domain == "b.example") {
				t.Errorf("imlb user with %s says %v", domain, err)
			}
		}
	})
}
