package bus_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"imlb/backend/bus"
)

// book is a log that is read while it is written.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A cluster that is only just coming up is nothing to warn of.
func TestServerLog(t *testing.T) {
	var log book
	start(t, "a", func(o *bus.Options) {
		o.Embedded.Cluster, o.Embedded.Routes = "127.0.0.1:0", []string{"127.0.0.1:1"}
		o.Embedded.Secret = "s3cret"
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	eventually(t, "the route is tried", func() bool { return strings.Contains(log.String(), "127.0.0.1:1") })
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "level=INFO") {
			t.Error(line)
		}
	}
	if strings.Contains(log.String(), "s3cret") {
		t.Error("the secret is in the log")
	}
}
