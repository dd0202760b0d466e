package proxy_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"imlb/proxy"
)

// revival is a picker with one node, which is gone. It comes back when it has been tried in vain.
type revival struct {
	*picker
	node   *node
	revive sync.Once
	back   chan *node
}

func newRevival(t *testing.T) *revival {
	t.Helper()
	n, pick := onlyNode(t)
	return &revival{picker: pick, node: n, back: make(chan *node, 1)}
}

func (r *revival) Pick(ctx context.Context, user string, tried []string) (proxy.Choice, error) {
	choice, err := r.picker.Pick(ctx, user, tried)
	if err != nil {
		r.revive.Do(func() {
			ln, err := net.Listen("tcp", r.node.ln.Addr().String())
			if err != nil {
				r.node.t.Error(err)
				return
			}
			r.node.t.Cleanup(func() { ln.Close() })
			r.back <- &node{t: r.node.t, name: r.node.name, ln: ln}
		})
	}
	return choice, err
}

// next is the node once it has come back.
func (r *revival) next() *node {
	r.node.t.Helper()
	select {
	case n := <-r.back:
		return n
	case <-time.After(patience):
		r.node.t.Fatal("the front has not asked for another node")
		return nil
	}
}

// waits makes sessions of a pool wait for nodes that are gone.
func waits(pick proxy.Picker, park time.Duration) func(*proxy.Options) {
	return func(o *proxy.Options) {
		o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialTimeout: patience, Park: park}}
	}
}

// A login that comes while its only node is gone, and not known to be, waits for that.
func TestNodeComesBack(t *testing.T) {
	t.Parallel()
	pick := newRevival(t)
	f := startFront(t, pick, waits(pick, patience))
	pick.node.ln.Close() // not before the front has its ports
	client := begin(f, plain("alice", "secret"))
	leg := pick.next().accept().offer()
	leg.letsIn(client, plain("alice", "secret"))
	f.leaves(client, leg)
}

func TestOpaqueNodeComesBack(t *testing.T) {
	t.Parallel()
	for _, protocol := range []proxy.Protocol{proxy.TCP, proxy.TLS} { // on a loop, and not
		t.Run(protocol.String(), func(t *testing.T) {
			t.Parallel()
			pick := newRevival(t)
			f := startOpaque(t, pick, proxy.Listener{Protocol: protocol}, waits(pick, patience))
			pick.node.ln.Close()
			client := f.client(protocol)
			leg := pick.next().leg()
			client.send("hello")
			leg.recv("hello")
			f.hangsUp(client, leg)
		})
	}
}

// It does not wait for longer than it may, nor where that is of no use.
func TestNodeStaysAway(t *testing.T) {
	t.Parallel()
	t.Run("too long", func(t *testing.T) {
		t.Parallel()
		n, pick := onlyNode(t)
		f := startFront(t, pick, waits(pick, 150*time.Millisecond)) // for two tries
		n.ln.Close()
		client := begin(f, plain("alice", "secret"))
		client.expect(streamError("internal-server-error") + streamEnd)
		client.close()
		f.ended("dial-failed")
		if got := len(pick.outcomes); got != 2 {
			t.Errorf("tried %d times: %v", got, pick.outcomes)
		}
	})
	for _, condition := range []string{"policy-violation", "host-unknown"} {
		t.Run(condition, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, waits(pick, time.Hour))
			client := begin(f, plain("alice", "secret"))
			leg := n.accept()
			leg.open()
			leg.send(nodeHeader + streamError(condition) + streamEnd)
			client.expect(streamError("internal-server-error") + streamEnd)
			client.close()
			f.ended("dial-failed")
		})
	}
}

// Who waits does not keep the front from stopping.
func TestShutdownWhileNodeIsAway(t *testing.T) {
	t.Parallel()
	for name, begins := range map[string]func(*testing.T, *revival) *front{
		"XMPP": func(t *testing.T, pick *revival) *front {
			t.Helper()
			f := startFront(t, pick, waits(pick, time.Hour))
			pick.node.ln.Close()
			begin(f, plain("alice", "secret"))
			return f
		},
		"opaque": func(t *testing.T, pick *revival) *front {
			t.Helper()
			f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, waits(pick, time.Hour))
			pick.node.ln.Close()
			f.dial()
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pick := newRevival(t)
			f := begins(t, pick)
			pick.next().ln.Close() // the front waits, or is about to
			if err := f.Shutdown(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
			f.ended("shutdown")
		})
	}
}
