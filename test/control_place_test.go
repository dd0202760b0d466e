package test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestControlPlacement: users stay where they are, whoever is asked and however
// restless a node is.
func TestControlPlacement(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 16})
	t.Run("Agreement", func(t *testing.T) { t.Parallel(); testAgreement(t, d) })
	t.Run("Flapping", func(t *testing.T) { t.Parallel(); testFlapping(t, d) })
}

// shuffled returns the values in another order each time.
func shuffled[T any](values []T) []T {
	other := slices.Clone(values)
	rand.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
	return other
}

// testAgreement: three fronts that are told of the same nodes in different orders
// place users alike, and as `imlb place` says.
func testAgreement(t *testing.T, d *dev) {
	const nodes, users, asked = 7, 100_000, 300
	healthy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"ready": true}`)
	}))
	t.Cleanup(healthy.Close)
	var members, entries []string
	for i := range nodes {
		name, weight := fmt.Sprintf("node-%c", 'a'+i), 1+i%3
		members = append(members, fmt.Sprintf("%s %d\n", name, weight))
		entries = append(entries, fmt.Sprintf("{name: %s, weight: %d, address: \"127.0.0.1:%d\", admin: %q}", name, weight, 1+i, healthy.Listener.Addr()))
	}
	names := make([]string, users)
	for i := range names {
		names[i] = fmt.Sprintf("user%d@localhost", i)
	}
	placed := place(t, members, names)
	for range 2 {
		other := place(t, shuffled(members), names)
		for u, node := range placed {
			if other[u] != node {
				t.Fatalf("imlb place puts %s on %s or on %s, depending on the order of the members", u, node, other[u])
			}
		}
	}
	for range 3 {
		f := newFront(t, d)
		f.start("--config", f.document(frontDocument{
			pools: []string{fmt.Sprintf("chat: {nodes: [%s], %s}", strings.Join(shuffled(entries), ", "), agentChecks)},
		}))
		awaitStatus(t, f.admin(), "all nodes fit", func(s frontStatus) bool { return s.pool("chat").Fit == nodes })
		for range asked {
			u := names[rand.IntN(users)]
			if got := explain(t, f.admin(), u).Node; got != placed[u] {
				t.Fatalf("a front puts %s on %q, imlb place on %q", u, got, placed[u])
			}
		}
	}
}

// place asks `imlb place` for the nodes of users, given these members.
func place(t *testing.T, members, users []string) map[string]string {
	t.Helper()
	file := document(t, t.TempDir(), "members", strings.Join(members, ""))
	out, code := runs(t, strings.Join(users, "\n"), program(t), []string{"place", "--members", file})
	if code != 0 {
		t.Fatalf("imlb place: exit code %d\n%s", code, tail(out))
	}
	placed := make(map[string]string, len(users))
	for line := range strings.Lines(out) {
		user, node, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		placed[user] = node
	}
	if len(placed) != len(users) || !slices.ContainsFunc(slices.Collect(maps.Values(placed)), func(n string) bool { return n != "" }) {
		t.Fatalf("imlb place placed %d of %d users", len(placed), len(users))
	}
	return placed
}

// restless passes questions on to a node, or says that it is not well.
func restless(t *testing.T, n devNode) (admin string, ill *atomic.Bool) {
	t.Helper()
	ill = new(atomic.Bool)
	well := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: n.Admin})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		well.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), ill
}

// testFlapping: a node that falls ill and recovers every second is left alone
// before long. Its sessions go on, and its users move a few times at most.
func testFlapping(t *testing.T, d *dev) {
	// Four losses in a short time are too many: a way there and back for each of
	// the first three, and a last one.
	const flaps, mostMoves = 20, 7
	flapper := d.Nodes[1]
	admin, ill := restless(t, flapper)
	var entries []string
	for _, n := range d.Nodes {
		if n.Name == flapper.Name {
			n.Admin = admin
		}
		entries = append(entries, fmt.Sprintf("{name: %s, address: %q, admin: %q}", n.Name, n.Addr, n.Admin))
	}
	f := newFront(t, d)
	f.start("--config", f.document(frontDocument{pools: []string{fmt.Sprintf(
		"chat: {nodes: [%s], checks: [{type: agent}], check: {interval: 200ms, timeout: 2s}}", strings.Join(entries, ", "))}}))
	awaitStandings(t, f.admin(), d.allFit())
	alice := d.account(t)
	for explain(t, f.admin(), alice.jid).Node != flapper.Name {
		alice = d.account(t)
	}
	talk := converse(t, f, f.at(0), alice, d.account(t))
	watched := watchMoves(t, f.admin(), flapper.Name)

	second := time.NewTicker(time.Second)
	defer second.Stop()
	calm := 0 // moves up to the middle
	for i := range flaps {
		ill.Store(i%2 == 0)
		<-second.C
		if i == flaps/2 {
			calm = watched.most()
		}
		if e := explain(t, f.admin(), alice.jid); e.Pinned != flapper.Name {
			t.Errorf("the user with a session on %s is explained as %+v", flapper.Name, e)
		}
	}
	ill.Store(false)
	watched.look.stop()
	moves := watched.most()
	t.Logf("%d flaps moved a user %d times at most", flaps, moves)
	if moves == 0 || moves > mostMoves {
		t.Errorf("a user moved %d times, want from 1 to %d", moves, mostMoves)
	}
	if moves > calm {
		t.Errorf("users still moved in the second half: %d times, %d of them in the first", moves, calm)
	}
	if n := watched.elsewhere(); n > 0 {
		t.Errorf("%d users of other nodes moved", n)
	}
	talk.goesOn(10)
}

// moves counts how often users would be placed elsewhere than before.
type moves struct {
	look *activity

	mu    sync.Mutex
	home  map[string]string // to begin with
	at    map[string]string
	count map[string]int
	node  string
}

// watchMoves looks after users of a node and of others all the time.
func watchMoves(t *testing.T, admin, node string) *moves {
	t.Helper()
	const each = 3
	m := &moves{home: map[string]string{}, at: map[string]string{}, count: map[string]int{}, node: node}
	its, others := 0, 0
	for u, at := range placements(t, admin, strangers(40)) {
		if at == node && its < each {
			m.home[u], its = at, its+1
		} else if at != node && others < each {
			m.home[u], others = at, others+1
		}
	}
	if its < each || others < each {
		t.Fatalf("of 40 users %d live on %s", its, node)
	}
	maps.Copy(m.at, m.home)
	m.look = act(t, "the look at users' places", loginPause, func(ctx context.Context, _ int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		for u := range m.home {
			e, err := readExplanation(ctx, admin, u)
			if err != nil {
				return err
			}
			m.seen(u, e.Node)
		}
		return nil
	})
	return m
}

func (m *moves) seen(user, node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at[user] != node {
		m.at[user] = node
		m.count[user]++
	}
}

// most is how often the user moved who moved most.
func (m *moves) most() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	most := 0
	for _, n := range m.count {
		most = max(most, n)
	}
	return most
}

// elsewhere counts the users of other nodes who moved.
func (m *moves) elsewhere() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	moved := 0
	for u := range m.count {
		if m.home[u] != m.node {
			moved++
		}
	}
	return moved
}
