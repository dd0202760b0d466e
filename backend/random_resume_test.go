package backend_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imlb/backend"
)

// randomSeedsEnv says with which seeds TestResumeAtRandom runs: one, as 17, or all of some, as 0-299. Without it
// randomRuns are drawn.
const randomSeedsEnv = "IMLB_TEST_RESUME_SEEDS"

const (
	randomRuns  = 12
	randomNodes = 4 // that alice's clients are on; bob's is one more, which is not killed
	randomKills = 2 // of nodes, at most: each takes the time that a node is given to leave a session
)

// TestResumeAtRandom has a client of alice's, tab, resume its session on one node after the other, as a seed says: left in order,
// after its connection was lost, and after its node was killed, of which the front knows what it has written. In between it becomes
// available and unavailable, acknowledges some of what it has, and her clients phone and pad come and go. Of what bob says to the user, to tab
// and to phone, and of copies of what phone says, nothing comes to tab twice, nothing said to the user later than what was said after it,
// nothing that it reads from its archive instead (Bind 2), but all that is for it, and all else to one of the others. Then all counts as received.
//
// Copies that a node had written, or would have, may be lost when it is killed: they are no entries. The steps are the same for the same seed.
func TestResumeAtRandom(t *testing.T) {
	t.Parallel()
	for _, seed := range randomSeeds(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := startRandomRun(t, seed)
			defer r.report()
			for range 30 + r.rand.IntN(30) {
				r.step()
			}
			r.settle()
			r.check()
		})
	}
}

// randomSeeds are those that the environment says, or some.
func randomSeeds(t *testing.T) (seeds []uint64) {
	t.Helper()
	text := os.Getenv(randomSeedsEnv)
	if text == "" {
		for range randomRuns {
			seeds = append(seeds, rand.Uint64N(1_000_000))
		}
		return seeds
	}
	first, last, several := strings.Cut(text, "-")
	if !several {
		last = first
	}
	from, err := strconv.ParseUint(first, 10, 32)
	to, lastErr := strconv.ParseUint(last, 10, 32)
	if err != nil || lastErr != nil {
		t.Fatalf("%s=%s: want a number, or two with '-' between them", randomSeedsEnv, text)
	}
	for seed := from; seed <= to; seed++ {
		seeds = append(seeds, seed)
	}
	return seeds
}

// randomRun is a cluster on which tab resumes its session.
type randomRun struct {
	*cluster
	rand    *rand.Rand
	kills   int  // that are still to come, at most
	carbons bool // tab gets copies
	stores  []*killedStore
	alive   []int // the nodes that are

	bob        *client
	tab        *resumer
	phone, pad *visitor // nil while they are not there

	said      []*saying
	synced    int             // how often it was waited until tab has all
	elsewhere map[string]bool // texts that phone or pad have received
	log       []string
}

// saying is what bob has said to alice, or her phone to bob. Its text is its number among all.
type saying struct {
	text     string
	to       string // the address
	due      bool   // tab is to have it, or a copy of what phone says
	archived bool   // tab has it from its archive
}

func startRandomRun(t *testing.T, seed uint64) *randomRun {
	t.Helper()
	r := &randomRun{rand: rand.New(rand.NewPCG(seed, 0)), elsewhere: make(map[string]bool)}
	r.cluster = newCluster(t, randomNodes+1, func(o *backend.Options) {
		s := &killedStore{Store: o.Store}
		r.stores, o.Store = append(r.stores, s), s
	})
	for node := range randomNodes {
		r.alive = append(r.alive, node)
	}
	r.bob = r.online(randomNodes, "bob", "desk")
	r.carbons = r.rand.IntN(2) == 0
	r.kills = r.rand.IntN(randomKills + 1)
	if r.rand.IntN(3) == 0 {
		r.bind2()
	} else {
		r.bind()
	}
	r.shows("<presence/>")
	return r
}

// bind logs tab in with a resource of its own choice.
func (r *randomRun) bind() {
	r.tab = &resumer{client: r.login(0, "alice", "tab")}
	if r.carbons {
		r.tab.carbons("enable")
	}
	r.tab.id = r.tab.resumable()
}

// bind2 logs tab in by Bind 2, with messages waiting, of which only those that are hidden come to it.
func (r *randomRun) bind2() {
	if r.rand.IntN(2) == 0 {
		r.pad = &visitor{client: r.login(0, "alice", "pad")}
	}
	for range 3 {
		r.says("alice@example.com", "").archived = true
		r.says("alice@example.com", "<no-permanent-store xmlns='urn:xmpp:hints'/>").due = true
	}
	inside := []string{"<tag>tab</tag>", smResumable}
	if r.carbons {
		inside = append(inside, enableCarbons)
	}
	cl, success := r.bound2(0, "alice", phone+bind(inside...))
	cl.jid = between(success, "<authorization-identifier>", "</")
	r.tab = &resumer{client: cl, id: between(success, "<enabled xmlns='urn:xmpp:sm:3' id='", "'")}
}

// step does one thing.
func (r *randomRun) step() {
	kind := r.rand.IntN(25)
	for _, s := range []struct {
		weight int
		do     func()
	}{
		{4, func() { r.saysToUser() }},
		{2, func() { r.saysToTab() }},
		{4, func() { r.says("alice@example.com/phone", "") }},
		{2, func() { r.acknowledges() }},
		{3, func() { r.shows(r.anyPresence()) }},
		{4, func() { r.resumes() }},
		{2, func() { r.phoneActs() }},
		{2, func() { r.padActs() }},
		{2, func() { r.phoneSays() }},
	} {
		if kind -= s.weight; kind < 0 {
			s.do()
			return
		}
	}
}

// says has bob say something, which the timeline has then.
func (r *randomRun) says(to, more string) *saying {
	s := r.newSaying(to)
	r.bob.write("<message type='chat' to='" + to + "'><body>" + s.text + "</body>" + more + "</message>")
	r.bob.settledBut("^<message|^<presence|^<r ")
	return s
}

func (r *randomRun) newSaying(to string) *saying {
	s := &saying{text: strconv.Itoa(len(r.said)), to: to}
	r.said = append(r.said, s)
	r.note("%s to %s", s.text, to)
	return s
}

func (r *randomRun) saysToUser() { r.says("alice@example.com", "").due = r.tab.serves }

func (r *randomRun) saysToTab() { r.says(r.tab.jid, "").due = true }

// phoneSays has phone say something to bob, if it is there.
func (r *randomRun) phoneSays() {
	if r.phone == nil {
		return
	}
	s := r.newSaying("bob@example.com")
	r.phone.write(say("bob", s.text))
	r.bob.skipTo("<body>" + s.text + "</body>")
	s.due = r.carbons && r.tab.available
}

// acknowledges has tab acknowledge some of what it has.
func (r *randomRun) acknowledges() {
	r.syncs()
	r.tab.acknowledge(r.draw(r.tab.acked, r.tab.count()))
	r.note("tab acknowledges %d", r.tab.acked)
}

func (r *randomRun) anyPresence() string {
	return []string{
		"<presence/>", "<presence/>", "<presence type='unavailable'/>", "<presence><priority>-1</priority></presence>",
	}[r.rand.IntN(4)]
}

// shows has tab show presence, when it has what it is to have before.
func (r *randomRun) shows(presence string) {
	r.syncs()
	r.tab.write(presence)
	r.tab.asks()
	r.syncs()
	r.tab.serves, r.tab.available = presence == "<presence/>", !strings.Contains(presence, "unavailable")
	r.note("tab: %s", presence)
}

// syncs returns when tab has what came to it so far.
func (r *randomRun) syncs() {
	r.quiet()
	r.synced++ // one may come twice
	id := fmt.Sprintf("id='here-%d'", r.synced)
	r.bob.write("<message type='headline' to='" + r.tab.jid + "' " + id + "/>")
	r.tab.reads("^<message .*" + id)
}

// resumes has tab resume its session on any node.
func (r *randomRun) resumes() {
	r.syncs()
	h := []int{r.tab.acked, r.draw(r.tab.acked, r.tab.count()), r.tab.count()}[r.rand.IntN(3)]
	how := r.rand.IntN(5)
	switch {
	case how < 2 && r.kills > 0:
		r.kill()
	case how < 4:
		r.note("tab loses its connection")
		_ = r.tab.conn.Close()
		if r.rand.IntN(2) == 0 {
			r.saysToUser()
		}
		if r.rand.IntN(2) == 0 {
			r.saysToTab()
		}
	}
	r.resumesAt(r.anyNode(), h)
}

// resumesAt has tab resume its session on a node, having counted h stanzas.
func (r *randomRun) resumesAt(node, h int) {
	r.note("tab resumes on %d with %d of %d; acknowledged are %d; it has %q, not %q", node, h, r.tab.count(), r.tab.acked,
		textsOf(r.tab.came[:h-r.tab.before]), textsOf(r.tab.came[h-r.tab.before:]))
	r.tab.resumeOn(node, h)
}

// kill has tab's node heard and stored no more, while it may write on. A front tells another node what tab has got from it.
func (r *randomRun) kill() {
	r.kills--
	node := r.tab.node
	r.note("node %d is killed", node)
	r.leave(node)
	r.quiet()
	r.stores[node].killed.Store(true)
	r.bus.mu.Lock()
	clear(r.bus.nodes[node].hosted)
	r.bus.mu.Unlock()
	r.alive = slices.DeleteFunc(r.alive, func(n int) bool { return n == node })
	r.tab.settleOn(r.anyNode())
}

func (r *randomRun) anyNode() int { return r.alive[r.rand.IntN(len(r.alive))] }

// draw returns a number between two, or one of these.
func (r *randomRun) draw(least, most int) int {
	return least + int(r.rand.Float64()*float64(most-least+1)) // takes one number from the source, whatever the bounds are
}

// settle has all that is left come to tab, and be received.
func (r *randomRun) settle() {
	r.phone = r.lost(r.phone)
	if r.pad != nil {
		r.padActs()
	}
	r.syncs()
	r.resumesAt(r.anyNode(), r.tab.count())
	r.shows("<presence type='unavailable'/>")
	r.shows("<presence/>")
	r.saysToUser()
	r.syncs()
	r.tab.acknowledge(r.tab.count())
	r.tab.has(r.tab.count())
	r.eventually("all counts as received", func() bool { head, delivered := r.head("alice"); return head == delivered })
}

// check compares what tab has with what it is to have.
func (r *randomRun) check() {
	heard := make(map[hearing]bool)
	last := -1
	for _, h := range r.tab.counted {
		if h.text == "" {
			continue
		}
		if heard[h] {
			r.t.Errorf("%s comes twice", h)
		}
		heard[h] = true
		if n, _ := strconv.Atoi(h.text); !h.copied && r.said[n].to == "alice@example.com" {
			if n < last {
				r.t.Errorf("%s comes late", h)
			}
			last = n
		}
	}
	for _, s := range r.said {
		r.checkSaying(s, heard[hearing{text: s.text}], heard[hearing{text: s.text, copied: true}])
	}
}

func (r *randomRun) checkSaying(s *saying, heard, copied bool) {
	switch {
	case s.to == "bob@example.com" && len(r.alive) < randomNodes:
	case s.archived && heard:
		r.t.Errorf("%s comes, and is in the archive", s.text)
	case s.archived:
	case s.due && !heard && !copied:
		r.t.Errorf("%s is lost", s.text)
	case s.to == "bob@example.com", heard, r.elsewhere[s.text], copied && s.to == "alice@example.com/phone":
	default:
		r.t.Errorf("%s has come to nobody", s.text)
	}
}

func (r *randomRun) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

// report tells what has happened if that was wrong.
func (r *randomRun) report() {
	if !r.t.Failed() {
		return
	}
	head, delivered := r.head("alice")
	r.t.Logf("what happened:\n%s\ntab got %q; %d of %d count as received", strings.Join(r.log, "\n"), textsOf(r.tab.counted), delivered, head)
}
