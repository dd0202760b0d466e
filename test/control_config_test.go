package test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// atOnce is how long the fronts of a cluster may take to do what an operator said,
// with something on top for a busy machine.
const atOnce = 4 * time.Second

// changing is a cluster in which the configuration changes: one front goes by the
// document in Consul, another by a file, as that of `imlb dev` does.
type changing struct {
	t      *testing.T
	c      *consulAgent
	d      *dev
	f      *front   // by the document in Consul
	admins []string // of all fronts
}

// TestControlConfig: configuration changes under live sessions.
func TestControlConfig(t *testing.T) {
	t.Parallel()
	c := startConsul(t)
	d := startDev(t, devOptions{users: 20, args: []string{"--consul", c.addr}})
	c.awaitPassing(d.service(), d.living())
	s := &changing{t: t, c: c, d: d, f: newFront(t, d)}
	c.push(d.dir, s.f.text(s.plain()))
	s.f.start("--consul", c.addr, "--cluster", devCluster, "--cache", filepath.Join(t.TempDir(), "cache"))
	g := newFront(t, d)
	g.start("--config", g.document(frontDocument{
		pools: []string{d.found()}, more: fmt.Sprintf("cluster: %s\nconsul: {address: %q}\n", devCluster, c.addr),
	}))
	s.admins = []string{s.f.admin(), g.admin(), d.Front.Admin}
	for _, admin := range s.admins {
		awaitStandings(t, admin, d.allFit())
	}
	steps := []struct {
		name string
		run  func(*testing.T, *changing)
	}{
		{"OtherPool", testOtherPool},
		{"Rollback", testRollback},
		{"Overrides", testOverrides},
		{"BadDocument", testBadDocument},
	}
	for _, step := range steps { // one after another: they share the document
		if !t.Run(step.name, func(t *testing.T) { step.run(t, s) }) {
			return
		}
	}
}

// plain is the document to begin with: two listeners, each with a pool of its own.
func (s *changing) plain() frontDocument {
	return frontDocument{listeners: []string{s.side()}, pools: []string{s.d.found(), s.list("dial_timeout: 2s")}}
}

func (s *changing) side() string {
	return fmt.Sprintf("{protocol: xmpps, name: side, address: %q, pool: side}", s.f.at(1))
}

func (s *changing) extra() string {
	return fmt.Sprintf("{protocol: xmpps, name: extra, address: %q, pool: chat}", s.f.at(2))
}

// list is a pool of one node that is not found in Consul.
func (s *changing) list(more string) string {
	n := s.d.Nodes[0]
	return fmt.Sprintf("side: {nodes: [{name: %s, address: %q, admin: %q}], %s, %s}", n.Name, n.Addr, n.Admin, agentChecks, more)
}

// apply pushes a document and waits until the front listens as it says.
func (s *changing) apply(t *testing.T, o frontDocument) uint64 {
	t.Helper()
	version := s.c.push(s.d.dir, s.f.text(o))
	s.awaitApplied(t, version, len(o.listeners)+1, len(o.pools))
	return version
}

func (s *changing) awaitApplied(t *testing.T, version uint64, listeners, pools int) {
	t.Helper()
	awaitStatus(t, s.f.admin(), fmt.Sprintf("version %d with %d listeners and %d pools", version, listeners, pools), func(st frontStatus) bool {
		return st.Config.Version == version && len(st.Front.Listeners) == listeners && len(st.Pools) == pools && st.NotApplied == ""
	})
}

// testOtherPool: changes of one pool and of listeners leave the other sessions
// alone, which live on the connections that they had.
func testOtherPool(t *testing.T, s *changing) {
	f, d := s.f, s.d
	main := converse(t, f, f.at(0), d.account(t), d.account(t))
	side := converse(t, f, f.at(1), d.account(t), d.account(t))
	for i := range 4 {
		more := fmt.Sprintf("dial_timeout: %ds, dial_attempts: %d", 3+i, 1+i%2)
		s.apply(t, frontDocument{listeners: []string{s.side(), s.extra()}, pools: []string{d.found(), s.list(more)}})
		guest := f.login(t, f.at(2), d.account(t))
		main.goesOn(5)
		side.goesOn(5)

		s.apply(t, s.plain())
		wantRefused(t, f.at(2))
		guest.sync(f.via) // it came by a listener that is no more
		guest.close()
	}
	// A pool and its listener go; its sessions do not.
	s.apply(t, frontDocument{pools: []string{d.found()}})
	wantRefused(t, f.at(1))
	side.goesOn(10)
	main.goesOn(10)
	s.apply(t, s.plain())
	f.login(t, f.at(1), d.account(t)).close()
	side.goesOn(5)
	main.goesOn(5)
}

// wantRefused waits until nobody listens at an address.
func wantRefused(t *testing.T, addr string) {
	t.Helper()
	eventually(t, "a refusal at "+addr, func(ctx context.Context) (bool, string) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			err = conn.Close()
			return false, fmt.Sprint("a connection; closed: ", err)
		}
		return true, ""
	})
}

// testRollback: the history has every document, and each can come back.
func testRollback(t *testing.T, s *changing) {
	before := s.apply(t, s.plain())
	with := s.plain()
	with.listeners = append(with.listeners, s.extra())
	changed := s.apply(t, with)
	talk := converse(t, s.f, s.f.at(2), s.d.account(t), s.d.account(t))

	var history struct {
		History []struct {
			Version uint64 `json:"version"`
		} `json:"history"`
	}
	if out := s.c.imlb("config", "history", "--json"); json.Unmarshal([]byte(out), &history) != nil ||
		len(history.History) < 2 || history.History[0].Version != changed || history.History[1].Version != before {
		t.Errorf("the history is %s\nwant versions %d and %d on top", out, changed, before)
	}
	s.c.imlb("config", "rollback")
	s.awaitListeners(t, "main", "side")
	wantRefused(t, s.f.at(2))
	s.c.imlb("config", "rollback", fmt.Sprint(changed))
	s.awaitListeners(t, "main", "side", "extra")
	talk.goesOn(5)
	s.f.login(t, s.f.at(2), s.d.account(t)).close()
	if out := s.c.imlb("config", "pull"); !strings.Contains(out, s.extra()) {
		t.Errorf("after the rollback, pull gives\n%s", out)
	}
	s.apply(t, s.plain())
	talk.goesOn(5)
}

func (s *changing) awaitListeners(t *testing.T, names ...string) {
	t.Helper()
	slices.Sort(names)
	awaitStatus(t, s.f.admin(), fmt.Sprint("listeners ", names), func(st frontStatus) bool {
		var got []string
		for _, l := range st.Front.Listeners {
			got = append(got, l.Name)
		}
		slices.Sort(got)
		return slices.Equal(got, names)
	})
}

// testOverrides: what an operator says of a node counts on every front at once,
// and ends no session.
func testOverrides(t *testing.T, s *changing) {
	f, d := s.f, s.d
	alice, bob := d.account(t), d.account(t)
	talk := converse(t, f, f.at(0), alice, bob)
	home := explain(t, f.admin(), alice.jid).Pinned
	users := strangers(40)
	before := placements(t, f.admin(), users)
	if !slices.Contains(slices.Collect(maps.Values(before)), home) {
		t.Fatalf("none of %d users would live on %s", len(users), home)
	}
	s.wantAgreed(t, users, before)

	s.say(t, home, "draining", "drain", home, "--comment", "kernel")
	drained := placementsWithout(t, f.admin(), users, home)
	for _, u := range users {
		if before[u] != home && drained[u] != before[u] {
			t.Errorf("while %s drains, %s goes from %s to %s", home, u, before[u], drained[u])
		}
	}
	s.wantAgreed(t, users, drained)
	talk.goesOn(5)
	// A second session of a user who is there joins the first.
	second := f.login(t, f.at(0), alice)
	if e := explain(t, f.admin(), alice.jid); e.Node != home || e.Pinned != home {
		t.Errorf("while %s drains, its user is explained as %+v", home, e)
	}
	if out := s.c.imlb("config", "nodes"); !strings.Contains(out, home) || !strings.Contains(out, "kernel") {
		t.Errorf("imlb config nodes does not tell of the drain of %s:\n%s", home, out)
	}
	second.close()
	s.say(t, home, "fit", "undrain", home)
	s.wantAgreed(t, users, before)

	s.weigh(t, home, 3)
	s.c.imlb("weight", home, "0")
	s.say(t, home, "unfit", "disable", home)
	s.wantAgreed(t, users, drained)
	talk.goesOn(5)
	s.say(t, home, "fit", "enable", home)
	s.wantAgreed(t, users, before)
	talk.goesOn(5)
}

// say runs a command about a node and waits until all fronts have the node
// stand as it says.
func (s *changing) say(t *testing.T, node, standing string, command ...string) {
	t.Helper()
	s.c.imlb(command...)
	s.everywhere(t, strings.Join(command, " "), func(st statusOfOne) bool { return st.standings()[node] == standing })
}

// everywhere waits until the pool chat is so on all fronts.
func (s *changing) everywhere(t *testing.T, what string, match func(statusOfOne) bool) {
	t.Helper()
	begin := time.Now()
	for _, admin := range s.admins {
		awaitStatus(t, admin, what, func(st frontStatus) bool { return match(st.pool("chat")) })
	}
	took := time.Since(begin)
	if took > atOnce {
		t.Errorf("%s took %v to reach all fronts, want at most %v", what, took, atOnce)
	}
	t.Logf("%s: on all fronts after %v", what, took.Round(time.Millisecond))
}

// weigh gives a node a weight and waits until all fronts give it that share.
func (s *changing) weigh(t *testing.T, node string, weight int) {
	t.Helper()
	s.c.imlb("weight", node, fmt.Sprint(weight))
	s.everywhere(t, "another weight", func(st statusOfOne) bool {
		all, its := 0, 0
		for _, n := range st.Nodes {
			all += n.Partitions
			if n.Name == node {
				its = n.Partitions
			}
		}
		share := float64(weight) / float64(weight+len(st.Nodes)-1)
		return float64(its) > 0.85*share*float64(all) && float64(its) < 1.25*share*float64(all)+1
	})
}

// wantAgreed waits until all fronts place users so.
func (s *changing) wantAgreed(t *testing.T, users []string, want map[string]string) {
	t.Helper()
	for _, admin := range s.admins {
		eventually(t, "the agreement of "+admin, func(context.Context) (bool, string) {
			got := placements(t, admin, users)
			return maps.Equal(got, want), fmt.Sprintf("%v\nwant %v", got, want)
		})
	}
}

// testBadDocument: a document that is wrong is refused as a whole, and the front
// goes on with the one before, even when it is started again.
func testBadDocument(t *testing.T, s *changing) {
	f, d := s.f, s.d
	good := s.apply(t, s.plain())
	talk := converse(t, f, f.at(0), d.account(t), d.account(t))
	newcomer := d.account(t)

	bad := f.text(frontDocument{pools: []string{d.found()}, more: "limits: {login_attempts: many}\nplacment: {epsilon: 1}\nsasl: {mechanisms: ['ROT 13']}\n"})
	s.c.put("/v1/kv/imlb/"+devCluster+"/config", bad)
	mistakes := []string{"login_attempts", "placment", "ROT 13"}
	s.wantRefusedDocument(t, mistakes)
	if st := statusOf(t, f.admin()); st.Config.Version != good || len(st.Front.Listeners) != 2 {
		t.Errorf("with a bad document there, version %d and %d listeners are in force; want %d and 2", st.Config.Version, len(st.Front.Listeners), good)
	}
	talk.goesOn(10)
	f.login(t, f.at(0), newcomer).close()
	talk.stop()
	talk.wantWell()

	f.signal(syscall.SIGTERM)
	if code := f.awaitExit(); code != 0 {
		t.Errorf("imlb proxy: exit code %d after SIGTERM", code)
	}
	f.start()
	s.wantRefusedDocument(t, mistakes)
	if st := statusOf(t, f.admin()); !st.Config.Cached || st.Config.Version != good {
		t.Errorf("started with a bad document there: version %d, cached %v; want %d from the cache", st.Config.Version, st.Config.Cached, good)
	}
	talk = converse(t, f, f.at(0), d.account(t), d.account(t))
	with := s.plain()
	with.listeners = append(with.listeners, s.extra())
	s.apply(t, with)
	if got := metric(t, f.admin(), "imlb_config_good"); got != 1 {
		t.Errorf("imlb_config_good is %v after a good document", got)
	}
	if st := statusOf(t, f.admin()); st.Config.Refused != nil || st.Config.Cached {
		t.Errorf("after a good document the status says %+v", st.Config)
	}
	f.login(t, f.at(2), newcomer).close()
	talk.goesOn(5)
}

// wantRefusedDocument waits until status, metric and log tell of all mistakes.
func (s *changing) wantRefusedDocument(t *testing.T, mistakes []string) {
	t.Helper()
	awaitStatus(t, s.f.admin(), fmt.Sprint("the mistakes ", mistakes), func(st frontStatus) bool {
		return st.Config.Refused != nil && len(st.Config.Refused.Errors) == len(mistakes) &&
			containsAll(strings.Join(st.Config.Refused.Errors, "\n"), mistakes)
	})
	if got := metric(t, s.f.admin(), "imlb_config_good"); got != 0 {
		t.Errorf("imlb_config_good is %v while the newest document is refused", got)
	}
	wantRefusalLogged(t, s.f, mistakes)
}

func wantRefusalLogged(t *testing.T, f *front, mistakes []string) {
	t.Helper()
	if line := f.awaitLine("configuration refused"); !containsAll(line, mistakes) {
		t.Errorf("the log says %s\nwant all of %v", line, mistakes)
	}
}
