package proxy_test

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"imlb/proxy"
)

// unanswering returns the address of a node that answers no connection.
func unanswering(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for range 4 { // the queue has room for one or two
		if conn, err := net.DialTimeout("tcp", addr, 100*time.Millisecond); err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
	}
	return addr
}

// A place on a node that does not answer is given back at once.
func TestLeavesWhileNodeIsSilent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]leaver{
		"XMPP": {startXMPP, func(f *front) func() { return begin(f, plain("alice", "secret")).reset }, "client-reset"},
		"TCP":  {startOn(proxy.Listener{Protocol: proxy.TCP}), func(f *front) func() { return f.dial().reset }, "probe"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pick := parkingOf()
			pick.nodes[""] = []proxy.Node{{Name: "one", Addr: unanswering(t)}}
			pick.room <- struct{}{}
			f := test.front(t, pick, func(o *proxy.Options) {
				o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialTimeout: time.Hour}}
			})
			leaves := test.comes(f)
			next(t, pick.asked, "asked for a node")
			leaves()
			f.ended(test.want)
			held := func() bool { // which it may have been given last
				pick.mu.Lock()
				defer pick.mu.Unlock()
				return pick.live != 0
			}
			for began := time.Now(); held(); runtime.Gosched() {
				if time.Since(began) > patience {
					t.Fatal("the place was not given back")
				}
			}
			if len(pick.outcomes) > 0 {
				t.Errorf("reported %q", pick.outcomes)
			}
		})
	}
}
