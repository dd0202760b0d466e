package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// documentOnDatabase is that of a node of a domain, with more lines.
func documentOnDatabase(t *testing.T, domain, database string, more ...string) configs.Node {
	t.Helper()
	file := filepath.Join(t.TempDir(), "node.yaml")
	text := fmt.Sprintf("name: node-1\ndomain: %s\nlisten: 127.0.0.1:0\nadmin: {address: '127.0.0.1:0'}\nlog: {level: error}\ndatabase: {url: %q}\n", domain, database)
	text += strings.Join(more, "\n")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	doc, err := configs.LoadNode(file)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// startOnDatabase runs a node until stop is called.
func startOnDatabase(t *testing.T, db store.Store, doc configs.Node) (stop func()) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runNode(ctx, doc) }()
	eventually(t, "the node serves", func() bool {
		live, err := db.LiveNodes(t.Context())
		return err == nil && slices.Contains(live, doc.Name) || len(ended) > 0
	})
	return func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
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
			startOnDatabase(t, db, ours)()
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

// As long as a node lives, none of another cluster starts on its database: they would not hear
// each other. A cluster that is renamed, and the tools for users, do not care.
func TestDatabaseOfAnotherCluster(t *testing.T) {
	t.Parallel()
	onEachDatabase(t, func(t *testing.T, url string) {
		t.Helper()
		const domain = "a.example"
		ours, theirs := documentOnDatabase(t, domain, url, "cluster: east"), documentOnDatabase(t, domain, url, "cluster: west")
		elsewhere := documentOnDatabase(t, domain, url, "cluster: north", "bus: {urls: ['nats://127.0.0.1:1']}")
		theirs.Name, elsewhere.Name = "node-2", "node-3"
		db, err := store.Open(t.Context(), url, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Claim(t.Context(), domain, ""); err != nil { // as earlier versions did
			t.Fatal(err)
		}
		stop := startOnDatabase(t, db, ours)
		limited, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = runNode(limited, theirs)
		foreign, ok := errors.AsType[*store.ClusterError](err)
		if !ok || foreign.Owner != "east" || foreign.Cluster != "west" || !slices.Equal(foreign.Nodes, []string{"node-1"}) {
			t.Errorf("the other node says %v", err)
		}
		startOnDatabase(t, db, elsewhere)() // servers elsewhere join them, or not
		c := userCmd{Database: url, Domain: domain}
		if err := c.with(t.Context(), func(*directory) error { return nil }); err != nil {
			t.Errorf("imlb user says %v", err)
		}
		stop()
		startOnDatabase(t, db, theirs)()
	})
}
