package proxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"imlb/backend/xmpp"
)

// features are what a node offers before a login. They never change. Of what is not
// here nothing is offered to clients: TLS is the front's own, and what is no login,
// nor the way to one, cannot be done before it, because who has to do it is not known yet.
type features struct {
	mechanisms []string
	bindings   []byte         // <sasl-channel-binding/> (XEP-0440), as the node wrote it; nil for none
	sasl2      *sasl2Features // nil for none
	register   bool           // the node makes accounts (XEP-0077)
	limits     bool           // the node tells what it takes (XEP-0478) …
	maxBytes   int            // … in one element; 0: it does not say
	starttls   bool           // the node would do STARTTLS, or wants it
	front      bool           // the node reads what the front tells it of its clients
	settles    bool           // the node takes settles: see settle.go
	text       string         // as the node wrote it all; empty if that was too long
}

// sasl2Features are what <authentication/> holds (XEP-0388 §2.2).
type sasl2Features struct {
	mechanisms []string
	fast       []string // for tokens (XEP-0484)
	inline     []byte   // the other features that can be negotiated inline, as the node wrote them
	more       []byte   // what else there is, such as upgrades (XEP-0480)
}

// maxFeatures is how long the features of a node may be to be offered, in bytes.
const maxFeatures = 16 << 10

// readFeatures reads a node's <features/>.
func readFeatures(e xmpp.Element) *features {
	f := new(features)
	if len(e.Raw()) > maxFeatures {
		return f
	}
	f.text = string(e.Raw())
	for child := range e.Children() {
		switch {
		case child.Is(xmpp.NSSASL, "mechanisms"):
			f.mechanisms = mechanismsIn(child, xmpp.NSSASL)
		case child.Is(xmpp.NSSASLCB, "sasl-channel-binding"):
			f.bindings = appendWhole(nil, child)
		case child.Is(xmpp.NSSASL2, "authentication"):
			f.sasl2 = readSASL2Features(child)
		case child.Is(xmpp.NSRegisterFeature, "register"):
			f.register = true
		case child.Is(xmpp.NSLimits, "limits"):
			f.limits = true
			f.maxBytes = maxBytesIn(child)
		case child.Is(xmpp.NSTLS, "starttls"):
			f.starttls = true
		case child.Space() == xmpp.NSFront:
			f.front = true
			f.settles = f.settles || child.Local() == "settle"
		}
	}
	return f
}

func readSASL2Features(e xmpp.Element) *sasl2Features {
	f := &sasl2Features{mechanisms: mechanismsIn(e, xmpp.NSSASL2)}
	for child := range e.Children() {
		switch {
		case child.Is(xmpp.NSSASL2, "mechanism"):
		case child.Is(xmpp.NSSASL2, "inline"):
			f.readInline(child)
		default:
			f.more = appendWhole(f.more, child)
		}
	}
	return f
}

func (f *sasl2Features) readInline(e xmpp.Element) {
	for child := range e.Children() {
		if child.Is(xmpp.NSFast, "fast") {
			f.fast = mechanismsIn(child, xmpp.NSFast)
			continue
		}
		f.inline = appendWhole(f.inline, child)
	}
}

// maxBytesIn returns what <limits/> says of the length of elements, 0 if it says nothing.
func maxBytesIn(limits xmpp.Element) int {
	stated, ok := limits.Child(xmpp.NSLimits, "max-bytes")
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(stated.Text()), 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

// mechanismsIn returns the texts of the <mechanism/> children of e.
func mechanismsIn(e xmpp.Element, space string) []string {
	var all []string
	for child := range e.Children() {
		if child.Is(space, "mechanism") {
			all = append(all, strings.TrimSpace(child.Text()))
		}
	}
	return all
}

// appendWhole appends an element as it is, unless it makes no sense in another place
// because its prefixes are declared elsewhere.
func appendWhole(dst []byte, e xmpp.Element) []byte {
	if _, _, err := xmpp.NewFrameScanner(xmpp.Limits{}).Next(e.Raw()); err != nil {
		return dst
	}
	return append(dst, e.Raw()...)
}

// offer is what a client is offered to log in with.
type offer struct {
	mechanisms []string
	sasl2      []string
	fast       []string
	register   bool
	raw        []byte // the stream features
}

// has tells whether a login is one of those that were offered.
func (o *offer) has(f xmpp.SASLFrame) bool {
	if !f.SASL2 {
		return slices.Contains(o.mechanisms, f.Mechanism)
	}
	return slices.Contains(o.sasl2, f.Mechanism) || slices.Contains(o.fast, f.Mechanism)
}

// knows tells whether a mechanism was offered in any way.
func (o *offer) knows(mechanism string) bool {
	return slices.Contains(o.mechanisms, mechanism) || o.has(xmpp.SASLFrame{SASL2: true, Mechanism: mechanism})
}

// offer returns what to offer of a node's features: those mechanisms that are usable,
// and wanted if wanted is not empty, in whose order they then are. Tokens are what an
// earlier login has brought, so that they are never unwanted. A client of nodes that tell
// what they take (XEP-0478) is told that, or maxBytes, which is what the front takes, if it is
// less: what it sends before it is logged in passes through both.
func (f *features) offer(wanted []string, usable func(string) bool, maxBytes int) offer {
	o := offer{mechanisms: choose(f.mechanisms, wanted, usable)}
	o.register = f.register && usable("PLAIN") // it shows a password as well
	if f.sasl2 != nil {
		o.sasl2 = choose(f.sasl2.mechanisms, wanted, usable)
		o.fast = choose(f.sasl2.fast, nil, usable)
	}
	o.raw = f.append([]byte("<stream:features>"), &o)
	if f.limits {
		if f.maxBytes > 0 {
			maxBytes = min(maxBytes, f.maxBytes)
		}
		o.raw = append(o.raw, "<limits xmlns='"+xmpp.NSLimits+"'><max-bytes>"...)
		o.raw = append(strconv.AppendInt(o.raw, int64(maxBytes), 10), "</max-bytes></limits>"...)
	}
	o.raw = append(o.raw, "</stream:features>"...)
	return o
}

// choose returns those offered mechanisms that are wanted and usable.
func choose(offered, wanted []string, usable func(string) bool) []string {
	if len(wanted) == 0 {
		wanted = offered
	}
	var chosen []string
	for _, m := range wanted {
		if m != "" && slices.Contains(offered, m) && usable(m) {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

// append appends the features that o has.
func (f *features) append(dst []byte, o *offer) []byte {
	if len(o.mechanisms) > 0 {
		dst = append(dst, "<mechanisms xmlns='"+xmpp.NSSASL+"'>"...)
		dst = appendMechanisms(dst, o.mechanisms)
		dst = append(dst, "</mechanisms>"...)
	}
	if slices.ContainsFunc(slices.Concat(o.mechanisms, o.sasl2, o.fast), bindsChannel) {
		dst = append(dst, f.bindings...)
	}
	if len(o.sasl2)+len(o.fast) > 0 {
		dst = f.sasl2.append(dst, o)
	}
	if o.register {
		dst = append(dst, registerOffer...)
	}
	return dst
}

func (f *sasl2Features) append(dst []byte, o *offer) []byte {
	dst = append(dst, "<authentication xmlns='"+xmpp.NSSASL2+"'>"...)
	dst = appendMechanisms(dst, o.sasl2)
	if len(o.fast)+len(f.inline) > 0 {
		dst = append(dst, "<inline>"...)
		if len(o.fast) > 0 {
			dst = append(dst, "<fast xmlns='"+xmpp.NSFast+"'>"...)
			dst = appendMechanisms(dst, o.fast)
			dst = append(dst, "</fast>"...)
		}
		dst = append(dst, f.inline...)
		dst = append(dst, "</inline>"...)
	}
	dst = append(dst, f.more...)
	return append(dst, "</authentication>"...)
}

func appendMechanisms(dst []byte, mechanisms []string) []byte {
	for _, m := range mechanisms {
		dst = append(dst, "<mechanism>"...)
		dst = xmpp.AppendEscaped(dst, m)
		dst = append(dst, "</mechanism>"...)
	}
	return dst
}

// bindsChannel tells whether a mechanism binds a login to its TLS connection.
func bindsChannel(mechanism string) bool {
	if strings.HasPrefix(mechanism, "HT-") {
		return !strings.HasSuffix(mechanism, "-NONE")
	}
	return strings.HasSuffix(mechanism, "-PLUS")
}

// showsSecret tells whether a mechanism shows who listens what it takes to log in.
func showsSecret(mechanism string) bool {
	switch mechanism {
	case "PLAIN", "LOGIN", oauthBearer, "X-OAUTH2":
		return true
	}
	return false
}

// usable returns whether the session's client can log in with a mechanism of a node
// with features f.
func (s *session) usable(f *features) func(mechanism string) bool {
	private := s.private()
	return func(m string) bool {
		switch {
		case showsSecret(m) && !private:
			return false
		case bindsChannel(m) && s.facts.roams:
			return false // there is not one channel
		case bindsChannel(m) && !f.front:
			return false // it would be the front's own connection to the node
		}
		return xmpp.NamesUser(m) || s.from.Local() != ""
	}
}

// private tells whether nobody can listen to what the client sends.
func (s *session) private() bool { return s.facts.tls != nil || s.facts.receivedTLS() }

// featureKey says whose features they are. Nodes offer more to clients whose
// connection is secured, who can bind to it, and who have a certificate.
type featureKey struct {
	pool, domain string
	private      bool
	exporter     bool
	endPoint     bool
	certified    bool
}

const (
	// featureAge is how long features are believed that no login has confirmed.
	featureAge = time.Minute
	// maxKnown bounds how many are kept. Where every domain is served strangers can
	// choose what is asked for.
	maxKnown = 256
)

// offers knows what the nodes of each pool offered last. It is safe for concurrent use.
type offers struct {
	mu      sync.Mutex
	age     time.Duration // featureAge, but in tests
	known   map[featureKey]*learnt
	flights map[featureKey]*flight
}

// learnt is what is known of one pool.
type learnt struct {
	features *features
	at       time.Time
	asked    bool // somebody asks again
}

// flight is a session's question to a node, for whose answer others wait.
type flight struct {
	done     chan struct{} // closed when it is over
	features *features     // nil after an error
	err      error
	quit     bool // the session has not waited for the answer itself
}

func newOffers() *offers {
	return &offers{
		age:     featureAge,
		known:   make(map[featureKey]*learnt),
		flights: make(map[featureKey]*flight),
	}
}

// learn notes what a node has offered.
func (o *offers) learn(key featureKey, f *features) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.known[key]
	if l == nil {
		if len(o.known) >= maxKnown {
			o.forgetOldest()
		}
		l = new(learnt)
		o.known[key] = l
	}
	l.features, l.at = f, time.Now()
}

// read reads a node's <features/>. Most say what others have said before, and share what was
// read then.
func (o *offers) read(key featureKey, e xmpp.Element) *features {
	if f := o.sameAs(key, e.Raw()); f != nil {
		return f
	}
	return readFeatures(e)
}

// sameAs returns what is known if it was written so, else nil.
func (o *offers) sameAs(key featureKey, text []byte) *features {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l := o.known[key]; l != nil && len(text) > 0 && l.features.text == string(text) {
		return l.features
	}
	return nil
}

func (o *offers) forgetOldest() {
	var oldest featureKey
	var at time.Time
	for key, l := range o.known {
		if at.IsZero() || l.at.Before(at) {
			oldest, at = key, l.at
		}
	}
	delete(o.known, oldest)
}

// last returns what is known, or nil, and whether the caller has to ask again: then it
// has to call asked afterwards.
func (o *offers) last(key featureKey) (f *features, ask bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.known[key]
	if l == nil {
		return nil, false
	}
	ask = !l.asked && time.Since(l.at) > o.age
	l.asked = l.asked || ask
	return l.features, ask
}

// serves tells whether the nodes of a pool have ever offered features for a domain.
func (o *offers) serves(pool, domain string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key := range o.known {
		if key.pool == pool && key.domain == domain {
			return true
		}
	}
	return false
}

// asked lets others ask again.
func (o *offers) asked(key featureKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l := o.known[key]; l != nil {
		l.asked = false
	}
}

// first returns what ask does, which one of those who call first at the same time does
// for all. One that failed may have been refused for its own sake, so that another one
// tries again, once. If its client has left meanwhile, nothing was tried.
func (o *offers) first(ctx context.Context, key featureKey, ask func() (*features, error)) (*features, error) {
	var failed error
	for tries := 2; tries > 0; {
		fl, mine := o.board(key)
		if mine {
			return o.fly(ctx, key, fl, ask)
		}
		select {
		case <-fl.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case fl.err == nil:
			return fl.features, nil
		case !fl.quit:
			failed = fl.err
			tries--
		}
	}
	return nil, failed
}

// board returns the flight for key, and whether it is the caller's to fly.
func (o *offers) board(key featureKey) (fl *flight, mine bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if fl := o.flights[key]; fl != nil {
		return fl, false
	}
	fl = &flight{done: make(chan struct{}), err: errors.New("the question to the node was given up")}
	o.flights[key] = fl
	return fl, true
}

func (o *offers) fly(ctx context.Context, key featureKey, fl *flight, ask func() (*features, error)) (*features, error) {
	defer func() { // also when ask panics
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.flights, key)
		close(fl.done)
	}()
	fl.features, fl.err = ask()
	fl.quit = ctx.Err() != nil
	return fl.features, fl.err
}

// featureKey is that of the nodes that the session may come to.
func (s *session) featureKey() featureKey {
	f := s.facts
	return featureKey{
		pool: s.poolName(), domain: s.domain(), private: s.private(), certified: f.certified(),
		exporter: !f.unbound && f.exporter() != nil, endPoint: !f.unbound && f.endPoint != nil,
	}
}

// nodeFeatures returns what the nodes offer. It asks one of them only if that is not
// known; what is old is asked for again while the login goes on.
func (s *session) nodeFeatures(ctx context.Context, by time.Time) (*features, error) {
	known, key := s.srv.offers, s.featureKey()
	f, again := known.last(key)
	if again {
		s.meanwhile(ctx, func() {
			defer known.asked(key)
			_, _ = s.askNode(ctx) // it was reported, and logins will tell their clients
		})
	}
	if f != nil {
		return f, nil
	}
	err := s.minding(ctx, func(ctx context.Context) (err error) {
		limited, cancel := context.WithDeadline(ctx, by)
		defer cancel()
		f, err = known.first(limited, key, func() (*features, error) { return s.askNode(limited) })
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return s.shutdown()
		case limited.Err() != nil:
			return &ending{reason: ReasonIdentifyTimeout, condition: xmpp.ConnectionTimeout, cause: err}
		}
		return err
	})
	return f, err
}

// meanwhile runs part beside the session, which is not over before it has returned.
func (s *session) meanwhile(ctx context.Context, part func()) {
	done, over := make(chan struct{}), s.over
	s.over = func() {
		<-done
		over()
	}
	go func() {
		defer close(done)
		if e := guard(func() *ending { part(); return nil }); e != nil {
			s.srv.log.LogAttrs(ctx, slog.LevelError, "panic beside a session", slog.String("id", s.rec.ID.String()), slog.Any("error", e))
		}
	}()
}

// askNode opens a stream for the domain to a node to see its features, which are
// learnt. It may run beside the session. The error is an *ending.
func (s *session) askNode(ctx context.Context) (*features, error) {
	domain, err := xmpp.NewJID("", s.domain(), "")
	if err != nil {
		return nil, protocolError(&xmpp.StreamError{Condition: xmpp.HostUnknown})
	}
	var leg *nodeLeg
	link, err := s.reach(ctx, s.domain(), func(link *nodeConn) (err error) {
		leg, err = s.openNode(link, domain)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.srv.report(link.choice, OutcomeConnected)
	if f := leg.features; len(f.mechanisms) == 0 && f.sasl2 == nil {
		s.srv.log.LogAttrs(ctx, slog.LevelWarn, "a node offers no login", slog.String("node", link.name()),
			slog.String("pool", s.poolName()), slog.String("domain", s.domain()), slog.Bool("wants_starttls", f.starttls))
	}
	leg.part()
	leg.close()
	return leg.features, nil
}
