package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"imlb/proxy"
	"imlb/proxy/limit"
)

const (
	nsBOSH    = "xmlns='http://jabber.org/protocol/httpbind'"
	boshEmpty = "<body " + nsBOSH + "/>"
	boshEnd   = "<body " + nsBOSH + " type='terminate'/>"
)

// startBOSH starts a front whose wss listener has BOSH.
func startBOSH(t testing.TB, pick proxy.Picker, bosh proxy.BOSH, change func(*proxy.Options)) *front {
	t.Helper()
	return startFront(t, pick, func(o *proxy.Options) {
		for i := range o.Listeners {
			if o.Listeners[i].Protocol == proxy.WSS {
				o.Listeners[i].BOSH = &bosh
			}
		}
		if change != nil {
			change(o)
		}
	})
}

// binder is a client of BOSH.
type binder struct {
	t      testing.TB
	url    string
	client *http.Client
	sid    string
	rid    int
}

func (f *front) binder() *binder {
	f.t.Helper()
	transport := &http.Transport{TLSClientConfig: f.clientTLS()}
	f.t.Cleanup(transport.CloseIdleConnections)
	return &binder{t: f.t, url: "https://" + f.addr("wss") + "/http-bind", client: &http.Client{Transport: transport}, rid: 1000}
}

// held is a request whose answer has not come.
type held struct {
	b      *binder
	answer chan string
	cancel context.CancelFunc
}

// post makes a request.
func (b *binder) post(body string) *held {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	h := &held{b: b, answer: make(chan string, 1), cancel: cancel}
	go func() { h.answer <- b.do(r) }()
	return h
}

func (b *binder) do(r *http.Request) string {
	resp, err := b.client.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Access-Control-Allow-Origin") != "*" ||
		!strings.HasPrefix(resp.Header.Get("Content-Type"), "text/xml") {
		return fmt.Sprint(resp.Status, resp.Header, err)
	}
	return string(text)
}

// asks makes the next request of the session.
func (b *binder) asks(attrs, payload string) *held {
	b.t.Helper()
	b.rid++
	return b.post(fmt.Sprintf("<body %s xmlns:xmpp='urn:xmpp:xbosh' sid='%s' rid='%d' %s>%s</body>", nsBOSH, b.sid, b.rid, attrs, payload))
}

// says returns what a request is answered with.
func (h *held) says() string {
	h.b.t.Helper()
	select {
	case text := <-h.answer:
		return text
	case <-time.After(patience):
		h.b.t.Fatal("a request is not answered")
		return ""
	}
}

func (h *held) expect(want string) {
	h.b.t.Helper()
	if got := h.says(); got != want {
		h.b.t.Errorf("answered\n%s\nwant\n%s", got, want)
	}
}

func boshBody(payload string) string { return "<body " + nsBOSH + ">" + payload + "</body>" }

// boshFeatures is an answer with features.
func boshFeatures(raw string) string {
	return "<body " + nsBOSH + " xmlns:stream='http://etherx.jabber.org/streams'>" + wsElement(raw) + "</body>"
}

var (
	sids    = regexp.MustCompile(` sid='([^']+)'`)
	authids = regexp.MustCompile(` authid='[^']+'`)
)

// begin begins a session, and returns what that is answered with.
func (b *binder) begin(attrs string) string {
	b.t.Helper()
	answer := b.post(fmt.Sprintf("<body %s xmlns:xmpp='urn:xmpp:xbosh' rid='%d' to='example.com' xmpp:version='1.0' ver='1.11' %s/>", nsBOSH, b.rid, attrs)).says()
	if m := sids.FindStringSubmatch(answer); m != nil {
		b.sid = m[1]
	}
	return authids.ReplaceAllString(sids.ReplaceAllString(answer, " sid='SID'"), " authid='ID'")
}

// loginBOSH brings a client, and the node, to the relay.
func loginBOSH(b *binder, n *node, attrs string) *peer {
	b.t.Helper()
	if got := b.begin(attrs); !strings.Contains(got, wsElement(frontOffer)) {
		b.t.Fatalf("a session begins with %s", got)
	}
	auth := plain("alice", "secret")
	in := b.asks("", auth)
	leg := n.accept().offer()
	leg.expect(auth)
	leg.send(saslSuccess)
	in.expect(boshBody(saslSuccess))
	leg.scan.Reset()
	again := b.asks("to='example.com' xmpp:restart='true'", "")
	leg.open()
	leg.send(nodeHeader + nodeBind)
	again.expect(boshFeatures(nodeBind))
	return leg
}

// boshSession is a front with a client that has logged in, and its leg.
func boshSession(t *testing.T) (f *front, b *binder, l *peer) {
	t.Helper()
	n, pick := onlyNode(t)
	f = startBOSH(t, pick, proxy.BOSH{}, nil)
	b = f.binder()
	return f, b, loginBOSH(b, n, "")
}

// endedBOSH waits for the next session to end that is not a connection of HTTP.
func (f *front) endedBOSH(reason string) map[string]string {
	f.t.Helper()
	for {
		r := f.record()
		if r["transport"] == "https" {
			continue
		}
		if r["reason"] != reason {
			f.t.Errorf("the session ended with %q (%s), want %q", r["reason"], r["cause"], reason)
		}
		return r
	}
}

// A session goes over requests: login, stanzas both ways, and an end that goes through both
// legs. Its connections are others.
func TestBOSH(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startBOSH(t, pick, proxy.BOSH{}, nil)
	b := f.binder()
	want := "<body " + nsBOSH + " sid='SID' wait='30' hold='1' requests='2' inactivity='60' maxpause='120' ver='1.11'" +
		" xmlns:stream='http://etherx.jabber.org/streams' xmlns:xmpp='urn:xmpp:xbosh' xmpp:version='1.0' xmpp:restartlogic='true'" +
		" from='example.com' authid='ID'>" + wsElement(frontOffer) + "</body>"
	if got := b.begin("wait='30' hold='1'"); got != want {
		t.Fatalf("a session begins with\n%s\nwant\n%s", got, want)
	}
	b = f.binder()
	leg := loginBOSH(b, n, "wait='30' hold='1'")

	down := b.asks("", "")
	leg.send("<message><body>hi</body></message> ")
	down.expect(boshBody("<message xmlns='jabber:client'><body>hi</body></message>"))
	down = b.asks("", "")
	up := b.asks("", "<message xmlns='jabber:client'><body>there</body></message><presence/>")
	leg.expect("<message xmlns='jabber:client'><body>there</body></message><presence/>")
	down.expect(boshEmpty)
	leg.send("<iq/>")
	up.expect(boshBody("<iq xmlns='jabber:client'/>"))

	end := b.asks("type='terminate'", "<presence type='unavailable'/>")
	leg.expect("<presence type='unavailable'/>" + streamEnd)
	leg.send("<iq/>" + streamEnd)
	leg.close()
	end.expect("<body " + nsBOSH + " type='terminate'><iq xmlns='jabber:client'/></body>")
	r := f.endedBOSH("client-closed")
	for key, want := range map[string]string{
		"user": "alice@example.com", "node": "one", "mechanism": "PLAIN", "transport": "bosh", "logged_in": "true", "tls": "TLS 1.3",
		"in.messages": "1", "in.presences": "2", "out.iqs": "2", "out.messages": "1",
	} {
		if r[key] != want {
			t.Errorf("%s=%q in the log, want %q", key, r[key], want)
		}
	}
	checkTLVs(t, leg.proxy, r["id"], "bosh", "")
	b.asks("", "").expect("<body " + nsBOSH + " type='terminate' condition='item-not-found'/>")
}

// What ends a session is told to the client in the words of BOSH.
func TestBOSHEnds(t *testing.T) {
	t.Parallel()
	terminal := func(condition string) string {
		return "<body " + nsBOSH + " type='terminate' condition='" + condition + "'/>"
	}
	t.Run("the node is lost", func(t *testing.T) {
		t.Parallel()
		f, b, leg := boshSession(t)
		down := b.asks("", "")
		leg.send("<presence/><message>")
		down.expect(boshBody("<presence xmlns='jabber:client'/>"))
		leg.reset()
		b.asks("", "").expect(terminal("system-shutdown"))
		f.endedBOSH("node-lost")
	})
	t.Run("the node ends the stream", func(t *testing.T) {
		t.Parallel()
		f, b, leg := boshSession(t)
		down := b.asks("", "")
		leg.send(streamError("conflict") + streamEnd)
		down.expect("<body " + nsBOSH + " type='terminate' condition='remote-stream-error'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></body>")
		leg.close()
		f.endedBOSH("node-closed")
	})
	t.Run("the front stops", func(t *testing.T) {
		t.Parallel()
		f, b, leg := boshSession(t)
		down := b.asks("", "<iq/>")
		leg.expect("<iq/>")
		stopped := make(chan error, 1)
		go func() { stopped <- f.Shutdown(context.Background()) }()
		leg.eof()
		leg.send("<presence/>")
		leg.close()
		down.expect(boshBody("<presence xmlns='jabber:client'/>"))
		f.endedBOSH("shutdown")
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Run("the front stops while nothing comes", func(t *testing.T) {
		t.Parallel()
		f, b, leg := boshSession(t)
		down := b.asks("", "<iq/>")
		leg.expect("<iq/>")
		go func() { _ = f.Shutdown(context.Background()) }()
		leg.eof()
		leg.close()
		down.expect(terminal("system-shutdown"))
		f.endedBOSH("shutdown")
	})
	t.Run("unknown host", func(t *testing.T) {
		t.Parallel()
		f := startBOSH(t, &picker{}, proxy.BOSH{}, nil)
		b := f.binder()
		b.post("<body " + nsBOSH + " rid='1' to='example.org'/>").expect(terminal("host-unknown"))
		f.endedBOSH("host-unknown")
		b.post("<body " + nsBOSH + " rid='1' type='terminate'/>").expect(terminal("item-not-found"))
		b.post("<body " + nsBOSH + " rid='1'/>").expect(terminal("improper-addressing"))
		f.endedBOSH("protocol-error")
	})
	for name, c := range map[string]struct{ attrs, payload, condition string }{
		"not XML":     {"", "<a>", "bad-request"},
		"text":        {"", "text", "bad-request"},
		"a number":    {"ack='x'", "", "bad-request"},
		"too long":    {"", "<a>" + strings.Repeat("x", 300<<10) + "</a>", "policy-violation"},
		"out of turn": {"", "", "item-not-found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, b, leg := boshSession(t)
			if name == "out of turn" {
				b.rid += 10
			}
			b.asks(c.attrs, c.payload).expect(terminal(c.condition))
			leg.expect(streamEnd)
			leg.close()
			f.endedBOSH("protocol-error")
		})
	}
	t.Run("an element too long before the login", func(t *testing.T) {
		t.Parallel()
		f := startBOSH(t, &picker{}, proxy.BOSH{}, nil)
		b := f.binder()
		b.begin("")
		b.asks("", "<iq>"+strings.Repeat("x", 16<<10)+"</iq>").
			expect("<body " + nsBOSH + " type='terminate' condition='remote-stream-error'><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>" +
				"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>message too long</text></body>")
		f.endedBOSH("protocol-error")
	})
}

// A client that makes no request is gone. What it was not given it has not received, and
// neither what it may not have.
func TestBOSHInactive(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startBOSH(t, pick, proxy.BOSH{Inactivity: time.Second}, nil)
	b := f.binder()
	leg := loginBOSH(b, n, "ack='1'")
	message := func(entry int) string {
		return fmt.Sprintf("<message><stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='%d'/></message>", entry)
	}
	down := b.asks("", "")
	leg.send(message(1))
	if got := down.says(); !strings.Contains(got, "id='1'") {
		t.Errorf("got %s", got)
	}
	down = b.asks("", "") // so it has received that
	leg.send(message(2))
	if got := down.says(); !strings.Contains(got, "id='2'") {
		t.Errorf("got %s", got)
	}
	leg.send(message(3))
	leg.eof()
	leg.close()
	if r := f.endedBOSH("inactive"); r["last_entry"] != "1" {
		t.Errorf("entry %s counts as received, want 1", r["last_entry"])
	}
	b.asks("", "").expect("<body " + nsBOSH + " type='terminate' condition='item-not-found'/>")
}

// When a node is lost the next one is told what the client has shown to have received, to the
// last moment, and nothing else.
func TestBOSHNodeLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		payload string // of the request that comes when the node is lost
		last    string
	}{
		"shown":     {"", "8"},
		"not shown": {"<iq/>", "7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := startNode(t, "one"), startNode(t, "two")
			f := startBOSH(t, &picker{nodes: map[string][]proxy.Node{"": {one.at(), two.at()}}}, proxy.BOSH{}, nil)
			b := f.binder()
			leg := loginBOSH(b, one, "")
			for _, n := range []string{"7", "8"} {
				down := b.asks("", "")
				leg.send(entry(n))
				if got := down.says(); !strings.Contains(got, "id='"+n+"'") {
					t.Fatalf("got %s", got)
				}
			}
			leg.reset()
			one.ln.Close()
			if got := b.asks("", c.payload).says(); !strings.Contains(got, "condition='system-shutdown'") {
				t.Errorf("got %s", got)
			}
			settle := two.accept()
			if got := settleNote(t, settle.proxy); got != "alice@example.com\x00"+c.last {
				t.Errorf("settled %q, want entry %s of alice", got, c.last)
			}
			settle.eof()
			settle.close()
			if r := f.endedBOSH("node-lost"); r["settled"] != "done" || r["last_entry"] != c.last {
				t.Errorf("logged %v", r)
			}
		})
	}
}

// A request that is held outlasts what limits other connections of HTTP, and so does the
// connection; one that broke gets nothing.
func TestBOSHHeld(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startBOSH(t, pick, proxy.BOSH{Wait: 3 * time.Second}, func(o *proxy.Options) { o.Timeouts.Handshake = time.Second })
	b := f.binder()
	leg := loginBOSH(b, n, "")
	down := b.asks("", "")
	since := time.Now()
	down.expect(boshEmpty)
	if d := time.Since(since); d < 2*time.Second {
		t.Errorf("answered after %v", d)
	}
	down = b.asks("", "<iq/>")
	leg.expect("<iq/>")
	down.cancel()
	down.says()
	leg.send("<presence/>")
	b.rid--
	if got := b.asks("", "<iq/>").says(); got != boshBody("<presence xmlns='jabber:client'/>") {
		t.Errorf("answered %s", got)
	}
	end := b.asks("type='terminate'", "")
	leg.expect(streamEnd)
	leg.send(streamEnd)
	leg.close()
	end.expect(boshEnd)
	f.endedBOSH("client-closed")
}

// What a node sends to a client that asks for nothing is bounded.
func TestBOSHBackPressure(t *testing.T) {
	t.Parallel()
	_, b, leg := boshSession(t)
	stanza := "<message><body>" + strings.Repeat("x", 1000) + "</body></message>"
	sent := 0
	for {
		if err := leg.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		wrote, err := io.WriteString(leg.conn, stanza)
		if sent += wrote; err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("the front takes whatever comes")
		}
	}
	got := 0
	for got < sent/len(stanza) {
		answer := b.asks("", "").says()
		n := strings.Count(answer, "<message ")
		if n == 0 || len(answer) > 128<<10 {
			t.Fatalf("answered %d bytes: %.300s", len(answer), answer)
		}
		got += n
	}
	leg.close()
}

// Sessions are counted and bounded as on other transports, besides their connections.
func TestBOSHLimits(t *testing.T) {
	t.Parallel()
	f := startBOSH(t, &picker{}, proxy.BOSH{}, func(o *proxy.Options) {
		o.Rules.Source = limit.Scope{Concurrent: 3}
	})
	b := f.binder()
	b.begin("") // a connection and a session
	b.sid, b.rid = "", 1
	b.begin("")
	b.sid, b.rid = "", 1
	if got := b.begin(""); !strings.Contains(got, "condition='remote-stream-error'><resource-constraint ") {
		t.Errorf("one too many is answered %s", got)
	}
	f.endedBOSH("too-many")
}

// Sessions are offered nothing that binds to a channel: there are several.
func TestBOSHBindsToNoChannel(t *testing.T) {
	t.Parallel()
	const offer = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>SCRAM-SHA-1</mechanism></mechanisms><settle xmlns='urn:imlb:front:0'/></stream:features>"
	f := startBOSH(t, &picker{}, proxy.BOSH{}, func(o *proxy.Options) { o.Mechanisms = nil })
	if err := f.Learn("nodes", "example.com", offer); err != nil {
		t.Fatal(err)
	}
	if got := f.binder().begin(""); strings.Contains(got, "PLUS") || !strings.Contains(got, "SCRAM-SHA-1") {
		t.Errorf("offered %s", got)
	}
}

// XEP-0156: how a web client finds BOSH, and may use it.
func TestBOSHDiscovery(t *testing.T) {
	t.Parallel()
	f := startBOSH(t, &picker{}, proxy.BOSH{Path: "/bosh/"}, nil)
	b := f.binder()
	host := f.addr("wss")
	get := func(method, path string) (int, http.Header, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, resp.Header, string(text)
	}
	_, _, json := get(http.MethodGet, "/.well-known/host-meta.json")
	if want := `{"rel":"urn:xmpp:alt-connections:xbosh","href":"https://` + host + `/bosh/"}`; !strings.Contains(json, want) {
		t.Errorf("host-meta.json is %s, want %s in it", json, want)
	}
	_, _, xml := get(http.MethodGet, "/.well-known/host-meta")
	if want := `<Link rel="urn:xmpp:alt-connections:xbosh" href="https://` + host + `/bosh/"></Link>`; !strings.Contains(xml, want) {
		t.Errorf("host-meta is %s, want %s in it", xml, want)
	}
	code, h, _ := get(http.MethodOptions, "/bosh/")
	if code != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Access-Control-Allow-Headers") != "Content-Type" {
		t.Errorf("OPTIONS: %d %v", code, h)
	}
	if code, h, _ := get(http.MethodGet, "/bosh/"); code != http.StatusMethodNotAllowed || h.Get("Allow") != "POST, OPTIONS" {
		t.Errorf("GET: %d %v", code, h)
	}
	for _, bad := range []string{"", "hello", "<body/>", "<body " + nsBOSH + " sid='s'/>", "<body " + strings.Repeat(" ", 5000)} {
		b.url = "https://" + host + "/bosh/"
		b.post(bad).expect("<body " + nsBOSH + " type='terminate' condition='bad-request'/>")
	}
}

// Where there is no BOSH it is not told of.
func TestNoBOSH(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, nil)
	b := f.binder()
	resp, err := b.client.Post(b.url, "text/xml", bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("answered %s", resp.Status)
	}
}

// Connections are no strangers when their client has logged in, and end as those of HTTP.
func TestBOSHConnections(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startBOSH(t, pick, proxy.BOSH{}, func(o *proxy.Options) { o.Rules.Source = limit.Scope{Unauthenticated: 2} })
	for range 3 { // each would leave at least one
		b := f.binder()
		leg := loginBOSH(b, n, "")
		b.asks("", "<iq/>")
		leg.expect("<iq/>")
		end := b.asks("type='terminate'", "")
		leg.expect(streamEnd)
		leg.send(streamEnd)
		leg.close()
		end.expect(boshEnd)
		f.endedBOSH("client-closed")
		b.client.CloseIdleConnections()
		if r := f.ended("http"); r["transport"] != "https" || r["user"] != "" {
			t.Errorf("logged %v", r)
		}
	}
}
