package configs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// pursuit is one run of a Watcher. Its fields belong to that run's goroutine.
type pursuit struct {
	*Watcher

	apply   func(Update) error
	running sync.WaitGroup // the goroutines that ask Consul

	documents <-chan answer // nil when the document is a file
	file      fileState     // as it was last read
	seen      fileState     // as it was at the last look
	again     time.Time     // when one that was refused is looked at again
	latest    draft         // the newest document, good or bad
	good      draft         // the one in force; without data when there is none

	nodes     <-chan answer // nil when nobody is asked
	stopNodes context.CancelFunc
	asked     Consul // whom
	cluster   string // and about which cluster
	overrides map[string]Override
	known     bool // overrides is all that there is, or all that can be had now
	origin    origin

	announced *Update
	written   origin    // as it was last kept
	failed    *Update   // could not be applied, nil when all could …
	retry     time.Time // … and is tried again then
}

// draft is a document, and what it says if it is good.
type draft struct {
	data    []byte
	version uint64
	cached  bool
	proxy   Proxy
	report  Report // that it is good
}

// fileState tells two states of a file apart.
type fileState struct {
	changed time.Time
	size    int64
}

// begin takes the file as it is, or starts to ask for the document.
func (p *pursuit) begin(ctx context.Context) error {
	if p.options.File == "" {
		kv, err := NewKV(*p.options.Local.Agent, p.options.Local.Cluster)
		if err != nil {
			return err
		}
		p.documents = p.follow(ctx, question{agent: *p.options.Local.Agent, client: kv.client, key: kv.DocumentKey()})
		return nil
	}
	p.file = stateOf(p.options.File)
	p.seen = p.file
	data, err := os.ReadFile(p.options.File)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return p.consider(ctx, draft{data: data})
}

func stateOf(file string) fileState {
	info, err := os.Stat(file)
	if err != nil {
		return fileState{}
	}
	return fileState{changed: info.ModTime(), size: info.Size()}
}

// lookAtFile considers the file if it has changed, and two looks have seen the same: one that
// is being written may make sense as far as it goes.
func (p *pursuit) lookAtFile(ctx context.Context) {
	if p.options.File == "" {
		return
	}
	before := p.seen
	p.seen = stateOf(p.options.File)
	if p.seen == before && p.seen != p.file {
		p.lookAgain(ctx)
	}
}

// lookAgain considers the document as it is now.
func (p *pursuit) lookAgain(ctx context.Context) {
	p.retry = time.Time{}
	if p.options.File != "" {
		p.file = stateOf(p.options.File)
	}
	d, err := p.newest()
	switch {
	case err != nil:
		p.verdict(ctx, draft{}, err)
	case d.data != nil:
		_ = p.consider(ctx, d) // the verdict is reported
	}
}

// newest returns the document as it is now; without data when there is none.
func (p *pursuit) newest() (draft, error) {
	d := draft{data: p.latest.data, version: p.latest.version}
	var err error
	if p.options.File != "" {
		d.data, err = os.ReadFile(p.options.File)
	}
	return d, err
}

// lookAtRefused considers a document again that was refused, now and then, because the files that
// it names may be good by now. It says nothing while what is wrong is the same.
func (p *pursuit) lookAtRefused(ctx context.Context) {
	before := p.Status().Latest.Err
	if before == nil || p.seen != p.file || time.Now().Before(p.again) {
		return
	}
	p.again = time.Now().Add(lookAgainAfter)
	d, err := p.newest()
	if err == nil && d.data == nil {
		return
	}
	if err == nil {
		_, err = p.parse(d.data)
	}
	if err == nil || err.Error() != before.Error() {
		p.lookAgain(ctx)
	}
}

// takeDocument considers the document that Consul has.
func (p *pursuit) takeDocument(ctx context.Context, a answer) {
	p.heard(ctx, a)
	switch {
	case a.err != nil:
		p.makeDo(ctx)
	case len(a.pairs) == 0:
		p.verdict(ctx, draft{}, ErrNoDocument)
		p.latest = draft{} // what comes back is considered anew, also under the same index
		p.makeDo(ctx)
	case a.pairs[0].ModifyIndex != p.latest.version || !bytes.Equal(a.pairs[0].Value, p.latest.data):
		if p.consider(ctx, draft{data: a.pairs[0].Value, version: a.pairs[0].ModifyIndex}) != nil {
			p.makeDo(ctx)
		}
	}
}

// consider validates a document, reports the verdict, and puts the document in
// force if it is good.
func (p *pursuit) consider(ctx context.Context, d draft) error {
	p.latest = d
	proxy, err := p.parse(d.data)
	d.proxy, d.report = proxy, p.verdict(ctx, d, err)
	if err != nil {
		return err
	}
	p.accept(ctx, d)
	return nil
}

func (w *Watcher) parse(data []byte) (Proxy, error) {
	if w.options.File != "" {
		return parseProxy(w.options.File, data, Local{Dir: filepath.Dir(w.options.File)})
	}
	return parseProxy(w.status.Source, data, w.options.Local) // Source never changes
}

// accept puts a document in force, and follows the nodes of its cluster.
func (p *pursuit) accept(ctx context.Context, d draft) {
	p.good = d
	c := d.proxy.Consul
	if c == nil {
		p.unfollow()
		p.overrides, p.known, p.origin = nil, true, origin{}
		return
	}
	asked := *c
	asked.Register = nil
	if p.nodes != nil && sameAgent(asked, p.asked) && p.cluster == d.proxy.Cluster {
		return
	}
	p.unfollow()
	kv, err := NewKV(asked, d.proxy.Cluster)
	if err != nil {
		p.options.Logger.ErrorContext(ctx, "overrides of nodes are not followed", slog.Any("error", err))
		p.known = true
		return
	}
	ctx, p.stopNodes = context.WithCancel(ctx)
	p.asked, p.cluster = asked, d.proxy.Cluster
	p.origin = p.originOf(asked)
	p.nodes = p.follow(ctx, question{agent: asked, client: kv.client, key: kv.nodesPrefix(), below: true, told: p.origin.Index})
}

// originOf returns up to where the overrides of the cluster were followed at an agent,
// which at a start is what was kept. What another agent says is not to be compared.
func (p *pursuit) originOf(agent Consul) origin {
	at := origin{Agent: agent.Datacenter + "@" + agent.Address}
	if before := p.cache(p.cluster).read().Origin; !p.known && before.Agent == at.Agent {
		return before
	}
	return at
}

// unfollow stops asking for the nodes.
func (p *pursuit) unfollow() {
	if p.stopNodes != nil {
		p.stopNodes()
	}
	p.nodes, p.stopNodes = nil, nil
}

// sameAgent reports whether two blocks mean the same agent, asked in the same way.
func sameAgent(a, b Consul) bool {
	if (a.TLS == nil) != (b.TLS == nil) || a.TLS != nil && *a.TLS != *b.TLS {
		return false
	}
	a.TLS, b.TLS = nil, nil
	return a == b
}

// takeNodes takes what operators say of nodes.
func (p *pursuit) takeNodes(ctx context.Context, a answer) {
	p.heard(ctx, a)
	if a.err != nil {
		p.makeDo(ctx)
		return
	}
	p.recall(ctx)
	p.origin.Index, p.origin.Lost = a.index, len(a.pairs) == 0 && (a.restarted || p.origin.Lost)
	if p.origin.Lost && len(p.overrides) > 0 {
		p.options.Logger.WarnContext(ctx, "consul has lost its state; overrides of nodes stay until it has some again")
		return
	}
	prefix := "imlb/" + p.cluster + "/nodes/"
	stored, errs := readOverrides(prefix, a.pairs)
	overrides := make(map[string]Override, len(stored))
	for name, o := range stored {
		overrides[name] = o.Override
	}
	for _, e := range errs { // those keep what was said of them before
		name := e.File[len(prefix):]
		if before, ok := p.overrides[name]; ok {
			overrides[name] = before
		}
	}
	p.overrides = overrides
	if len(overrides) == 0 { // without any, all that is written to Consul makes it another one
		p.origin.Index = 0
	}
	p.reportNodes(ctx, overrides, errs)
}

// makeDo goes on with what was kept, where nothing better has come so far.
func (p *pursuit) makeDo(ctx context.Context) {
	if p.good.data == nil && p.options.File == "" {
		p.fallBack(ctx)
	}
	if p.good.data != nil {
		p.recall(ctx)
	}
}

// recall begins with the overrides that were kept.
func (p *pursuit) recall(ctx context.Context) {
	if p.known {
		return
	}
	p.overrides, p.known = p.cache(p.good.proxy.Cluster).read().overrides(), true
	p.reportNodes(ctx, p.overrides, nil)
}

// fallBack puts the document in force that was kept, if there is one.
func (p *pursuit) fallBack(ctx context.Context) {
	k := p.cache(p.options.Local.Cluster).read()
	if k.Document == "" {
		return
	}
	d := draft{data: []byte(k.Document), version: k.Version, cached: true}
	proxy, err := p.parse(d.data)
	if err != nil { // the files that it names may be gone
		return
	}
	d.proxy, d.report = proxy, p.verdict(ctx, d, nil)
	p.accept(ctx, d)
}

// cache returns where the configuration of a cluster is kept.
func (p *pursuit) cache(cluster string) cache {
	if p.options.File == "" {
		return cache{dir: p.options.Local.CacheDir, cluster: cluster}
	}
	return cache{dir: p.good.proxy.CacheDir, cluster: cluster}
}

// announce calls apply if there is something new to run with, and keeps it.
func (p *pursuit) announce(ctx context.Context) {
	if p.good.data == nil || !p.known {
		return
	}
	next := Update{Proxy: p.good.proxy, Overrides: maps.Clone(p.overrides), Version: p.good.version}
	if p.announced != nil && p.failed == nil && p.announced.same(next) {
		p.inForce(p.good.report)
		if p.written != p.origin {
			p.keep(ctx, next)
		}
		return
	}
	if p.failed != nil && p.failed.same(next) && time.Now().Before(p.retry) {
		return
	}
	if p.announced == nil {
		p.inForce(p.good.report) // whoever asks a front that is just beginning
	}
	if err := p.apply(next); err != nil { // what cannot be applied now may be later
		p.failed, p.retry = &next, time.Now().Add(applyAgain)
		if p.announced == nil {
			p.inForce(Report{})
		}
		return
	}
	p.announced, p.failed = &next, nil
	p.inForce(p.good.report)
	p.keep(ctx, next)
}

// inForce reports which document is in force.
func (w *Watcher) inForce(r Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.InForce = r
}

// keep writes what is in force to the cache.
func (p *pursuit) keep(ctx context.Context, u Update) {
	p.written = p.origin
	err := p.cache(u.Proxy.Cluster).write(p.good, u.Overrides, p.origin)
	p.mu.Lock()
	p.status.CacheFailing = err
	p.mu.Unlock()
	if err != nil {
		p.options.Logger.WarnContext(ctx, "the configuration could not be kept for a start without Consul", slog.Any("error", err))
	}
}

// lookAgainAfter lies between looks at a document that was refused.
const lookAgainAfter = 5 * time.Second

// applyAgain lies between attempts to apply a good configuration that could not be
// applied, as when a port is taken.
const applyAgain = 5 * time.Second

func (u Update) same(v Update) bool {
	return u.Version == v.Version && maps.Equal(u.Overrides, v.Overrides) && len(Diff(u.Proxy, v.Proxy)) == 0
}

// verdict reports what became of a document, and returns that.
func (p *pursuit) verdict(ctx context.Context, d draft, err error) Report {
	r := Report{Version: d.version, Time: time.Now(), Accepted: err == nil, Cached: d.cached, Err: err}
	p.mu.Lock()
	before := p.status.Latest
	if !d.cached || before.Version <= d.version {
		p.status.Latest = r // going on with the cache does not make a newer document good
	}
	if r.Accepted {
		p.status.Accepted++
	} else {
		p.status.Refused++
	}
	p.mu.Unlock()

	log := p.options.Logger.With(slog.String("source", p.status.Source), slog.Uint64("version", d.version))
	switch {
	case err == nil && d.cached:
		log.WarnContext(ctx, "configuration taken from the cache")
	case err == nil && p.good.data == nil: // who applies it says so, in the form that it asks of the log
	case err == nil:
		log.InfoContext(ctx, "configuration accepted")
	case errors.Is(err, ErrNoDocument) && errors.Is(before.Err, ErrNoDocument):
	case p.good.data == nil && p.options.File != "": // Run returns it
	case p.good.data == nil:
		log.ErrorContext(ctx, "configuration refused; there is no good one so far", slog.Any("errors", r.Messages()))
	default:
		log.ErrorContext(ctx, "configuration refused; the last good one stays", slog.Any("errors", r.Messages()))
	}
	return r
}

// heard notes whether Consul answers.
func (p *pursuit) heard(ctx context.Context, a answer) {
	p.mu.Lock()
	before := p.status
	if a.err != nil {
		p.status.Failing = a.err
		p.status.Failures++
	} else {
		p.status.Failing, p.status.Failures, p.status.Answered = nil, 0, time.Now()
	}
	p.mu.Unlock()
	switch {
	case a.err != nil && before.Failing == nil && p.good.data == nil:
		p.options.Logger.WarnContext(ctx, "consul does not answer; no configuration is known so far", slog.Any("error", a.err))
	case a.err != nil && before.Failing == nil:
		p.options.Logger.WarnContext(ctx, "consul does not answer; going on with the configuration that is known", slog.Any("error", a.err))
	case a.err == nil && before.Failing != nil:
		p.options.Logger.InfoContext(ctx, "consul answers again", slog.Int("failures", before.Failures))
	}
}

// reportNodes reports the overrides that are in force, and those that are not.
func (w *Watcher) reportNodes(ctx context.Context, overrides map[string]Override, errs Errors) {
	w.mu.Lock()
	before := w.status.OverrideErrors
	w.status.Overrides, w.status.OverrideErrors = maps.Clone(overrides), errs
	w.mu.Unlock()
	if len(errs) > 0 && errs.Error() != before.Error() {
		w.options.Logger.ErrorContext(ctx, "overrides of nodes refused", slog.Any("errors", Report{Err: errs}.Messages()))
	}
}
