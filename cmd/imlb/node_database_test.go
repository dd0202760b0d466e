package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
	"imlb/test/need"
)

// A node that is started while its database is away waits for it, says so, and serves when it is there; one that is
// stopped meanwhile has not failed. What does not mend itself is an error at once.
func TestDatabaseAwayAtStart(t *testing.T) {
	t.Parallel()
	server, err := storetest.StartPostgres(t.Context(), "fsync=off")
	if errors.Is(err, storetest.ErrNoPostgres) {
		need.Missing(t, "postgresql")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	url, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := runNode(t.Context(), documentOnDatabase(t, "a.example", url+"_of_nobody")); err == nil || store.IsAway(err) {
		t.Errorf("without a database that could come: %v", err)
	}
	server.Kill()
	doc := documentOnDatabase(t, "a.example", url)
	doc.Admin.Address = freeAddress(t)
	run := func() (stop func()) {
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- runNode(ctx, doc) }()
		return func() {
			t.Helper()
			end()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	answers := func(path, want string) {
		t.Helper()
		eventually(t, path+" says "+want, func() bool {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+doc.Admin.Address+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return false
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			return err == nil && strings.HasPrefix(response.Status[:3]+" "+string(body), want)
		})
	}
	stop := run()
	answers("/livez", "200 alive")
	answers("/readyz", "503 the node starts, and waits for its database")
	stop()
	stop = run()
	answers("/readyz", "503 the node starts, and waits for its database")
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	answers("/readyz", "200 ready")
	answers("/livez", "200 alive")
	stop()
}

// freeAddress is one that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.77.0.1:0") // where no connection takes the port meanwhile
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
