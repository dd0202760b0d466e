package proxy_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"imlb/proxy"
	"imlb/proxy/loop"
)

// scarce leaves the process no descriptor until the returned func is called, or the test ends. Such
// a test runs alone.
func scarce(t *testing.T) (enough func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	// Those that are free below the limit are taken, one by one.
	few := syscall.Rlimit{Cur: min(before.Cur, uint64(len(entries)+64)), Max: before.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	var taken []int
	for {
		fd, err := syscall.Dup(0)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	over := false
	enough = func() {
		if over {
			return
		}
		over = true
		for _, fd := range taken {
			_ = syscall.Close(fd)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(enough)
	return enough
}

// A session that ends when there are no descriptors does not keep its client's connection.
func TestEndWithoutDescriptors(t *testing.T) {
	f, client, leg := loggedIn(t, nil)
	enough := scarce(t)
	leg.send(streamEnd)
	if err := client.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(client.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the client's connection stays open")
	}
	enough()
	f.ended("node-closed")
}

// lastDescriptor is a picker of whose nodes one has taken a session when there are no descriptors
// any more.
type lastDescriptor struct {
	*picker
	connected func()
}

func (p *lastDescriptor) Pick(ctx context.Context, user string, tried []string) (proxy.Choice, error) {
	c, err := p.picker.Pick(ctx, user, tried)
	c.Place = lastPlace{c.Place, p.connected}
	return c, err
}

type lastPlace struct {
	proxy.Place
	connected func()
}

func (p lastPlace) Report(o proxy.Outcome) {
	p.Place.Report(o)
	p.connected()
}

// A session that cannot go on a loop, because there are no descriptors, keeps no connection to
// its node.
func TestHandOverWithoutDescriptors(t *testing.T) {
	if !loop.CanDetach {
		t.Skip("loops take connections as they are here")
	}
	n, pick := onlyNode(t)
	accepted, without := make(chan struct{}), make(chan func(), 1)
	last := &lastDescriptor{pick, func() {
		<-accepted
		without <- scarce(t)
	}}
	f := startOpaque(t, last, proxy.Listener{Protocol: proxy.TLS}, nil)
	f.dialSecure(f.clientTLS())
	leg := n.leg()
	close(accepted)
	enough := <-without
	leg.over()
	enough()
	if r := f.ended("internal"); !strings.Contains(r["cause"], "too many open files") {
		t.Errorf("logged %v", r)
	}
}
