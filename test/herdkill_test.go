package test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"imlb/backend/store/storetest"
	"imlb/test/need"
)

// herdSize is how many sessions there are while something is killed.
const herdSize = 1000

// TestHerdSQLite kills one of three nodes under a thousand sessions that talk.
func TestHerdSQLite(t *testing.T) {
	skipSlow(t)
	d, h := startHerd(t, "sqlite:"+filepath.Join(t.TempDir(), "herd.db"))
	killNode(t, d, h)
	h.settle()
	h.quit()
	h.running.Wait()
	h.check()
}

// TestHerdPostgres does so on PostgreSQL, and then kills that.
func TestHerdPostgres(t *testing.T) {
	skipSlow(t)
	p := startPostgres(t)
	d, h := startHerd(t, newDatabase(t, p))
	killNode(t, d, h)
	h.talkOn(2)
	p.Kill()
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.talkOn(2)
	h.settle()
	h.quit()
	h.running.Wait()
	h.check()
}

// startPostgres runs a server until the end of the test.
func startPostgres(t *testing.T) *storetest.Postgres {
	t.Helper()
	p, err := storetest.StartPostgres(t.Context())
	if errors.Is(err, storetest.ErrNoPostgres) {
		need.Missing(t, "postgresql")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() })
	return p
}

// newDatabase returns the URL of an empty database.
func newDatabase(t *testing.T, p *storetest.Postgres) string {
	t.Helper()
	url, err := p.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// skipSlow leaves a test out where clients and servers are too slow for a herd.
func skipSlow(t *testing.T) {
	t.Helper()
	if raceDetector {
		t.Skip("it runs without the race detector, which is too slow for so many")
	}
}

func startHerd(t *testing.T, url string) (*dev, *herd) {
	t.Helper()
	herdAccounts(t, url, herdSize/2)
	d := startDev(t, devOptions{users: 1, args: []string{"--nodes", "3", "--database", url}})
	h := newHerd(t, d, herdSize, 2*time.Second)
	eventually(t, "all are online", func(context.Context) (bool, string) {
		n := 0
		for _, m := range h.members {
			if m.isThere() {
				n++
			}
		}
		return n == herdSize, fmt.Sprintf("%d are; %v", n, h.trouble.Load())
	})
	close(h.start)
	h.talkOn(2)
	return d, h
}

// killNode kills the node that has most, and waits until all its sessions have been
// resumed on others.
func killNode(t *testing.T, d *dev, h *herd) {
	t.Helper()
	victim := d.busiest(t)
	hosted := d.sessionsOn(t, victim)
	before := h.resumed.Load()
	d.end(t, victim, syscall.SIGKILL)
	eventually(t, "resumptions after the end of "+victim, func(context.Context) (bool, string) {
		n := h.resumed.Load() - before
		return n >= int64(hosted), fmt.Sprintf("%d of %d; %v", n, hosted, h.trouble.Load())
	})
	if n := h.over.Load(); n > 0 {
		t.Errorf("%d sessions were not resumed", n)
	}
	h.talkOn(2)
}

// talkOn waits until everybody has heard n more messages.
func (h *herd) talkOn(n int) {
	h.t.Helper()
	want := make([]int, len(h.members))
	for i, m := range h.members {
		_, _, heard, _ := m.counts()
		want[i] = heard + n
	}
	eventually(h.t, "the talk goes on", func(context.Context) (bool, string) {
		waiting := 0
		for i, m := range h.members {
			if _, _, heard, _ := m.counts(); heard < want[i] {
				waiting++
			}
		}
		return waiting == 0, fmt.Sprintf("%d of %d have not heard anything", waiting, len(h.members))
	})
}
