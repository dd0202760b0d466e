package bus_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"imlb/backend/bus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// node is a bus with what it has heard.
type node struct {
	*bus.Bus
	heard chan bus.Signal
	lost  chan uint16
}

func options(name string) (bus.Options, node) {
	n := node{heard: make(chan bus.Signal, 1<<16), lost: make(chan uint16, 1<<16)}
	return bus.Options{
		Name:     name,
		Embedded: &bus.Embedded{},
		Handler:  func(s bus.Signal) { n.heard <- s },
		Lost:     func(p uint16) { n.lost <- p },
		Logger:   slog.New(slog.DiscardHandler),
	}, n
}

func start(t *testing.T, name string, change func(*bus.Options)) node {
	t.Helper()
	o, n := options(name)
	if change != nil {
		change(&o)
	}
	b, err := bus.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	n.Bus = b
	return n
}

// clustered starts a node that connects to others.
func clustered(t *testing.T, name string, others ...node) node {
	t.Helper()
	return start(t, name, func(o *bus.Options) {
		o.Embedded.Cluster = "127.0.0.1:0"
		for _, other := range others {
			o.Embedded.Routes = append(o.Embedded.Routes, other.ClusterAddr())
		}
	})
}

func together(t *testing.T, nodes ...node) {
	t.Helper()
	for _, n := range nodes {
		eventually(t, "nodes hear each other", func() bool { return n.Nodes() == len(nodes)-1 })
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("never: %s", what)
		}
	}
}

func host(t *testing.T, n node, partition uint16) {
	t.Helper()
	if err := n.Host(partition); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, n node, s bus.Signal) {
	t.Helper()
	if err := n.Publish(s); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, n node) bus.Signal {
	t.Helper()
	select {
	case s := <-n.heard:
		return s
	case <-time.After(patience):
		t.Fatal("no signal")
		return bus.Signal{}
	}
}

func nextLost(t *testing.T, n node) uint16 {
	t.Helper()
	select {
	case p := <-n.lost:
		return p
	case <-time.After(patience):
		t.Fatal("no word of loss")
		return 0
	}
}

func entry(partition uint16, seq uint64) bus.Signal {
	return bus.Signal{Kind: bus.Entry, Partition: partition, User: "alice@example.com", Seq: seq, Data: []byte("<message/>")}
}

func TestOwnSignalsComeBack(t *testing.T) {
	n := start(t, "a", nil)
	host(t, n, 7)
	sent := bus.Signal{Kind: bus.Stanza, Partition: 7, User: "alice@example.com", Target: "büro", Data: []byte("<iq/>")}
	publish(t, n, sent)
	if got := next(t, n); fmt.Sprint(got) != fmt.Sprint(sent) {
		t.Fatalf("got %v, want %v", got, sent)
	}
	if !n.Healthy() {
		t.Fatal(n.Err())
	}
}

func TestOrderAmongThreeNodes(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b", a)
	c := clustered(t, "c", a) // learns of b from a
	together(t, a, b, c)
	host(t, c, 1)
	host(t, c, 2)

	const each = 2000
	var senders sync.WaitGroup
	for i, from := range []node{a, b, c} {
		senders.Go(func() {
			for seq := range uint64(each) {
				s := entry(uint16(1+seq%2), seq)
				s.Target = fmt.Sprint(i)
				if err := from.Publish(s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()

	last := map[string]uint64{}
	for range 3 * each {
		s := next(t, c)
		from := fmt.Sprint(s.Target, "/", s.Partition)
		if seq, ok := last[from]; ok && s.Seq != seq+2 {
			t.Fatalf("%s: %d after %d", from, s.Seq, seq)
		}
		last[from] = s.Seq
	}
}

// What is published anywhere after Host has returned must be heard.
func TestHostIsKnownEverywhere(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b", a)
	c := clustered(t, "c", a, b)
	together(t, a, b, c)
	for p := range uint16(300) {
		host(t, a, p)
		publish(t, b, entry(p, 1))
		publish(t, c, entry(p, 2))
		if sum := next(t, a).Seq + next(t, a).Seq; sum != 3 {
			t.Fatalf("sum %d", sum)
		}
	}
}

func TestHostManyAtOnce(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b", a)
	together(t, a, b)
	var logins sync.WaitGroup
	for i := range 500 {
		logins.Go(func() {
			p := uint16(i % 100)
			if err := a.Host(p); err != nil {
				t.Error(err)
				return
			}
			if err := b.Publish(entry(p, uint64(i))); err != nil {
				t.Error(err)
			}
		})
	}
	logins.Wait()
	for range 500 {
		next(t, a)
	}
}

func TestUnhostCounts(t *testing.T) {
	n := start(t, "a", nil)
	host(t, n, 1)
	host(t, n, 1)
	host(t, n, 2)
	n.Unhost(1)
	publish(t, n, entry(1, 1))
	if s := next(t, n); s.Partition != 1 {
		t.Fatalf("got %v", s)
	}
	n.Unhost(1)
	n.Unhost(1) // one too many does no harm
	publish(t, n, entry(1, 2))
	publish(t, n, entry(2, 3))
	if s := next(t, n); s.Seq != 3 {
		t.Fatalf("got %v after Unhost", s)
	}
	host(t, n, 1)
	publish(t, n, entry(1, 4))
	if s := next(t, n); s.Seq != 4 {
		t.Fatalf("got %v after hosting again", s)
	}
}

func TestNodeDiesAndComesBack(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b", a)
	c := clustered(t, "c", a)
	together(t, a, b, c)
	address := c.ClusterAddr()
	host(t, a, 5)
	for len(a.lost) > 0 {
		<-a.lost
	}

	if a.Silent("b") || a.Silent("c") || a.Silent("never heard") {
		t.Error("a node that was not missed is silent")
	}
	c.Crash()
	eventually(t, "a forgets c", func() bool { return a.Nodes() == 1 })
	if a.Silent("b") || !a.Silent("c") {
		t.Errorf("silent: b %t, c %t", a.Silent("b"), a.Silent("c"))
	}
	host(t, a, 6)
	publish(t, b, entry(6, 1))
	next(t, a)

	again := start(t, "c", func(o *bus.Options) {
		o.Embedded.Cluster = address
		o.Embedded.Routes = []string{a.ClusterAddr()}
	})
	together(t, a, b, again)
	if p := nextLost(t, a); p != 5 && p != 6 {
		t.Fatalf("lost %d", p)
	}
	publish(t, again, entry(5, 2))
	if s := next(t, a); s.Seq != 2 {
		t.Fatalf("got %v", s)
	}
	eventually(t, "a hears c again", func() bool { return !a.Silent("c") })
}

func TestGoodbyeIsHeard(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b", a)
	together(t, a, b)
	host(t, a, 1)
	const many = 1000
	for seq := range uint64(many) {
		publish(t, b, entry(1, seq))
	}
	b.Close()
	for range many {
		next(t, a)
	}
	eventually(t, "a forgets b", func() bool { return a.Nodes() == 0 })
	if err := b.Host(1); err == nil {
		t.Fatal("hosts after Close")
	}
}

func TestOwnConnectionBreaks(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b", a)
	together(t, a, b)
	host(t, a, 1)
	host(t, b, 2)
	drain(a.lost)
	drain(b.lost)
	if err := a.CutConnection(); err != nil {
		t.Fatal(err)
	}
	if p := nextLost(t, a); p != 1 {
		t.Fatalf("a lost %d", p)
	}
	if p := nextLost(t, b); p != 2 {
		t.Fatalf("b lost %d", p)
	}
	publish(t, b, entry(1, 1))
	next(t, a)
}

func drain(c chan uint16) {
	for len(c) > 0 {
		<-c
	}
}

// A route that breaks for less than a beat.
func TestRouteBreaks(t *testing.T) {
	a := clustered(t, "a")
	wire := newWire(t, a.ClusterAddr())
	b := start(t, "b", func(o *bus.Options) {
		o.Embedded.Cluster = "127.0.0.1:0"
		o.Embedded.Advertise = wire.addr() // not reached from a
		o.Embedded.Routes = []string{wire.addr()}
	})
	together(t, a, b)
	host(t, a, 1)
	host(t, b, 2)
	drain(a.lost)
	drain(b.lost)
	wire.cut()
	if p := nextLost(t, a); p != 1 {
		t.Fatalf("a lost %d", p)
	}
	if p := nextLost(t, b); p != 2 {
		t.Fatalf("b lost %d", p)
	}
	publish(t, b, entry(1, 1))
	next(t, a)
}

func TestSlowHandler(t *testing.T) {
	gate := make(chan struct{})
	n := start(t, "a", func(o *bus.Options) {
		o.Queue = 4
		handle := o.Handler
		o.Handler = func(s bus.Signal) {
			<-gate
			handle(s)
		}
	})
	host(t, n, 1)
	for seq := range uint64(100) {
		publish(t, n, entry(1, seq))
	}
	host(t, n, 2) // everything before has come by
	close(gate)
	if p := nextLost(t, n); p != 1 {
		t.Fatalf("lost %d", p)
	}
	first := next(t, n)
	if first.Seq != 0 {
		t.Fatalf("first %v", first)
	}
	next(t, n) // of those in the queue, which has room from now on
	publish(t, n, entry(1, 1000))
	for next(t, n).Seq != 1000 {
	}
}

func TestSecret(t *testing.T) {
	guarded := func(secret string, routes ...string) func(*bus.Options) {
		return func(o *bus.Options) {
			*o.Embedded = bus.Embedded{Listen: "127.0.0.1:0", Cluster: "127.0.0.1:0", Routes: routes, Secret: secret}
		}
	}
	a := start(t, "a", guarded("s3cret"))
	b := start(t, "b", guarded("s3cret", a.ClusterAddr()))
	together(t, a, b)
	start(t, "c", guarded("guess", a.ClusterAddr()))

	o, _ := options("d")
	o.Embedded, o.URLs = nil, []string{"nats://" + a.ClientAddr()}
	if d, err := bus.Start(t.Context(), o); err == nil {
		d.Close()
		t.Fatal("connected without the secret")
	}
	o.URLs = []string{"nats://imlb:s3cret@" + a.ClientAddr()}
	d, err := bus.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	eventually(t, "three nodes", func() bool { return d.Nodes() == 2 && a.Nodes() == 2 })
}

func TestSetRoutes(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b")
	if err := a.SetRoutes([]string{a.ClusterAddr(), b.ClusterAddr()}); err != nil {
		t.Fatal(err)
	}
	together(t, a, b)
	if err := a.SetRoutes([]string{"nonsense"}); err == nil {
		t.Fatal("took nonsense")
	}
}

func TestStartFails(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, change := range map[string]func(*bus.Options){
		"no name":           func(o *bus.Options) { o.Name = "" },
		"no handler":        func(o *bus.Options) { o.Handler = nil },
		"no server":         func(o *bus.Options) { o.Embedded = nil },
		"two servers":       func(o *bus.Options) { o.URLs = []string{"nats://127.0.0.1:1"} },
		"no URL":            func(o *bus.Options) { o.Embedded, o.URLs = nil, []string{"nats://127.0.0.1:x"} },
		"cluster in use":    func(o *bus.Options) { o.Embedded.Cluster = taken.Addr().String() },
		"clients in use":    func(o *bus.Options) { o.Embedded.Listen = taken.Addr().String() },
		"no port":           func(o *bus.Options) { o.Embedded.Cluster = "127.0.0.1" },
		"bad port":          func(o *bus.Options) { o.Embedded.Listen = "127.0.0.1:x" },
		"bad route":         func(o *bus.Options) { o.Embedded.Cluster, o.Embedded.Routes = "127.0.0.1:0", []string{"x"} },
		"routes of nothing": func(o *bus.Options) { o.Embedded.Routes = []string{"127.0.0.1:1"} },
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := options("a")
			change(&o)
			if b, err := bus.Start(t.Context(), o); err == nil {
				b.Close()
				t.Fatal("started")
			} else {
				t.Log(err)
			}
		})
	}
}

func TestPublishRefuses(t *testing.T) {
	n := start(t, "a", nil)
	for name, s := range map[string]bus.Signal{
		"no user":      {Kind: bus.Entry},
		"no kind":      {User: "alice@example.com"},
		"unknown kind": {Kind: 99, User: "alice@example.com"},
	} {
		if err := n.Publish(s); err == nil {
			t.Errorf("%s: published", name)
		}
	}
	huge := bus.Signal{Kind: bus.Entry, User: "alice@example.com", Data: make([]byte, 1<<20)}
	if err := n.Publish(huge); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("huge: %v", err)
	}
	huge.User, huge.Data = strings.Repeat("ü", 1000)+"@"+strings.Repeat("x.", 511)+"x", nil
	host(t, n, 0)
	publish(t, n, huge)
	if got := next(t, n); got.User != huge.User {
		t.Errorf("got user %q", got.User)
	}
}

// Servers that somebody else runs: both nodes are told when theirs was away.
func TestServerElsewhereRestarts(t *testing.T) {
	elsewhere := startElsewhere(t, "127.0.0.1:0")
	address := elsewhere.Addr().String()
	use := func(o *bus.Options) { o.Embedded, o.URLs = nil, []string{"nats://" + address} }
	a, b := start(t, "a", use), start(t, "b", use)
	together(t, a, b)
	host(t, a, 1)
	drain(a.lost)

	elsewhere.Shutdown()
	elsewhere.WaitForShutdown()
	eventually(t, "a notices", func() bool { return !a.Healthy() && !b.Healthy() })
	if err := a.Publish(entry(1, 1)); err == nil {
		t.Error("published while there was no server")
	}
	if s := next(t, a); s.Seq != 1 {
		t.Errorf("the node itself got %v", s)
	}
	host(t, a, 2) // of which nothing is heard yet
	if err := a.Err(); err != nil || a.Away() == nil {
		t.Errorf("out of order: %v; away: %v", err, a.Away())
	}

	startElsewhere(t, address)
	eventually(t, "a and b are back", func() bool { return a.Healthy() && b.Healthy() })
	if p, q := nextLost(t, a), nextLost(t, a); p+q != 3 || p == q {
		t.Fatalf("lost %d and %d", p, q)
	}
	publish(t, b, entry(2, 3))
	if s := next(t, a); s.Seq != 3 {
		t.Fatalf("got %v", s)
	}
}

// A node starts without the servers that somebody else runs, and is on the bus once they
// are there.
func TestServerElsewhereComesLater(t *testing.T) {
	free := startElsewhere(t, "127.0.0.1:0")
	address := free.Addr().String()
	free.Shutdown()
	free.WaitForShutdown()
	a := start(t, "a", func(o *bus.Options) { o.Embedded, o.URLs = nil, []string{"nats://" + address} })
	if err := a.Err(); err != nil || a.Away() == nil || a.Hears("a") {
		t.Errorf("out of order: %v; away: %v; hears itself: %t", err, a.Away(), a.Hears("a"))
	}
	host(t, a, 1)
	if err := a.Publish(entry(1, 1)); err == nil {
		t.Error("published while there was no server")
	}
	if s := next(t, a); s.Seq != 1 {
		t.Errorf("the node itself got %v", s)
	}

	startElsewhere(t, address)
	eventually(t, "the node is connected", a.Healthy)
	if p := nextLost(t, a); p != 1 {
		t.Fatalf("lost %d", p)
	}
	b := start(t, "b", func(o *bus.Options) { o.Embedded, o.URLs = nil, []string{"nats://" + address} })
	together(t, a, b)
	publish(t, b, entry(1, 2))
	if s := next(t, a); s.Seq != 2 {
		t.Fatalf("got %v", s)
	}
}

func startElsewhere(t *testing.T, address string) *server.Server {
	t.Helper()
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(service)
	if err != nil {
		t.Fatal(err)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{Host: host, Port: port, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("server not ready")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

// Whoever hosts and unhosts at the same time must neither miss what it hosts nor
// hear anything twice.
func TestHostingComesAndGoes(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b", a)
	together(t, a, b)
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			for range 50 {
				if err := a.Host(3); err != nil {
					t.Error(err)
					return
				}
				a.Unhost(3)
			}
		})
	}
	users.Wait()
	publish(t, b, entry(3, 1)) // nobody listens
	host(t, b, 9)              // what b has published is out
	host(t, a, 3)
	for seq := range uint64(100) {
		publish(t, b, entry(3, 100+seq))
	}
	for seq := range uint64(100) {
		if s := next(t, a); s.Seq != 100+seq {
			t.Fatalf("got %d, want %d", s.Seq, 100+seq)
		}
	}
}

func TestCloseWhileHosting(t *testing.T) {
	a := clustered(t, "a")
	b := clustered(t, "b", a)
	together(t, a, b)
	var users sync.WaitGroup
	for p := range uint16(100) {
		users.Go(func() {
			for b.Host(p) == nil {
				b.Unhost(p)
			}
		})
	}
	b.Close()
	users.Wait()
	b.Close()
	if b.Healthy() {
		t.Error("healthy after Close")
	}
	if err := b.Publish(entry(1, 1)); err == nil {
		t.Error("published after Close")
	}
}
