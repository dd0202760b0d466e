package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"imlb/backend/xmpp"
	"imlb/proxy"
)

// fresh is a domain of whose nodes nothing is known when a front has started.
const fresh = "fresh.example"

// of makes what is said of example.com said of another domain.
func of(domain, s string) string { return strings.ReplaceAll(s, "example.com", domain) }

// startFresh starts a front that serves fresh, too.
func startFresh(t *testing.T, picker proxy.Picker, change func(*proxy.Options)) *front {
	t.Helper()
	return startFront(t, picker, func(o *proxy.Options) {
		o.Domains = append(o.Domains, fresh)
		o.Mechanisms = nil
		if change != nil {
			change(o)
		}
	})
}

// asks opens a client's stream for a domain.
func (f *front) asks(domain string) *peer {
	f.t.Helper()
	client := f.dialTLS()
	client.send(of(domain, streamOpen))
	return client
}

// asked answers a front that only wants to know what the node offers.
func (n *node) asked(domain, features string) {
	n.t.Helper()
	leg := n.accept()
	if h := leg.open(); !strings.Contains(h, " to='"+domain+"'") || strings.Contains(h, " from=") {
		n.t.Errorf("the front asked with %s", h)
	}
	leg.send(of(domain, nodeHeader) + features)
	leg.expect(streamEnd)
	leg.send(streamEnd)
	leg.close()
}

func leave(f *front, client *peer) {
	f.t.Helper()
	client.send(streamEnd)
	client.expect(streamEnd)
	client.close()
	f.ended("client-closed")
}

// What of a node's features is offered to clients, and how.
func TestOffer(t *testing.T) {
	t.Parallel()
	const (
		head     = "<stream:features>"
		tail     = "</stream:features>"
		starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
		register = "<register xmlns='http://jabber.org/features/iq-register'/>"
		caps     = "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n' ver='v'/>"
		settle   = "<settle xmlns='urn:imlb:front:0'/>"
		bindings = "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/></sasl-channel-binding>"
	)
	sasl := func(mechanisms ...string) string {
		return "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>" + strings.Join(mechanisms, "</mechanism><mechanism>") + "</mechanism></mechanisms>"
	}
	sasl2 := func(inside string) string {
		return "<authentication xmlns='urn:xmpp:sasl:2'>" + inside + "</authentication>"
	}
	for _, tt := range []struct {
		name, node string
		wanted     []string
		want       string
	}{
		{"nothing", "<stream:features/>", nil, head + tail},
		{"no login", head + starttls + register + caps + settle + tail, nil, head + register + tail},
		{"the nodes' order", head + starttls + sasl("PLAIN", "SCRAM-SHA-1") + settle + tail, nil, head + sasl("PLAIN", "SCRAM-SHA-1") + tail},
		{"the configured order", head + sasl("PLAIN", "X", "SCRAM-SHA-1") + tail, []string{"SCRAM-SHA-1", "EXTERNAL", "PLAIN"}, head + sasl("SCRAM-SHA-1", "PLAIN") + tail},
		{"nothing of what is configured", head + sasl("PLAIN") + tail, []string{"EXTERNAL"}, head + tail},
		{"names", head + sasl(" PLAIN\n", "", "&lt;") + tail, nil, head + sasl("PLAIN", "&lt;") + tail},
		{
			"channel bindings of our node", head + sasl("SCRAM-SHA-1-PLUS", "PLAIN") + bindings + settle + tail, nil,
			head + sasl("SCRAM-SHA-1-PLUS", "PLAIN") + bindings + tail,
		},
		{"channel bindings of another node", head + sasl("SCRAM-SHA-1-PLUS", "PLAIN") + bindings + tail, nil, head + sasl("PLAIN") + tail},
		{
			"no channel binding that would need one", head + sasl("SCRAM-SHA-1-PLUS", "PLAIN") + bindings + settle + tail, []string{"PLAIN"},
			head + sasl("PLAIN") + tail,
		},
		{
			"SASL2",
			head + sasl("PLAIN") + sasl2("<mechanism>PLAIN</mechanism><mechanism>SCRAM-SHA-1-PLUS</mechanism><inline><bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:carbons:2'/></inline></bind><sm xmlns='urn:xmpp:sm:3'/><fast xmlns='urn:xmpp:fast:0' tls-0rtt='true'><mechanism>HT-SHA-256-EXPR</mechanism><mechanism>HT-SHA-256-NONE</mechanism></fast></inline><upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>") + tail,
			[]string{"PLAIN"},
			head + sasl("PLAIN") + sasl2("<mechanism>PLAIN</mechanism><inline><fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-NONE</mechanism></fast><bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:carbons:2'/></inline></bind><sm xmlns='urn:xmpp:sm:3'/></inline><upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>") + tail,
		},
		{"SASL2 without a way in", head + sasl2("<mechanism>X-PLUS</mechanism><inline><sm xmlns='urn:xmpp:sm:3'/></inline>") + tail, nil, head + tail},
		{
			"prefixes from outside", "<stream:features xmlns:x='urn:x'>" + sasl2("<mechanism>PLAIN</mechanism><inline><x:y/><z xmlns='urn:z'/></inline><x:more/>") + tail, nil,
			head + sasl2("<mechanism>PLAIN</mechanism><inline><z xmlns='urn:z'/></inline>") + tail,
		},
		{
			"limits, of which the node's is the lower", head + sasl("PLAIN") + "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes> 10000 </max-bytes><idle-seconds>25</idle-seconds></limits>" + tail, nil,
			head + sasl("PLAIN") + "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits>" + tail,
		},
		{
			"limits, of which the front's is the lower", head + sasl("PLAIN") + "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>65536</max-bytes></limits>" + tail, nil,
			head + sasl("PLAIN") + "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>16384</max-bytes></limits>" + tail,
		},
		{
			"limits that say nothing", head + sasl("PLAIN") + "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>-1</max-bytes></limits>" + tail, nil,
			head + sasl("PLAIN") + "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>16384</max-bytes></limits>" + tail,
		},
		{"too long", head + sasl("PLAIN") + "<a xmlns='" + strings.Repeat("x", 20<<10) + "'/>" + tail, nil, head + tail},
	} {
		if got := proxy.OfferOf([]byte(tt.node), tt.wanted...); got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

// FuzzOffer: whatever a node offers, a client gets one well-formed element.
func FuzzOffer(f *testing.F) {
	f.Add([]byte("<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>&lt;</mechanism></mechanisms><sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'/><settle xmlns='urn:imlb:front:0'/></stream:features>"))
	f.Add([]byte("<features><authentication xmlns='urn:xmpp:sasl:2'><mechanism>PLAIN</mechanism><inline><x/><fast xmlns='urn:xmpp:fast:0'><mechanism>HT-A-NONE</mechanism></fast></inline></authentication></features>"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		scan := xmpp.NewScanner(xmpp.Limits{})
		if _, _, err := scan.Next([]byte(nodeHeader)); err != nil {
			t.Fatal(err)
		}
		tok, _, err := scan.Next(raw)
		if err != nil || tok.Kind != xmpp.KindElement {
			return
		}
		offer := []byte(proxy.OfferOf(tok.Raw))
		if len(offer) == 0 {
			return
		}
		scan.Reset()
		if _, _, err := scan.Next([]byte(nodeHeader)); err != nil {
			t.Fatal(err)
		}
		if tok, rest, err := scan.Next(offer); err != nil || tok.Kind != xmpp.KindElement || len(rest) > 0 {
			t.Fatalf("%s became %s: %v", raw, offer, err)
		}
	})
}

// The first clients make the front ask one node, once for all of them, and later ones
// are offered the same at once. A login shows what has changed.
func TestFirstClientsAsk(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFresh(t, pick, nil)
	var clients []*peer
	for range 3 {
		clients = append(clients, f.asks(fresh))
	}
	n.asked(fresh, nodeOffer)
	want := strings.Replace(of(fresh, frontHeader)+nodeOffer, "<settle xmlns='urn:imlb:front:0'/>", "", 1)
	for _, client := range clients {
		client.expect(want)
	}
	later := f.asks(fresh)
	later.expect(want)

	later.send(plain("alice", "secret"))
	leg := n.accept()
	if h := leg.open(); !strings.Contains(h, " from='alice@fresh.example'") {
		t.Errorf("the front asked again, with %s", h)
	}
	leg.send(of(fresh, nodeHeader) + plainOffer)
	leg.letsIn(later, plain("alice", "secret"))
	changed := f.asks(fresh)
	changed.expect(of(fresh, frontHeader) + plainOffer)

	for _, client := range append(clients, changed) {
		leave(f, client)
	}
	f.leaves(later, leg)
	if pick.live != 0 {
		t.Errorf("%d choices were not released", pick.live)
	}
	if want := []string{"one: connected", "one: connected"}; !reflect.DeepEqual(pick.outcomes, want) {
		t.Errorf("reported %v, want %v", pick.outcomes, want)
	}
}

// Who is refused by a node does not spoil it for others that wait for the answer.
func TestRefusedAsker(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFresh(t, pick, func(o *proxy.Options) {
		o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialAttempts: 1}}
	})
	clients := []*peer{f.asks(fresh), f.asks(fresh)}
	refused := n.accept()
	refused.open()
	refused.send(of(fresh, nodeHeader) + streamError("policy-violation") + streamEnd)
	n.asked(fresh, plainOffer)
	answers := make(map[string]int)
	for _, client := range clients {
		client.open()
		e := client.element()
		answers[e]++
		client.close()
	}
	if answers[plainOffer] != 1 || answers[streamError("internal-server-error")] != 1 {
		t.Errorf("the clients got %v", answers)
	}
	f.record()
	f.record()
}

// A client of a pool without nodes is told so.
func TestNobodyToAsk(t *testing.T) {
	t.Parallel()
	dead, pick := onlyNode(t)
	for reason, tt := range map[string]struct {
		pick      proxy.Picker
		condition string
	}{
		"no-node":     {&picker{}, "resource-constraint"},
		"dial-failed": {pick, "internal-server-error"},
	} {
		f := startFresh(t, tt.pick, nil)
		dead.ln.Close() // not before the fronts have their ports
		client := f.asks(fresh)
		client.expect(of(fresh, frontHeader) + streamError(tt.condition) + streamEnd)
		client.close()
		f.ended(reason)
	}
}

// A node that is asked and says nothing is given up within the time to identify.
func TestSilentNode(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFresh(t, pick, func(o *proxy.Options) { o.Timeouts.Identify = 2 * time.Second }) // in which the node is asked
	client := f.asks(fresh)
	n.accept().open()
	client.expect(of(fresh, frontHeader) + streamError("connection-timeout") + streamEnd)
	client.close()
	f.ended("identify-timeout")
}

// Where all domains are served, only the nodes know which there are. That they do not
// know one is no failure of theirs.
func TestDomainOfNobody(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFresh(t, pick, func(o *proxy.Options) { o.Domains = nil })
	client := f.asks(fresh)
	leg := n.accept()
	leg.open()
	leg.send(nodeHeader + streamError("host-unknown") + streamEnd)
	client.expect(of(fresh, frontHeader) + streamError("host-unknown") + streamEnd)
	client.close()
	f.ended("host-unknown")
	if pick.live != 0 || len(pick.outcomes) != 0 {
		t.Errorf("%d choices were not released, and %v reported", pick.live, pick.outcomes)
	}
}

// What is known for long is offered, and asked for again meanwhile.
func TestFeaturesOfOld(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFresh(t, pick, nil)
	f.SetFeatureAge(0)
	client := f.asks("example.com")
	client.open()
	client.element() // before the node has said a word
	leg := n.accept()
	leg.open()
	f.SetFeatureAge(time.Hour)
	leg.send(nodeHeader + plainOffer)
	leg.expect(streamEnd)
	leg.close()
	later := f.asks("example.com")
	later.expect(frontHeader + plainOffer)
	leave(f, later)
	leave(f, client)
}

// What is kept is bounded, whoever asks.
func TestFeaturesAreBounded(t *testing.T) {
	t.Parallel()
	f := startFresh(t, &picker{}, func(o *proxy.Options) { o.Domains = nil })
	last := ""
	for i := range proxy.MaxKnownFeatures + 50 {
		last = fmt.Sprintf("d%d.example", i)
		if err := f.Learn("nodes", last, plainOffer); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.KnownFeatures(); got != proxy.MaxKnownFeatures {
		t.Errorf("%d are kept", got)
	}
	client := f.asks(last)
	client.expect(of(last, frontHeader) + plainOffer)
	leave(f, client)
}

// A password is not asked for where it could be read on its way. A trusted proxy may
// say that it cannot.
func TestNoPasswordInClear(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFresh(t, pick, func(o *proxy.Options) {
		for name, trusted := range map[string][]netip.Prefix{"ws": nil, "ws behind": {netip.MustParsePrefix("127.0.0.0/8")}} {
			o.Listeners = append(o.Listeners, proxy.Listener{
				Name: name, Protocol: proxy.WS, Address: "127.0.0.1:0", Pool: "nodes", TrustedProxies: trusted,
			})
		}
	})
	features := strings.Replace(nodeOffer, "<mechanism>", "<mechanism>OAUTHBEARER</mechanism><mechanism>", 1)

	client := f.dialPlainWS("ws", nil)
	client.send(wsOpen)
	n.asked("example.com", features)
	client.expect(wsHeader + wsElement(strings.Replace(frontOffer, "<mechanism>PLAIN</mechanism>", "", 1)))
	client.send(plain("alice", "secret"))
	client.expect(failure("invalid-mechanism"))
	client.close()
	f.record()

	ssl, err := tlvparse.PP2SSL{
		Client: tlvparse.PP2_BITFIELD_CLIENT_SSL,
		TLV:    []proxyproto.TLV{{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte("TLSv1.3")}},
	}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	client = f.dialPlainWS("ws behind", []proxyproto.TLV{ssl})
	client.send(wsOpen)
	client.expect(wsHeader + wsElement(strings.Replace(nodeOffer, "<settle xmlns='urn:imlb:front:0'/>", "", 1)))
	client.close()
	f.record()
}

// dialPlainWS returns a client on a WebSocket without TLS, maybe behind a proxy.
func (f *front) dialPlainWS(listener string, tlvs []proxyproto.TLV) *peer {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil || tlvs == nil {
			return conn, err
		}
		h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}, conn.RemoteAddr())
		if err := h.SetTLVs(tlvs); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		_, err = h.WriteTo(conn)
		return conn, err
	}}
	ws, resp, err := websocket.Dial(ctx, "ws://"+f.addr(listener)+"/xmpp-websocket", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{"xmpp"},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	f.t.Cleanup(func() { _ = ws.CloseNow() })
	return &peer{t: f.t, ws: ws}
}

// A node that has not said that it takes settles is not told any.
func TestNoSettleForStrangers(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	client := begin(f, plain("alice", "secret"))
	leg := n.accept()
	leg.open()
	leg.send(nodeHeader + plainOffer)
	leg.letsIn(client, plain("alice", "secret"))
	client.scan.Reset()
	leg.scan.Reset()
	client.send(streamOpen)
	leg.open()
	leg.send(nodeHeader + nodeBind + entry("7"))
	client.expect(nodeHeader + nodeBind + entry("7"))
	leg.reset()
	client.expect(streamError("system-shutdown") + streamEnd)
	client.send(streamEnd)
	client.eof()
	client.close()
	if r := f.ended("node-lost"); r["settled"] != "" {
		t.Errorf("logged %v", r)
	}
}
