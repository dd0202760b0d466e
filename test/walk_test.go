package test

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

// What the environment says of a random walk: how many steps it has (450 take a quarter of a minute), and the seed of one that failed.
const (
	walkSeedEnv  = "IMLB_TEST_WALK_SEED"
	walkStepsEnv = "IMLB_TEST_WALK_STEPS"
)

// walkSteps is how many steps a walk has if the environment says nothing.
const walkSteps = 200

// walkResources are the clients that each user has.
var walkResources = []string{"phone", "tab", "desk"} //nolint:gochecknoglobals // Not changed.

// walkPace is the time between two steps.
const walkPace = 20 * time.Millisecond

// TestWalk has clients and nodes do what a seed says, in an order that nobody thought of: they talk, lose
// their connections, resume on whatever node there is, also twice at once, come and go; nodes are killed,
// stopped, and stand still, and so is the front. Whatever was acknowledged is in both archives once, and comes to each client
// that it is for once, in order. The steps are the same for the same seed, what they meet is not. Each seed finds something
// else: who changes how sessions are carried goes many longer ways.
func TestWalk(t *testing.T) {
	t.Parallel()
	w := startWalk(t, "sqlite:"+filepath.Join(t.TempDir(), "walk.db"))
	w.fit = func(node string) bool { return !locks(t, w.nodes[node].pid()) }
	w.run()
}

// TestWalkPostgres does so on PostgreSQL, which is killed as well.
func TestWalkPostgres(t *testing.T) {
	t.Parallel()
	p := startPostgres(t)
	w := startWalk(t, newDatabase(t, p))
	w.fit = func(node string) bool { return !w.transacts(node) }
	w.server = p
	w.run()
}

// walk is a cluster under clients that walk at random.
type walk struct {
	*freezer
	seed   uint64
	rand   *rand.Rand // of the steps alone, so that they do not depend on what they meet
	config *tls.Config
	began  time.Time
	db     *store.DB

	devices []*walker
	quit    context.CancelFunc
	running sync.WaitGroup

	down   string // the node that does not serve: none when empty
	frozen bool   // it stands still
	until  int    // the step at which it serves again

	server *storetest.Postgres // the database's; nil: it cannot be killed
	away   bool                // it does not serve
	back   int                 // the step at which it does again

	mu     sync.Mutex
	log    []string
	faults []string
	said   map[string]*saying // by its text
	ends   []nodeEnd
	aways  []nodeEnd // of the database
	fronts []nodeEnd
}

// saying is a message that a client has said.
type saying struct {
	text     string
	by       *walker
	to       account
	resource string // of the client that it is for; empty: the user
	at       time.Time
	acked    bool
}

// nodeEnd is a time in which a node did not serve, or may have lost what it had not stored, or in which the database, or the front, did not.
type nodeEnd struct {
	from, to time.Time
	sudden   bool // it had no time to store anything
}

func startWalk(t *testing.T, url string) *walk {
	t.Helper()
	w := &walk{seed: fromEnv(t, walkSeedEnv, rand.Uint64N(1_000_000)), said: make(map[string]*saying)}
	w.rand = rand.New(rand.NewPCG(w.seed, 0))
	w.freezer = startFreezer(t, url)
	w.config, w.db, w.began = w.tls(t, "xmpp-client"), w.open(), time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	w.quit = cancel
	for i := range 3 {
		user := w.account(t)
		for _, resource := range walkResources {
			w.devices = append(w.devices, &walker{
				w: w, user: user, resource: resource, name: fmt.Sprintf("%s/%s", user.name, resource),
				carbons: resource == "phone" || i%2 == 0, inline: i > 0, wants: true,
			})
		}
	}
	for _, d := range w.devices {
		w.running.Go(func() { d.live(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		w.running.Wait()
	})
	return w
}

func fromEnv(t *testing.T, name string, otherwise uint64) (n uint64) {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s=%s: want a number", name, text)
	}
	return n
}

func (w *walk) run() {
	w.t.Helper()
	steps := int(fromEnv(w.t, walkStepsEnv, walkSteps)) //nolint:gosec // G115: nobody asks for that many
	defer w.report()
	w.await("all are there", (*walker).isSettled)
	ticker := time.NewTicker(walkPace)
	defer ticker.Stop()
	for i := range steps {
		w.databaseAgain(i)
		w.serveAgain(i)
		w.step(i)
		<-ticker.C
	}
	w.settle()
	w.quit()
	w.running.Wait()
	w.check()
}

// note writes down what happens.
func (w *walk) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%8.3f ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

// fault writes down what must not happen.
func (w *walk) fault(format string, args ...any) {
	w.note("FAULT "+format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// step does one thing. All that may be drawn for it is, whatever it is.
func (w *walk) step(i int) {
	kind, many, length := w.rand.IntN(1000), 1+w.rand.IntN(5), w.rand.Float64()
	from, to := w.devices[w.rand.IntN(len(w.devices))], w.devices[w.rand.IntN(len(w.devices))]
	one, other := w.rand.IntN(2) == 0, w.rand.IntN(4) == 0
	node := w.Nodes[w.rand.IntN(len(w.Nodes))].Name
	pause := time.Duration(length * length * float64(3*time.Second))
	for _, s := range []struct {
		weight int
		do     func()
	}{
		{701, func() { from.says(to, many, one) }},
		{115, func() { from.loses(pause, one, other) }},
		{35, func() { from.mutes() }},
		{15, func() { from.idles() }},
		{25, func() { from.comesOrGoes() }},
		{15, func() { from.leaves(pause) }},
		{50, func() { from.asks() }},
		{30, func() { w.endNode(node, many, i+20+int(length*180)) }},
		{8, func() { w.killDatabase(i + 10 + int(length*140)) }},
		{6, func() { w.endFront([]syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[many%2]) }},
	} {
		if kind -= s.weight; kind < 0 {
			s.do()
			return
		}
	}
}

// endNode has a node not serve up to a step, unless another one does not.
func (w *walk) endNode(name string, how, until int) {
	if w.down != "" {
		return
	}
	p, signal := w.nodes[name], []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP}[how-1]
	if signal == syscall.SIGSTOP && w.away { // who cannot say whether it may
		return
	}
	w.note("NODE %s gets %v", name, signal)
	w.mu.Lock()
	w.ends = append(w.ends, nodeEnd{from: time.Now(), sudden: signal != syscall.SIGTERM})
	w.mu.Unlock()
	w.down, w.until, w.frozen = name, until, signal == syscall.SIGSTOP
	if w.frozen {
		w.freeze(name, func(int) {})
	} else {
		p.signal(signal)
	}
}

// killDatabase has the database not serve up to a step, if it can be killed.
func (w *walk) killDatabase(until int) {
	if w.server == nil || w.away {
		return
	}
	w.note("DATABASE is killed")
	w.mu.Lock()
	w.aways = append(w.aways, nodeEnd{from: time.Now()})
	w.mu.Unlock()
	w.away, w.back = true, until
	w.server.Kill()
}

// databaseAgain has it serve again when its time has come.
func (w *walk) databaseAgain(step int) {
	w.t.Helper()
	if !w.away || step < w.back {
		return
	}
	if err := w.server.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.note("DATABASE serves again")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aways[len(w.aways)-1].to = time.Now()
	w.away = false
}

// endFront has the front end, and start again at once.
func (w *walk) endFront(signal syscall.Signal) {
	w.t.Helper()
	w.note("FRONT gets %v", signal)
	w.mu.Lock()
	w.fronts = append(w.fronts, nodeEnd{from: time.Now()})
	w.mu.Unlock()
	w.front.signal(signal)
	w.front.awaitExit()
	w.startFront()
	w.note("FRONT serves again")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fronts[len(w.fronts)-1].to = time.Now()
}

// serveAgain has the node serve again whose time has come.
func (w *walk) serveAgain(step int) {
	if w.down == "" || step < w.until {
		return
	}
	if w.frozen {
		w.revive(w.down)
	} else {
		w.nodes[w.down].awaitExit()
		w.nodes[w.down] = start(w.t, "imlb node "+w.down, program(w.t), []string{"node", "--config", filepath.Join(w.dir, w.down+".yaml")})
	}
	w.note("NODE %s serves again", w.down)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends[len(w.ends)-1].to = time.Now()
	w.down = ""
}

// settle brings everybody back, and waits until all has arrived.
func (w *walk) settle() {
	w.t.Helper()
	w.note("SETTLE")
	w.databaseAgain(w.back)
	w.serveAgain(w.until)
	for _, d := range w.devices {
		d.returns()
	}
	w.await("all is acknowledged", (*walker).isSettled)
	var last []string
	for _, d := range w.devices {
		for _, to := range w.devices {
			if to.resource == "phone" && to.user != d.user {
				last = append(last, d.says(to, 1, true)...)
			}
		}
	}
	w.await("the last words", func(d *walker) (bool, string) { return d.hasLast(last) })
	w.await("the last acknowledgements", (*walker).isSettled)
	for i := 0; i < len(w.devices); i += len(walkResources) {
		user := w.devices[i].user
		account, err := w.db.Account(w.t.Context(), user.jid)
		if err != nil {
			w.t.Fatal(err)
		}
		w.eventually("all of "+user.jid+" counts as received", func() (bool, string) {
			head, delivered, err := w.db.Head(w.t.Context(), account.Owner)
			return err == nil && delivered == head, fmt.Sprintf("%d of %d do; %v", delivered, head, err)
		})
	}
}

// await waits until something is true of all clients, which say meanwhile what they have, and ask.
func (w *walk) await(what string, ok func(*walker) (bool, string)) {
	w.t.Helper()
	w.eventually(what, func() (bool, string) {
		for _, d := range w.devices {
			if done, seen := ok(d); !done {
				d.asks()
				return false, d.name + ": " + seen
			}
		}
		return true, ""
	})
}

// eventually is a wait that does not end the test when it is in vain: what is checked then says more.
func (w *walk) eventually(what string, ok func() (bool, string)) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		done, seen := ok()
		if done {
			return
		}
		if ctx.Err() != nil {
			w.fault("%s: not within %v: %s", what, patience, seen)
			return
		}
		pauseFor(ctx, walkPace)
	}
}

// report shows what went wrong, and what led to it.
func (w *walk) report() {
	t := w.t
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	resumed := 0
	for _, d := range w.devices {
		resumed += d.resumed
	}
	t.Logf("%s=%d: %d messages, %d resumptions, %d ends of nodes, %d of fronts, %d of the database",
		walkSeedEnv, w.seed, len(w.said), resumed, len(w.ends), len(w.fronts), len(w.aways))
	for i, f := range w.faults {
		if i < 20 {
			t.Errorf("%s", f)
		}
	}
	if n := len(w.faults); n > 20 {
		t.Errorf("… and %d more", n-20)
	}
	if !t.Failed() {
		return
	}
	whole := strings.Join(w.log, "\n")
	if keep := keepDirectory(t); keep != "" {
		_ = os.WriteFile(filepath.Join(keep, fmt.Sprintf("walk-%d.log", w.seed)), []byte(whole+"\n"), 0o600)
	}
	steps := slices.DeleteFunc(slices.Clone(w.log), func(l string) bool { return strings.Contains(l, " says ") || strings.Contains(l, " hears ") })
	t.Logf("what led to it (all of it is kept in %s):\n%s", "IMLB_TEST_KEEP", strings.Join(steps, "\n"))
}
