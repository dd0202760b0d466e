package health_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"imlb/health"
)

// script is a source that publishes what a test hands it.
type script chan []health.Endpoint

func (s script) Run(ctx context.Context, publish func([]health.Endpoint)) error {
	for {
		select {
		case list := <-s:
			publish(list)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s script) Status() health.SourceStatus { return health.SourceStatus{} }

// fakes answers checks as a test wants.
type fakes struct {
	mu      sync.Mutex
	failing map[string]error // by address
	answers map[string]*health.Answer
	probes  int
}

func (f *fakes) Probe(ctx context.Context, e health.Endpoint) (*health.Answer, error) {
	f.mu.Lock()
	f.probes++
	err, answer := f.failing[e.Addr], f.answers[e.Addr]
	f.mu.Unlock()
	if errors.Is(err, context.DeadlineExceeded) { // it hangs
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return answer, err
}

// made returns how many probes there were.
func (f *fakes) made() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.probes
}

func (f *fakes) fail(addr string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing == nil {
		f.failing = make(map[string]error)
	}
	f.failing[addr] = err
}

func (f *fakes) answer(addr string, a health.Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answers == nil {
		f.answers = make(map[string]*health.Answer)
	}
	f.answers[addr] = &a
}

func node(name string) health.Endpoint {
	return health.Endpoint{Name: name, Addr: name + ":5222", Weight: 1, Healthy: true}
}

// pool is a monitor in a synctest bubble.
type pool struct {
	*health.Monitor
	source script
	checks *fakes

	mu      sync.Mutex
	changes []health.Snapshot
}

// heard returns what was told so far.
func (p *pool) heard() []health.Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.changes)
}

func (p *pool) hear(s health.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes = append(p.changes, s)
}

func inBubble(t *testing.T, f func(t *testing.T, p *pool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pool{source: make(script), checks: &fakes{}}
		monitor, err := health.New(health.Options{
			Source:   p.source,
			Check:    p.checks,
			OnChange: p.hear,
		})
		if err != nil {
			t.Fatal(err)
		}
		p.Monitor = monitor
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		f(t, p)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// want fails unless the nodes stand as told, "a=fit b=unfit".
func (p *pool) want(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	got := ""
	for _, n := range p.Snapshot().Nodes {
		got += fmt.Sprintf(" %s=%s", n.Name, n.Standing)
	}
	if got != "" {
		got = got[1:]
	}
	if got != want {
		t.Errorf("nodes are %q, want %q", got, want)
	}
	if len(p.heard()) == 0 {
		return
	}
	told := ""
	for _, n := range p.heard()[len(p.heard())-1].Nodes {
		told += fmt.Sprintf(" %s=%s", n.Name, n.Standing)
	}
	if told != "" && told[1:] != want || told == "" && want != "" {
		t.Errorf("the last change told was%s, want %s", told, want)
	}
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestNodesComeAndGo(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		synctest.Wait()
		if len(p.heard()) != 0 || p.Snapshot().Known {
			t.Errorf("told %d changes before the source spoke", len(p.heard()))
		}
		p.source <- nil
		synctest.Wait()
		if len(p.heard()) != 1 || !p.heard()[0].Known {
			t.Errorf("an empty list was told %d times", len(p.heard()))
		}
		p.source <- []health.Endpoint{node("a"), node("b")}
		p.want(t, "a=fit b=fit")
		p.source <- []health.Endpoint{node("b"), node("c")}
		p.want(t, "b=fit c=fit")
		p.source <- nil
		p.want(t, "")
		var got []string
		for _, x := range p.Transitions() {
			got = append(got, x.Node+" "+x.Standing.String())
		}
		// Nodes named at the same moment are checked at the same moment.
		if len(got) != 9 || got[0] != "a unchecked" || got[1] != "b unchecked" {
			t.Errorf("transitions: %q", got)
		}
	})
}

func TestKilledNodeIsUnfitWithinTwoSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a"), node("b")}
		pass(10*time.Second + 300*time.Millisecond)
		p.checks.fail("a:5222", errors.New("refused"))
		pass(2 * time.Second)
		p.want(t, "a=unfit b=fit")
		p.checks.fail("a:5222", nil)
		pass(2 * time.Second)
		p.want(t, "a=fit b=fit")
	})
}

func TestHangingNodeIsUnfit(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a")}
		pass(10 * time.Second)
		p.checks.fail("a:5222", context.DeadlineExceeded)
		pass(4 * time.Second)
		p.want(t, "a=unfit")
	})
}

// A check that could not be made says nothing about the node.
func TestChecksThatCannotBeMade(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a")}
		p.want(t, "a=fit")
		for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
			p.checks.fail("a:5222", &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", lack)})
			pass(10 * time.Second)
			p.want(t, "a=fit")
		}
		p.checks.fail("a:5222", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)})
		pass(10 * time.Second)
		p.want(t, "a=unfit")
	})
}

func TestFailedDialBringsTheCheckForward(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a")}
		p.want(t, "a=fit")
		p.checks.fail("a:5222", errors.New("refused"))
		p.Report("a", health.DialFailed)
		pass(20 * time.Millisecond) // the least between two checks
		p.want(t, "a=unfit")
		p.Report("nobody", health.DialFailed)
	})
}

func TestFalseAlarmOfTheDataPath(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a")}
		p.want(t, "a=fit")
		p.Report("a", health.DialFailed)
		p.want(t, "a=fit")
		pass(time.Second)
		p.want(t, "a=fit")
	})
}

func TestStandingOfDescribedNodes(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		critical, draining := node("critical"), node("draining")
		critical.Healthy, draining.Draining = false, true
		p.checks.answer("leaving:5222", health.Answer{Draining: true, Sessions: 7})
		p.checks.answer("strong:5222", health.Answer{Ready: true, Weight: 4, Capacity: 100, Mechanisms: []string{"PLAIN"}})
		p.source <- []health.Endpoint{critical, draining, node("leaving"), node("strong")}
		p.want(t, "critical=unfit draining=draining leaving=draining strong=fit")
		nodes := p.Snapshot().Nodes
		if n := nodes[2]; !n.Draining || n.Sessions != 7 {
			t.Errorf("its answer is lost: %+v", n)
		}
		if n := nodes[3]; n.Weight != 4 || n.Capacity != 100 || n.Sessions != 0 || len(n.Mechanisms) != 1 {
			t.Errorf("its answer is lost: %+v", n)
		}
		critical.Healthy = true
		p.source <- []health.Endpoint{critical}
		p.want(t, "critical=fit")
	})
}

func TestNodeThatMovedHasToProveItself(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a")}
		p.want(t, "a=fit")
		moved := node("a")
		moved.Addr = "elsewhere:5222"
		p.checks.fail("elsewhere:5222", errors.New("refused"))
		p.source <- []health.Endpoint{moved}
		p.want(t, "a=unfit")
	})
}

// TestNothingIsToldWhileNothingChanges: session counts come with every answer,
// and are no reason to place anew.
func TestNothingIsToldWhileNothingChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a")}
		p.want(t, "a=fit")
		told := len(p.heard())
		for i := range 10 {
			p.checks.answer("a:5222", health.Answer{Ready: true, Sessions: i + 1})
			pass(2 * time.Second)
		}
		if n := p.Snapshot().Nodes[0].Sessions; n != 10 || len(p.heard()) != told {
			t.Errorf("%d sessions are known, %d changes were told", n, len(p.heard())-told)
		}
	})
}

func TestChecksKeepTheirPace(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a")}
		pass(100 * time.Second)
		if p.checks.probes < 90 || p.checks.probes > 112 {
			t.Errorf("%d checks in 100 s", p.checks.probes)
		}
	})
}

func TestSourceThatCannotGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		monitor, err := health.New(health.Options{Source: failing{broken}, Check: &fakes{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := monitor.Run(t.Context()); !errors.Is(err, broken) {
			t.Errorf("run: %v", err)
		}
	})
}

type failing struct{ err error }

func (f failing) Run(_ context.Context, publish func([]health.Endpoint)) error {
	publish([]health.Endpoint{node("a")})
	return f.err
}

func (f failing) Status() health.SourceStatus { return health.SourceStatus{Failing: f.err} }

func TestMonitorNeedsItsParts(t *testing.T) {
	if _, err := health.New(health.Options{Source: health.Static{}}); err == nil {
		t.Error("a monitor without a check was made")
	}
	if _, err := health.New(health.Options{Check: health.TCPCheck{}}); err == nil {
		t.Error("a monitor without a source was made")
	}
}

func TestStaticSource(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var got []health.Endpoint
	err := health.Static{{Name: "b", Addr: "b:1"}, {Name: "a", Addr: "a:2"}, {Name: "a", Addr: "a:1"}}.Run(ctx, func(list []health.Endpoint) {
		got = list
		cancel()
	})
	if err != nil || len(got) != 2 || got[0].Addr != "a:1" || !got[0].Healthy || got[1].Name != "b" {
		t.Errorf("%v, %+v", err, got)
	}
}

// inBubbleWith runs a monitor with other options.
func inBubbleWith(t *testing.T, o health.Options, f func(t *testing.T, p *pool)) {
	t.Helper()
	inBubble(t, func(t *testing.T, p *pool) {
		o.Check = p.checks
		if err := p.Configure(o); err != nil {
			t.Fatal(err)
		}
		f(t, p)
	})
}

func TestSlowStartIsToldInFewSteps(t *testing.T) {
	inBubbleWith(t, health.Options{SlowStart: time.Minute}, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a")}
		pass(time.Second)
		p.source <- []health.Endpoint{node("a"), node("b")}
		synctest.Wait()
		told := len(p.heard())
		pass(time.Hour)
		if steps := len(p.heard()) - told; steps != 9 {
			t.Errorf("told in %d steps", steps)
		}
		last := 0.0
		for _, s := range p.heard()[told-1:] {
			if s.Nodes[1].Ramp <= last {
				t.Errorf("from %v to %v", last, s.Nodes[1].Ramp)
			}
			last = s.Nodes[1].Ramp
		}
		if b := p.Snapshot().Nodes[1]; last != 1 || b.FitSince.IsZero() {
			t.Errorf("it ends at %v: %+v", last, b)
		}
	})
}

// TestAnotherSourceTakesOver: until it speaks, what the first said holds.
func TestAnotherSourceTakesOver(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a"), node("b")}
		p.want(t, "a=fit b=fit")
		other := make(script)
		if err := p.Configure(health.Options{Source: other, Check: p.checks}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		p.want(t, "a=fit b=fit")
		transitions := len(p.Transitions())
		other <- []health.Endpoint{node("b"), node("c")}
		p.want(t, "b=fit c=fit")
		if got := p.Transitions()[transitions:]; len(got) != 3 {
			t.Errorf("b did not stay as it was: %v", got)
		}
		select {
		case p.source <- nil:
			t.Error("the first source still speaks")
		default:
		}
	})
}

// slow is a check that answers when it is told to.
type slow struct{ answers chan error }

func (s slow) Probe(ctx context.Context, _ health.Endpoint) (*health.Answer, error) {
	select {
	case err := <-s.answers:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestAnswersToTheOldQuestionDoNotCount: a check that was under way when another
// was configured says nothing.
func TestAnswersToTheOldQuestionDoNotCount(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		asked := slow{make(chan error)}
		if err := p.Configure(health.Options{Check: asked, Rules: health.Rules{Timeout: time.Hour}}); err != nil {
			t.Fatal(err)
		}
		p.source <- []health.Endpoint{node("a")}
		synctest.Wait()
		if err := p.Configure(health.Options{Check: p.checks}); err != nil {
			t.Fatal(err)
		}
		asked.answers <- errors.New("refused")
		p.want(t, "a=fit")
		if n := p.Snapshot().Nodes[0]; n.Checks == 0 || n.ChecksFailed != 0 {
			t.Errorf("%d of %d checks failed", n.ChecksFailed, n.Checks)
		}
	})
}

func TestConfigureRefusesWhatNewRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		if err := p.Configure(health.Options{}); err == nil {
			t.Error("a monitor without a check is made")
		}
		p.source <- []health.Endpoint{node("a")}
		p.want(t, "a=fit")
	})
}

// TestManyNodesAreNotCheckedAtOnce: neither when they come nor later.
func TestManyNodesAreNotCheckedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pool) {
		var many []health.Endpoint
		for i := range 1000 {
			many = append(many, node(fmt.Sprintf("n%03d", i)))
		}
		p.source <- many
		synctest.Wait()
		before := p.checks.made()
		for i := range 60 {
			if i == 30 {
				if err := p.Configure(health.Options{Check: p.checks}); err != nil {
					t.Fatal(err)
				}
			}
			pass(100 * time.Millisecond)
			if n := p.checks.made() - before; n > 250 {
				t.Errorf("%d checks in the %d. tenth of a second", n, i)
			}
			before = p.checks.made()
		}
		if s := p.Snapshot(); s.Totals.Checks < 1000 || s.Totals.ChecksFailed != 0 || s.Nodes[999].Standing != health.Fit {
			t.Errorf("%+v", s.Totals)
		}
	})
}

// TestEjectionsAreCounted: what is exported as metrics.
func TestEjectionsAreCounted(t *testing.T) {
	inBubbleWith(t, health.Options{Rules: health.Rules{Fall: 20}, Outliers: health.OutlierRules{Consecutive: 3}}, func(t *testing.T, p *pool) {
		p.source <- []health.Endpoint{node("a"), node("b")}
		p.want(t, "a=fit b=fit")
		for range 3 {
			p.Report("a", health.DialFailed)
			p.Report("b", health.DialFailed)
		}
		p.want(t, "a=unfit b=fit")
		s := p.Snapshot()
		if a := s.Nodes[0]; a.Ejections != 1 || time.Until(a.EjectedUntil) != 30*time.Second || a.Transitions != 3 {
			t.Errorf("%+v", a)
		}
		if s.Totals.Ejections != 1 || s.Totals.Spared != 1 || s.Totals.Transitions != 5 {
			t.Errorf("%+v", s.Totals)
		}
		pass(31 * time.Second)
		p.want(t, "a=fit b=fit")
	})
}
