package test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imlb/backend/store"
)

// TestRevivedNode revives a node on SQLite. It may not stand still in a transaction, for
// whose end all others would wait.
func TestRevivedNode(t *testing.T) {
	t.Parallel()
	f := startFreezer(t, "sqlite:"+filepath.Join(t.TempDir(), "frozen.db"))
	f.fit = func(node string) bool { return !locks(t, f.nodes[node].pid()) }
	f.outlive(t)
}

// TestRevivedNodePostgres revives one on PostgreSQL, which ends a transaction that stands
// still so that others can go on.
func TestRevivedNodePostgres(t *testing.T) {
	t.Parallel()
	p := startPostgres(t)
	for name, want := range map[string]bool{"between transactions": false, "in a transaction": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFreezer(t, newDatabase(t, p))
			f.fit = func(node string) bool { return f.transacts(node) == want }
			f.outlive(t)
		})
	}
}

// outlive: a node that stood still for longer than its lease, and whose sessions others
// have taken over meanwhile, does no harm when it goes on. What it had read and not stored
// it does not store, its clients' new sessions and what their contacts see of them stay,
// and its own sessions end.
func (f *freezer) outlive(t *testing.T) {
	t.Helper()
	home, here, bob := f.apart()
	alice, dave, erin := here[0], here[1], here[2]
	f.follows(bob, alice)

	b, _ := f.resumable(t, bob)
	a, aliceID := f.resumable(t, alice)
	d, daveID := f.resumable(t, dave)
	e := f.present(erin)
	for _, who := range []account{alice, dave, erin} {
		b.says(who, 0, 3)
	}
	for _, s := range []*stream{a, d, e} {
		s.hears(0, 3)
	}
	a.says(bob, 0, 3)
	b.hears(0, 3)
	a.acknowledges(f.dev, 3)
	d.acknowledges(f.dev, 3)

	if n := f.sessionsOn(t, home); n != len(here) {
		t.Fatalf("%d sessions are on %s, want those of %v", n, home, here)
	}

	f.awaitDelivered(erin, 3)

	const atOnce, inVain = 40, 60
	said, heard := 3, 3
	f.freeze(home, func(try int) { // in the middle of what Alice says, and later each time
		a.says(bob, said, said+atOnce)
		said += atOnce
		next := said - max(atOnce-1-4*(try%20), 0)
		b.hearsOf(alice, heard, next)
		heard = next
	})
	a.says(bob, said, said+inVain)
	a.write("<r xmlns='%s'/>", nsSM)
	said += inVain
	for _, who := range []account{alice, dave, erin} {
		b.says(who, 3, 6)
	}
	f.awaitReaped(home)
	f.awaitStanding(home, false)

	// Alice's client does not know that its first connection is of no use; Dave's does.
	_ = d.conn.Close()
	a2, handled := f.resumed(alice, aliceID, 4)
	handled-- // the ping of before
	if handled < heard {
		t.Fatalf("%d messages have come, and %d are handled", heard, handled)
	}
	a2.says(bob, handled, said)
	b.hearsOf(alice, heard, said)
	t.Logf("%d of %d messages had been handled", handled, said)
	a2.hears(3, 6)
	d2, _ := f.resumed(dave, daveID, 4)
	d2.hears(3, 6)
	e2 := f.present(erin)
	e2.hears(3, 6)

	f.revive(home)
	if h := a.wantEndFor("conflict"); h > handled+1 {
		t.Errorf("the node acknowledged %d stanzas, of which it had stored %d", h, handled+1)
	}
	e.wantEndFor("internal-server-error") // nobody has its place, and its client is to come back
	eventually(t, "the end of the sessions of "+home, func(context.Context) (bool, string) {
		n := f.sessionsOn(t, home)
		return n == 0, fmt.Sprint(n, " are left")
	})
	f.awaitStanding(home, true)

	// All goes on, and what comes next is what was said next.
	a2.says(bob, said, said+3)
	b.hearsOf(alice, said, said+3)
	for who, s := range map[account]*stream{alice: a2, dave: d2, erin: e2} {
		b.says(who, 6, 9)
		s.hears(6, 9)
	}
	f.wantStored(bob, alice, said+3)
	f.wantStored(alice, bob, 9)

	// The revived node serves as before.
	e2.close()
	e3 := f.present(erin)
	if n := f.sessionsOn(t, home); n != 1 {
		t.Errorf("%d sessions are on %s, want the one of %s", n, home, erin.jid)
	}
	b.says(erin, 9, 12)
	e3.hears(9, 12)
}

// freezer is a cluster of which a node can be made to stand still.
type freezer struct {
	*dev
	t     *testing.T
	url   string
	nodes map[string]*process
	front *process
	doc   string                 // the front's document
	fit   func(node string) bool // tells whether a node that stands still may stay so
}

// freezerLease is short, so that a test need not wait, and long enough for a busy
// machine.
const freezerLease = 2 * time.Second

// startFreezer starts three nodes with a short lease and a front that looks after them
// often, on the accounts of a cluster that was there before.
func startFreezer(t *testing.T, url string) *freezer {
	t.Helper()
	dir := t.TempDir()
	f := &freezer{
		dev: startDev(t, devOptions{dir: dir, users: 16, args: []string{"--nodes", "1", "--database", url}}),
		t:   t, url: url, nodes: make(map[string]*process),
	}
	f.stop()
	base := []int{freeBasePort(t), freeBasePort(t), freeBasePort(t), freeBasePort(t)}
	at := func(i, j int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(base[i]+j)) }
	f.Nodes = nil
	var listed []string
	for i := range 3 {
		n := devNode{Name: fmt.Sprint("cold-", i+1), Addr: at(i, 0), Admin: at(i, 1)}
		doc := document(t, dir, n.Name+".yaml", fmt.Sprintf(`
name: %s
domain: localhost
listen: %s
database: {url: %q}
bus: {cluster: {listen: %q, routes: [%q, %q]}}
timeouts: {lease: %v}
admin: {address: %q}
`, n.Name, n.Addr, named(url, n.Name), at(i, 2), at((i+1)%3, 2), at((i+2)%3, 2), freezerLease, n.Admin))
		f.nodes[n.Name] = start(t, "imlb node "+n.Name, program(t), []string{"node", "--config", doc})
		f.Nodes = append(f.Nodes, n)
		listed = append(listed, fmt.Sprintf("{name: %s, address: %q, admin: %q}", n.Name, n.Addr, n.Admin))
	}
	for _, n := range f.Nodes {
		awaitReadyz(t, f.nodes[n.Name], n.Admin)
	}
	f.doc = document(t, dir, "cold-front.yaml", `
domains: [localhost]
listeners: [{protocol: xmpps, address: "`+at(3, 0)+`"}]
pools:
  chat:
    nodes: [`+strings.Join(listed, ", ")+`]
    checks: [{type: agent}]
    check: {interval: 200ms, timeout: 1s}
    damping: {enabled: false}
    outlier: {enabled: false}
placement: {epsilon: 10}
tls: {certificates: [{cert_file: "`+devFile(t, dir, "cert")+`", key_file: "`+devFile(t, dir, "key")+`"}]}
admin: {address: "`+at(3, 1)+`"}
`)
	f.Front.XMPPS, f.Front.Admin = at(3, 0), at(3, 1)
	f.startFront()
	for _, n := range f.Nodes {
		f.awaitStanding(n.Name, true)
	}
	return f
}

// startFront starts the front, and waits until it serves.
func (f *freezer) startFront() {
	f.t.Helper()
	f.front = start(f.t, "imlb proxy", program(f.t), []string{"proxy", "--config", f.doc})
	awaitReadyz(f.t, f.front, f.Front.Admin)
}

// named lets PostgreSQL know a node.
func named(url, node string) string {
	if strings.HasPrefix(url, "postgres:") {
		return url + "?application_name=" + node
	}
	return url
}

// apart finds a node on which three users live, and one who lives on another.
func (f *freezer) apart() (home string, here []account, other account) {
	f.t.Helper()
	of := make(map[string][]account)
	for len(f.fresh) > 0 {
		a := f.account(f.t)
		s := f.dialTLS(f.t)
		s.session(f.Domain, "PLAIN", a)
		s.close()
		node := parseRecord(f.front.awaitLine("source=" + s.source())).text("node")
		of[node] = append(of[node], a)
		for n, there := range of {
			if len(there) >= 3 && len(of) > 1 {
				home, here = n, there
			}
		}
		if home != "" {
			break
		}
	}
	for n, there := range of {
		if home != "" && n != home {
			return home, here, there[0]
		}
	}
	f.t.Fatalf("users live on %v", of)
	return "", nil, other
}

// present is a session that cannot be resumed.
func (f *freezer) present(a account) *stream {
	f.t.Helper()
	s := f.dialTLS(f.t)
	s.session(f.Domain, "PLAIN", a)
	s.write("<presence/>")
	return s
}

// follows makes a user see the presence of another.
func (f *freezer) follows(a, other account) {
	f.t.Helper()
	asks, grants := f.present(a), f.present(other)
	asks.write("<presence type='subscribe' to='%s'/>", other.jid)
	grants.readUntil("the request", func(e element) bool { return e.attr("type") == "subscribe" })
	grants.write("<presence type='subscribed' to='%s'/>", a.jid)
	asks.readUntil("the presence", func(e element) bool {
		return e.XMLName.Local == "presence" && e.attr("type") == "" && strings.HasPrefix(e.attr("from"), other.jid)
	})
	asks.close()
	grants.close()
}

// freeze makes a node stand still after a burst, where it may.
func (f *freezer) freeze(name string, burst func(try int)) {
	f.t.Helper()
	p := f.nodes[name]
	for try := range 150 {
		burst(try)
		p.signal(syscall.SIGSTOP)
		eventually(f.t, name+" to stand still", func(context.Context) (bool, string) { return stopped(f.t, p.pid()) })
		if f.fit(name) {
			return
		}
		p.signal(syscall.SIGCONT)
	}
	f.t.Fatalf("%s stands still where it may not whenever it does", name)
}

// stopped tells whether all threads of a process stand still. One that waits for a disk
// does so later.
func stopped(t *testing.T, pid int) (all bool, seen string) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads of %d: %v, %v", pid, threads, err)
	}
	for _, file := range threads {
		stat, err := os.ReadFile(file)
		if err != nil {
			return false, err.Error()
		}
		if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "T") {
			return false, string(stat)
		}
	}
	return true, ""
}

// locks tells whether a process holds a lock on a file alone, as SQLite does while it
// writes.
func locks(t *testing.T, pid int) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		// 1: POSIX  ADVISORY  WRITE 4711 08:01:1234 120 120
		if f := strings.Fields(line); len(f) > 4 && f[3] == "WRITE" && f[4] == strconv.Itoa(pid) {
			return true
		}
	}
	return false
}

// transacts tells whether a node that stands still has a transaction open in PostgreSQL,
// once that is done with what the node has sent, as far as it can.
func (f *freezer) transacts(node string) (open bool) {
	f.t.Helper()
	db, err := sql.Open("pgx", f.url)
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	eventually(f.t, "the end of what "+node+" has sent", func(ctx context.Context) (bool, string) {
		var busy bool
		err := db.QueryRowContext(ctx, `
			SELECT count(*) FILTER (WHERE state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock') > 0,
				count(*) FILTER (WHERE state <> 'idle') > 0
			FROM pg_stat_activity WHERE application_name = $1`, node).Scan(&busy, &open)
		return err == nil && !busy, fmt.Sprint("it is busy; ", err)
	})
	return open
}

func (f *freezer) open() *store.DB {
	f.t.Helper()
	db, err := store.Open(f.t.Context(), f.url, store.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = db.Close() })
	return db
}

func (f *freezer) revive(name string) {
	f.t.Helper()
	f.nodes[name].signal(syscall.SIGCONT)
}

// awaitDelivered waits until it is stored that a user has received so many messages. What
// a node that stands still has not stored of that comes again.
func (f *freezer) awaitDelivered(a account, n uint64) {
	f.t.Helper()
	db := f.open()
	account, err := db.Account(f.t.Context(), a.jid)
	if err != nil {
		f.t.Fatal(err)
	}
	eventually(f.t, "the deliveries to "+a.jid, func(ctx context.Context) (bool, string) {
		_, delivered, err := db.Head(ctx, account.Owner)
		return err == nil && delivered >= n, fmt.Sprint(delivered, " are stored; ", err)
	})
}

// awaitReaped waits until others have ended a session of a node that cannot be resumed.
func (f *freezer) awaitReaped(dead string) {
	f.t.Helper()
	eventually(f.t, "the end of the lease of "+dead, func(context.Context) (bool, string) {
		sum := 0.0
		for _, n := range f.Nodes {
			if n.Name != dead {
				sum += metric(f.t, n.Admin, "imlb_node_sessions_reaped_total")
			}
		}
		return sum >= 1, "nobody has ended its sessions"
	})
}

// awaitStanding waits until the front gives a node users, or none.
func (f *freezer) awaitStanding(name string, fit bool) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%s to get users: %v", name, fit), func(context.Context) (bool, string) {
		bound := metric(f.t, f.Front.Admin, "imlb_pool_bound", `node="`+name+`"`)
		return fit == (bound > 0), fmt.Sprint("its bound is ", bound)
	})
}

// resumed goes on with a session at whatever node takes it, and returns how many stanzas
// of the client's are handled.
func (f *freezer) resumed(a account, id string, h int) (s *stream, handled int) {
	f.t.Helper()
	s = f.dialTLS(f.t)
	s.open(f.Domain)
	if got := s.plain(a, a.password); !got.is(nsSASL, "success") {
		f.t.Fatalf("login: %+v", got)
	}
	s.open(f.Domain)
	s.write("<resume xmlns='%s' previd='%s' h='%d'/>", nsSM, id, h)
	got := s.read()
	handled, err := strconv.Atoi(got.attr("h"))
	if !got.is(nsSM, "resumed") || got.attr("previd") != id || err != nil {
		f.t.Fatalf("the answer to <resume/> is %+v, want <resumed/>", got)
	}
	return s, handled
}

// acknowledges says that h stanzas have come, and one more that it asks for, and waits
// until that is stored. What has come and is not acknowledged comes again when a session
// is taken from a node that says nothing of it.
func (s *stream) acknowledges(d *dev, h int) {
	s.t.Helper()
	s.sync(d)
	s.write("<a xmlns='%s' h='%d'/><r xmlns='%s'/>", nsSM, h+1, nsSM)
	s.readUntil("what was handled", func(e element) bool { return e.is(nsSM, "a") })
}

// hearsOf reads the messages of these numbers, and no others, and sees the sender stay.
func (s *stream) hearsOf(sender account, next, end int) {
	s.t.Helper()
	for next < end {
		e := s.read()
		switch {
		case e.XMLName.Local == "presence" && e.attr("type") == "unavailable" && strings.HasPrefix(e.attr("from"), sender.jid):
			s.t.Errorf("%s is said to be gone", e.attr("from"))
		case e.XMLName.Local == "message":
			if want := fmt.Sprint("number ", next); e.body() != want {
				s.t.Fatalf("received %q, want %q", e.body(), want)
			}
			next++
		}
	}
}

// wantEndFor reads up to the stream error of a session that others have ended, and returns
// the highest count of what was handled.
func (s *stream) wantEndFor(condition string) (handled int) {
	s.t.Helper()
	e := s.readUntil("the stream's error", func(e element) bool {
		if h, err := strconv.Atoi(e.attr("h")); err == nil && e.is(nsSM, "a") {
			handled = h
		}
		return e.is(nsStreams, "error")
	})
	if e.child(nsStream, condition).XMLName.Local == "" {
		s.t.Errorf("a session that others have ended is told %+v, want %s", e, condition)
	}
	s.wantEnd()
	return handled
}

// wantStored checks that a user's timeline has the messages of another, by number, up to
// an end, each once.
func (f *freezer) wantStored(owner, sender account, end int) {
	f.t.Helper()
	db := f.open()
	a, err := db.Account(f.t.Context(), owner.jid)
	if err != nil {
		f.t.Fatal(err)
	}
	entries, err := db.Read(f.t.Context(), a.Owner, 0, 10_000)
	if err != nil {
		f.t.Fatal(err)
	}
	var got, want []string
	for _, e := range entries {
		if _, text, ok := strings.Cut(string(e.Stanza), "<body>"); ok && !e.Sent && e.Peer == sender.jid {
			body, _, _ := strings.Cut(text, "</body>")
			got = append(got, body)
		}
	}
	for i := range end {
		want = append(want, fmt.Sprint("number ", i))
	}
	if !slices.Equal(got, want) {
		f.t.Errorf("stored for %s of %s: %q, want %q", owner.jid, sender.jid, got, want)
	}
}
