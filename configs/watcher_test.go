package configs_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"imlb/configs"
)

// watching is a watcher that runs.
type watching struct {
	*configs.Watcher
	t       *testing.T
	updates chan configs.Update
	stop    func() // and wait for the end; may be called more than once
}

func watch(t *testing.T, o configs.WatcherOptions) *watching {
	t.Helper()
	o.MaxBackoff, o.Poll, o.Rate, o.Burst = 100*time.Millisecond, 5*time.Millisecond, 1000, 100
	w, err := configs.NewWatcher(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	watching := &watching{Watcher: w, t: t, updates: make(chan configs.Update)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := w.Run(ctx, func(u configs.Update) error {
			select {
			case watching.updates <- u:
			case <-ctx.Done():
			}
			return nil
		})
		if err != nil {
			t.Errorf("the watcher ended: %v", err)
		}
	}()
	watching.stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(watching.stop)
	return watching
}

// next returns the next update.
func (w *watching) next() configs.Update {
	w.t.Helper()
	select {
	case u := <-w.updates:
		return u
	case <-time.After(30 * time.Second):
		w.t.Fatalf("waited in vain for an update; %+v", w.Status())
	}
	return configs.Update{}
}

func (w *watching) wantAttempts(want int) {
	w.t.Helper()
	if got := w.next().Proxy.Limits.LoginAttempts; got != want {
		w.t.Errorf("got an update with %d login attempts, want %d", got, want)
	}
}

const (
	configKey = "imlb/c/config"
	nodesKey  = "imlb/c/nodes/"
)

// attempts is a document that can be told from others.
func attempts(n string) string { return front + "limits: {login_attempts: " + n + "}\n" }

func sharedIn(c *fakeConsul, cacheDir string) configs.WatcherOptions {
	return configs.WatcherOptions{Local: configs.Local{
		Cluster: "c", Agent: &configs.Consul{Address: c.addr()}, CacheDir: cacheDir,
	}}
}

func TestABadDocumentIsRefusedWhole(t *testing.T) {
	c := newFakeConsul(t)
	c.put(configKey, attempts("7"))
	w := watch(t, sharedIn(c, ""))
	w.wantAttempts(7)
	c.put(configKey, front+"limits: {login_attempts: 0, frobnicate: 1}\nlog: {level: loud}\n")
	eventually(t, "the refusal", func() bool { return w.Status().Refused == 1 })
	s := w.Status()
	if s.InForce.Version != 11 || s.Latest.Version != 12 || s.Latest.Accepted || len(s.Latest.Messages()) != 3 {
		t.Errorf("got %+v, want version 12 refused for three reasons", s)
	}
	for _, m := range s.Latest.Messages() {
		if !strings.HasPrefix(m, configKey+":") {
			t.Errorf("%q does not say where it is", m)
		}
	}
	c.put(configKey, attempts("8"))
	w.wantAttempts(8)
}

func TestOverridesOneByOne(t *testing.T) {
	c := newFakeConsul(t)
	c.put(configKey, front)
	c.put(nodesKey+"a", "drain: true")
	c.put(nodesKey+"b", `{"weight": 2}`)
	w := watch(t, sharedIn(c, ""))
	if u := w.next(); !u.Overrides["a"].Drain || u.Overrides["b"].Weight != 2 {
		t.Errorf("got %+v", u.Overrides)
	}
	c.set(func() {
		c.index++
		c.keys[nodesKey+"a"] = fakePair{"drian: true", c.index} // keeps what it had
		c.keys[nodesKey+"b"] = fakePair{"disabled: true", c.index}
		c.keys[nodesKey+"c"] = fakePair{"weight: -1", c.index}
		c.keys[nodesKey+"no name"] = fakePair{"drain: true", c.index}
	})
	u := w.next()
	if want := map[string]configs.Override{"a": {Drain: true}, "b": {Disabled: true}}; !maps.Equal(u.Overrides, want) {
		t.Errorf("got %+v, want %+v", u.Overrides, want)
	}
	if errs := w.Status().OverrideErrors; len(errs) != 3 {
		t.Errorf("got %v, want three errors", errs)
	}
	c.remove(nodesKey + "a")
	if u := w.next(); len(u.Overrides) != 1 {
		t.Errorf("got %+v, want b alone", u.Overrides)
	}
}

func TestIndexRules(t *testing.T) {
	c := newFakeConsul(t)
	c.put(configKey, attempts("5"))
	o := sharedIn(c, "")
	o.Wait = 5 * time.Millisecond // most queries end without a change
	w := watch(t, o)
	w.wantAttempts(5)
	eventually(t, "some queries", func() bool { return len(c.indexes(configKey)) > 3 })
	c.set(func() { // state is lost, and with it the document
		c.index = 3
		clear(c.keys)
	})
	eventually(t, "the loss", func() bool { return w.Status().Latest.Err != nil })
	eventually(t, "a query from there", func() bool { return slices.Contains(c.indexes(configKey), "3") })
	c.put(configKey, attempts("6"))
	w.wantAttempts(6)
	w.stop()
	asked := c.indexes(configKey)
	if asked[0] != "" || asked[1] != "11" {
		t.Errorf("asked with the indexes %q; want none, then that of the answer", asked[:2])
	}
	back := slices.Index(asked[1:], "")
	if back < 0 || slices.Contains(asked, "0") || !slices.Contains(asked[back+1:], "3") {
		t.Errorf("asked with the indexes %q; want a start from none after the index went backwards", asked)
	}
	if got := w.Status().Accepted; got != 2 {
		t.Errorf("%d documents were looked at, want 2", got)
	}
}

func TestLostStateTakesNothingBack(t *testing.T) {
	c := newFakeConsul(t)
	c.put(configKey, attempts("5"))
	c.put(nodesKey+"a", "drain: true")
	w := watch(t, sharedIn(c, ""))
	w.wantAttempts(5)
	c.set(func() {
		c.index = 1
		clear(c.keys)
	})
	eventually(t, "the loss", func() bool { return w.Status().Latest.Err != nil })
	c.put(configKey, attempts("6"))
	if u := w.next(); u.Proxy.Limits.LoginAttempts != 6 || !u.Overrides["a"].Drain {
		t.Errorf("got %+v; want a to drain still", u)
	}
	c.put(nodesKey+"b", "drain: true")
	if u := w.next(); u.Overrides["a"].Drain || !u.Overrides["b"].Drain {
		t.Errorf("got %+v; want b to drain, and no longer a", u.Overrides)
	}
}

func TestStartFromTheCache(t *testing.T) {
	c, dir := newFakeConsul(t), filepath.Join(t.TempDir(), "made", "here")
	c.put(configKey, attempts("5"))
	c.put(nodesKey+"a", "drain: true")
	w := watch(t, sharedIn(c, dir))
	w.wantAttempts(5)
	w.stop()

	c.set(func() { c.down = true })
	w = watch(t, sharedIn(c, dir))
	if u := w.next(); u.Proxy.Limits.LoginAttempts != 5 || !u.Overrides["a"].Drain || u.Version != 11 {
		t.Errorf("got %+v, want what was in force", u)
	}
	s := w.Status()
	if !s.InForce.Cached || s.Failing == nil {
		t.Errorf("got %+v, want a cached document, and that Consul fails", s)
	}
	c.put(configKey, attempts("6"))
	c.set(func() { c.down = false })
	w.wantAttempts(6)
	eventually(t, "an end of the failures", func() bool { return w.Status().Failing == nil })
	w.stop()

	// A bad document and an empty store are no better than a Consul that is down.
	c.put(configKey, "frobnicate: 1")
	w = watch(t, sharedIn(c, dir))
	w.wantAttempts(6)
	w.stop()
	c.remove(configKey)
	w = watch(t, sharedIn(c, dir))
	w.wantAttempts(6)
	w.stop()
	c.set(func() { clear(c.keys) })
	if err := os.WriteFile(filepath.Join(dir, "c.config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w = watch(t, sharedIn(c, dir))
	eventually(t, "the news that there is no document", func() bool {
		return errors.Is(w.Status().Latest.Err, configs.ErrNoDocument)
	})
}

func TestWatchFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "front.yaml")
	writeCertificate(t, dir)
	write(t, file, attempts("5"))
	w := watch(t, configs.WatcherOptions{File: file})
	w.wantAttempts(5)
	write(t, file, attempts("600"))
	eventually(t, "the refusal", func() bool { return w.Status().Refused == 1 })
	write(t, file, attempts("17"))
	w.wantAttempts(17)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refusal", func() bool { return w.Status().Refused == 2 })
	write(t, file, attempts("18"))
	w.wantAttempts(18)

	// The document is as it was, but a file that it names is not.
	before := w.Status()
	if err := os.Remove(filepath.Join(dir, "a.key")); err != nil {
		t.Fatal(err)
	}
	w.Reload()
	eventually(t, "the refusal", func() bool { return w.Status().Refused > before.Refused })
}

func TestWatchFileThatIsBadToBeginWith(t *testing.T) {
	file := filepath.Join(t.TempDir(), "front.yaml")
	run := func() error {
		w, err := configs.NewWatcher(configs.WatcherOptions{File: file})
		if err != nil {
			t.Fatal(err)
		}
		return w.Run(t.Context(), func(configs.Update) error { t.Error("got an update"); return nil })
	}
	if err := run(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: got %v", err)
	}
	write(t, file, "frobnicate: 1")
	_, want := configs.LoadProxy(file)
	if err := run(); err == nil || err.Error() != want.Error() {
		t.Errorf("got %v, want %v", err, want)
	}
}

// A front with a file still hears what operators say of nodes, from the agent
// that its document names.
func TestOverridesForAFile(t *testing.T) {
	c, dir := newFakeConsul(t), t.TempDir()
	file := filepath.Join(dir, "front.yaml")
	writeCertificate(t, dir)
	text := "cluster: c\ncache_dir: cache\nconsul: {address: \"" + c.addr() + "\"}\n" + front
	write(t, file, text)
	c.put(nodesKey+"a", "drain: true")
	w := watch(t, configs.WatcherOptions{File: file})
	if u := w.next(); !u.Overrides["a"].Drain || u.Version != 0 {
		t.Errorf("got %+v", u)
	}
	w.stop()
	c.set(func() { c.down = true })
	w = watch(t, configs.WatcherOptions{File: file})
	if u := w.next(); !u.Overrides["a"].Drain {
		t.Errorf("with Consul down: got %+v, want what was kept", u)
	}
	write(t, file, strings.Replace(text, "cluster: c", "cluster: d", 1))
	if u := w.next(); u.Proxy.Cluster != "d" {
		t.Errorf("got %+v", u)
	}
	c.set(func() { c.down = false })
	if u := w.next(); len(u.Overrides) > 0 {
		t.Errorf("in another cluster: got %+v", u.Overrides)
	}
	write(t, file, front)
	if u := w.next(); u.Proxy.Consul != nil {
		t.Errorf("got %+v, want no Consul", u.Proxy)
	}
}

func TestWatcherLeavesNothingBehind(t *testing.T) {
	c := newFakeConsul(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreAnyFunction("net/http.(*conn).serve"))
	c.put(configKey, front)
	w := watch(t, sharedIn(c, ""))
	w.next()
	w.stop()
}

func TestNewWatcherNeedsASource(t *testing.T) {
	for _, o := range []configs.WatcherOptions{
		{}, {Local: configs.Local{Cluster: "c"}}, {Local: configs.Local{Cluster: "a/b", Agent: &configs.Consul{}}},
	} {
		if _, err := configs.NewWatcher(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// What is good and cannot be applied is tried again, at once when somebody asks for it.
func TestWatchUnappliable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "front.yaml")
	writeCertificate(t, dir)
	write(t, file, attempts("5"))
	w, err := configs.NewWatcher(configs.WatcherOptions{File: file})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tries := make(chan configs.Update)
	ended := make(chan error, 1)
	go func() {
		refusals := 2
		ended <- w.Run(ctx, func(u configs.Update) error {
			tries <- u
			if refusals--; refusals >= 0 {
				return errors.New("a port is taken")
			}
			return nil
		})
	}()
	<-tries
	for range 2 {
		w.Reload()
		if u := <-tries; u.Proxy.Limits.LoginAttempts != 5 {
			t.Errorf("tried again with %d login attempts, want 5", u.Proxy.Limits.LoginAttempts)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A front that was not there when Consul lost its state knows it all the same, by what
// the one before it has kept.
func TestLostStateTakesNothingBackFromARestartedFront(t *testing.T) {
	c, dir := newFakeConsul(t), t.TempDir()
	start := func(want int, drained ...string) *watching {
		t.Helper()
		w := watch(t, sharedIn(c, dir))
		u := w.next()
		if got := slices.Sorted(maps.Keys(u.Overrides)); u.Proxy.Limits.LoginAttempts != want || !slices.Equal(got, drained) {
			t.Fatalf("got %d login attempts and overrides of %q, want %d and %q", u.Proxy.Limits.LoginAttempts, got, want, drained)
		}
		return w
	}
	c.put(configKey, attempts("5"))
	c.put(nodesKey+"a", "drain: true")
	start(5, "a").stop()
	c.set(func() {
		c.index = 1
		clear(c.keys)
	})
	c.put(configKey, attempts("6"))
	w := start(6, "a")
	eventually(t, "the loss to be kept", func() bool { return strings.Contains(kept(t, dir), `"lost":true`) })
	w.stop()

	// It has more changes than it ever had, and still nothing about nodes.
	c.set(func() { c.index = 1000 })
	w = start(6, "a")
	w.stop()

	// Where it is down first, it is asked when it comes back.
	c.set(func() { c.down = true })
	w = start(6, "a")
	c.set(func() { c.down = false })
	eventually(t, "an end of the failures", func() bool { return w.Status().Failing == nil })
	c.put(configKey, attempts("7"))
	if u := w.next(); u.Proxy.Limits.LoginAttempts != 7 || !u.Overrides["a"].Drain {
		t.Errorf("got %+v; want a to drain still", u)
	}
	w.stop()

	// Another Consul, behind the same agent, that has something: it is what counts from then on.
	c.set(func() { c.index = 20 })
	c.put(nodesKey+"a", "drain: true")
	w = start(7, "a")
	eventually(t, "the index to be kept", func() bool { return strings.Contains(kept(t, dir), `"index":21}`) })
	w.stop()
	c.remove(nodesKey + "a")
	start(7).stop()
}

// kept is what a front has written for its next start.
func kept(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "c.config.json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What was taken back while a front was not running is taken back, and so is what another
// agent does not know, of which nobody can tell what it knew before.
func TestOverridesThatWereTakenBackBeforeTheStart(t *testing.T) {
	c, dir := newFakeConsul(t), t.TempDir()
	c.put(configKey, front)
	c.put(nodesKey+"a", "drain: true")
	w := watch(t, sharedIn(c, dir))
	w.next()
	w.stop()

	other := newFakeConsul(t)
	other.set(func() { other.index = 1 })
	other.put(configKey, front)
	elsewhere := t.TempDir()
	write(t, filepath.Join(elsewhere, "c.config.json"), kept(t, dir))
	w = watch(t, sharedIn(other, elsewhere))
	if u := w.next(); len(u.Overrides) > 0 {
		t.Errorf("from another agent: got %+v", u.Overrides)
	}
	w.stop()

	c.remove(nodesKey + "a")
	w = watch(t, sharedIn(c, dir))
	if u := w.next(); len(u.Overrides) > 0 {
		t.Errorf("got %+v", u.Overrides)
	}
}

// A front that starts keeps what was said of a node before, too, when what is said now
// is wrong.
func TestAWrongOverrideAtTheStart(t *testing.T) {
	c, dir := newFakeConsul(t), t.TempDir()
	c.put(configKey, front)
	c.put(nodesKey+"a", "drain: true")
	w := watch(t, sharedIn(c, dir))
	w.next()
	w.stop()
	c.put(nodesKey+"a", "drian: true")
	w = watch(t, sharedIn(c, dir))
	if u := w.next(); !u.Overrides["a"].Drain {
		t.Errorf("got %+v; want a to drain still", u)
	}
	if errs := w.Status().OverrideErrors; len(errs) != 1 {
		t.Errorf("got %v, want an error", errs)
	}
}

// What is in force is what could be applied, not what is good.
func TestInForceIsWhatWasApplied(t *testing.T) {
	c := newFakeConsul(t)
	c.put(configKey, attempts("5"))
	w, err := configs.NewWatcher(sharedIn(c, ""))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tries, verdicts, ended := make(chan uint64), make(chan error), make(chan error, 1)
	go func() {
		ended <- w.Run(ctx, func(u configs.Update) error {
			tries <- u.Version
			return <-verdicts
		})
	}()
	try := func(want uint64, inForce uint64) {
		t.Helper()
		got, s := <-tries, w.Status()
		if got != want || s.InForce.Version != inForce || s.Latest.Version != want || !s.Latest.Accepted {
			t.Errorf("while version %d is tried, want %d: version %d is in force, want %d; the latest is %+v", got, want, s.InForce.Version, inForce, s.Latest)
		}
	}
	try(11, 11)
	verdicts <- errors.New("a port is taken")
	eventually(t, "nothing to be in force", func() bool { return w.Status().InForce.Time.IsZero() })
	w.Reload()
	try(11, 11)
	verdicts <- nil
	c.put(configKey, attempts("6"))
	try(12, 11)
	verdicts <- errors.New("a port is taken")
	w.Reload()
	try(12, 11)
	verdicts <- nil
	eventually(t, "the new version to be in force", func() bool { return w.Status().InForce.Version == 12 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// logged is what was logged by now.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// The log says that the last good document stays when there is one.
func TestWhatStaysIsLogged(t *testing.T) {
	var log logged
	c := newFakeConsul(t)
	c.set(func() { c.down = true })
	o := sharedIn(c, "")
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	w := watch(t, o)
	eventually(t, "the failure", func() bool { return log.has("consul does not answer; no configuration is known so far") })
	c.set(func() { c.down = false })
	eventually(t, "no document", func() bool { return log.has("there is no such document") })
	c.put(configKey, "frobnicate: 1")
	eventually(t, "the refusal", func() bool { return log.has("frobnicate") })
	if log.has("stays") || log.has("going on with") || !log.has("configuration refused; there is no good one so far") {
		t.Errorf("without a document the log says\n%s", &log.text)
	}
	c.put(configKey, attempts("5"))
	w.wantAttempts(5)
	c.put(configKey, "frobnicate: 2")
	eventually(t, "the refusal", func() bool { return log.has("configuration refused; the last good one stays") })
}

// An agent that may not tell what there is has not said that there is nothing: a token that
// lost its rights takes nothing back.
func TestHiddenKeysTakeNothingBack(t *testing.T) {
	c := newFakeConsul(t)
	c.put(configKey, attempts("5"))
	c.put(nodesKey+"a", "drain: true")
	w := watch(t, sharedIn(c, ""))
	if u := w.next(); !u.Overrides["a"].Drain {
		t.Fatalf("got %+v", u.Overrides)
	}
	c.set(func() { c.index, c.hides = c.index+1, true })
	eventually(t, "failures", func() bool { return w.Status().Failures > 2 })
	if s := w.Status(); !strings.Contains(s.Failing.Error(), "ACL token") || !s.Latest.Accepted {
		t.Errorf("got %+v", s)
	}
	c.set(func() { c.hides = false })
	c.put(nodesKey+"b", "drain: true")
	if u := w.next(); !u.Overrides["a"].Drain || !u.Overrides["b"].Drain {
		t.Errorf("got %+v, want a and b", u.Overrides)
	}
}

// A token that is replaced in its file counts from the next question on.
func TestTokenIsReadAnew(t *testing.T) {
	c, file := newFakeConsul(t), filepath.Join(t.TempDir(), "token")
	c.put(configKey, attempts("5"))
	write(t, file, "first\n")
	o := sharedIn(c, "")
	o.Local.Agent.TokenFile = file
	w := watch(t, o)
	w.wantAttempts(5)
	if !c.sent("first") {
		t.Error("the token was not sent")
	}
	write(t, file, "second\n")
	c.put(configKey, attempts("6"))
	w.wantAttempts(6)
	eventually(t, "the second token", func() bool { return c.sent("second") })
}

// A front that could not start without Consul says so while there is time.
func TestCacheThatCannotBeWrittenIsTold(t *testing.T) {
	c, file := newFakeConsul(t), filepath.Join(t.TempDir(), "file")
	c.put(configKey, attempts("5"))
	write(t, file, "")
	w := watch(t, sharedIn(c, filepath.Join(file, "cache")))
	w.wantAttempts(5)
	eventually(t, "the failure", func() bool { return w.Status().CacheFailing != nil })
}

// A Consul that was set up anew while nobody could look may have another document under the
// index of the one before.
func TestAnotherDocumentUnderTheSameIndex(t *testing.T) {
	c := newFakeConsul(t)
	c.put(configKey, attempts("5"))
	w := watch(t, sharedIn(c, ""))
	w.wantAttempts(5)
	c.set(func() { c.down = true })
	eventually(t, "failures", func() bool { return w.Status().Failing != nil })
	c.set(func() {
		c.down = false
		c.keys[configKey] = fakePair{attempts("6"), c.keys[configKey].index}
	})
	w.wantAttempts(6)
}

// A document that was refused for want of a file that it names is taken when that is there, and the
// log tells once what was wrong.
func TestARefusedDocumentIsLookedAtAgain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "front.yaml")
	writeCertificate(t, dir)
	write(t, file, attempts("5"))
	synctest.Test(t, func(t *testing.T) {
		w, err := configs.NewWatcher(configs.WatcherOptions{File: file, Poll: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got []int
		ended := make(chan error)
		go func() {
			ended <- w.Run(ctx, func(u configs.Update) error {
				got = append(got, u.Proxy.Limits.LoginAttempts)
				return nil
			})
		}()
		<-time.After(1500 * time.Millisecond)
		key := filepath.Join(dir, "a.key")
		if err := os.Rename(key, key+".old"); err != nil {
			t.Fatal(err)
		}
		write(t, file, attempts("17"))
		<-time.After(time.Minute)
		if s := w.Status(); s.Refused != 1 || s.Latest.Accepted {
			t.Errorf("got %+v, want one refusal", s)
		}
		write(t, key, "no key")
		<-time.After(10 * time.Second)
		if s := w.Status(); s.Refused != 2 || !strings.Contains(s.Latest.Err.Error(), "PEM") {
			t.Errorf("got %+v, want a refusal for what is wrong now", s)
		}
		if err := os.Rename(key+".old", key); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Second)
		if s := w.Status(); s.Refused != 2 || s.Accepted != 2 || !s.Latest.Accepted {
			t.Errorf("got %+v, want it taken", s)
		}
		cancel()
		if err := <-ended; err != nil || !slices.Equal(got, []int{5, 17}) {
			t.Errorf("got documents with %v login attempts, %v; want 5 and 17", got, err)
		}
	})
}

// A document that is being written is left alone until it is whole, however good its beginning is.
func TestHalfOfADocumentIsNotTaken(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "front.yaml")
	writeCertificate(t, dir)
	write(t, file, attempts("6"))
	synctest.Test(t, func(t *testing.T) {
		w, err := configs.NewWatcher(configs.WatcherOptions{File: file, Poll: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got []int
		ended := make(chan error)
		go func() {
			ended <- w.Run(ctx, func(u configs.Update) error {
				got = append(got, u.Proxy.Limits.LoginAttempts)
				return nil
			})
		}()
		<-time.After(1500 * time.Millisecond)
		write(t, file, front) // and the limits to come
		<-time.After(time.Second)
		write(t, file, attempts("17"))
		<-time.After(3 * time.Second)
		cancel()
		if err := <-ended; err != nil || !slices.Equal(got, []int{6, 17}) {
			t.Errorf("got documents with %v login attempts, %v; want 6 and 17", got, err)
		}
	})
}
