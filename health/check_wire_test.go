package health_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"imlb/health"
)

// server accepts one connection and lets f serve it; it returns where.
func server(t *testing.T, f func(conn net.Conn)) health.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		f(conn)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return health.Endpoint{Name: "a", Addr: l.Addr().String()}
}

// says returns a server's part: to read up to a text, and to say another, in turn.
func says(lines ...string) func(net.Conn) {
	return func(conn net.Conn) {
		for i := 0; i+1 < len(lines); i += 2 {
			if !readUntil(conn, lines[i]) {
				return
			}
			io.WriteString(conn, lines[i+1])
		}
		io.Copy(io.Discard, conn)
	}
}

func readUntil(conn net.Conn, text string) bool {
	var heard []byte
	one := make([]byte, 1)
	for !strings.HasSuffix(string(heard), text) {
		if _, err := conn.Read(one); err != nil {
			return false
		}
		heard = append(heard, one[0])
	}
	return true
}

func probe(t *testing.T, c health.Check, e health.Endpoint) (*health.Answer, error) {
	t.Helper()
	return probeFor(t, patience, c, e)
}

// probeFor gives a check so much time.
func probeFor(t *testing.T, d time.Duration, c health.Check, e health.Endpoint) (*health.Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return c.Probe(ctx, e)
}

const streamOpen = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='1' from='example.com' version='1.0'>"

func TestXMPPCheck(t *testing.T) {
	mechanisms := "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256</mechanism><mechanism>PLAIN</mechanism></mechanisms>"
	for _, c := range []struct {
		name, answer string
		failure      string // part of the error
		mechanisms   []string
	}{
		{"features", streamOpen + "<stream:features>" + mechanisms + "</stream:features>", "", []string{"SCRAM-SHA-256", "PLAIN"}},
		{"no mechanisms", streamOpen + "<stream:features/>", "", []string{}},
		{"mechanisms of another namespace", streamOpen + "<stream:features><mechanisms xmlns='x'><mechanism>PLAIN</mechanism></mechanisms></stream:features>", "", []string{}},
		{"blanks between", " " + streamOpen[len("<?xml version='1.0'?>"):] + "\n\n<stream:features/>", "", []string{}},
		{"stream error", streamOpen + "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>", "stream error: host-unknown", nil},
		{"end of stream", streamOpen + "</stream:stream>", "read features", nil},
		{"a stanza", streamOpen + "<message/>", "<message/> instead", nil},
		{"not a stream", "<html><body/>", "begins with <html/>", nil},
		{"another protocol", "HTTP/1.1 400 Bad Request\r\n\r\n<>", "read stream", nil},
		{"silence", "", "timeout", nil},
		{"a flood", streamOpen + strings.Repeat(" ", 100<<10), "unexpected EOF", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := server(t, says("to='example.com'>", c.answer))
			within := patience
			if c.answer == "" {
				within = 200 * time.Millisecond
			}
			answer, err := probeFor(t, within, health.XMPPCheck{Domain: "example.com"}, e)
			wantError(t, err, c.failure)
			if err == nil && !reflect.DeepEqual(answer, &health.Answer{Sessions: -1, Ready: true, Mechanisms: c.mechanisms}) {
				t.Errorf("answer %+v", answer)
			}
		})
	}
}

func TestXMPPCheckEscapesItsDomain(t *testing.T) {
	e := server(t, says("to='a&#39;b'>", streamOpen+"<stream:features/>"))
	if _, err := probe(t, health.XMPPCheck{Domain: "a'b"}, e); err != nil {
		t.Error(err)
	}
}

// TestProxyHeader: nodes see a client that came in TLS.
func TestProxyHeader(t *testing.T) {
	seen := make(chan *proxyproto.Header, 1)
	e := server(t, func(conn net.Conn) {
		header, _ := proxyproto.Read(bufio.NewReader(conn))
		seen <- header
		io.WriteString(conn, streamOpen+"<stream:features/>")
		io.Copy(io.Discard, conn)
	})
	if _, err := probe(t, health.XMPPCheck{Domain: "example.com", Opening: health.Opening{Header: 2}}, e); err != nil {
		t.Fatal(err)
	}
	header := <-seen
	if header == nil || header.Command.IsLocal() || header.Version != 2 {
		t.Fatalf("header: %+v", header)
	}
	tlvs, err := header.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	if ssl, ok := tlvparse.FindSSL(tlvs); !ok || !ssl.ClientSSL() {
		t.Errorf("TLVs: %+v", tlvs)
	}
}

// TestProxyHeaderOfVersion1: nodes that know no other get that.
func TestProxyHeaderOfVersion1(t *testing.T) {
	addr, received := listen(t)
	e := health.Endpoint{Addr: addr}
	if _, err := probe(t, health.ScriptCheck{Opening: health.Opening{Header: 1}, Steps: []health.Step{{Send: "bye"}}}, e); err != nil {
		t.Fatal(err)
	}
	if got := <-received; !regexp.MustCompile(`^PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ \d+\r\nbye$`).MatchString(got) {
		t.Errorf("got %q", got)
	}
}

// TestChecksInTLS: nodes that are spoken to in TLS are asked in it, after the header.
func TestChecksInTLS(t *testing.T) {
	s, roots := certified(t)
	for _, c := range []struct {
		check  func(health.Opening) health.Check
		server func(net.Conn)
	}{
		{func(o health.Opening) health.Check { return health.XMPPCheck{Domain: "a", Opening: o} }, says("to='a'>", streamOpen+"<stream:features/>")},
		{func(o health.Opening) health.Check { return health.MQTTCheck{Accepted: true, Opening: o} }, says("imlb-check", "\x20\x02\x00\x00")},
		{func(o health.Opening) health.Check {
			return health.ScriptCheck{Opening: o, Steps: []health.Step{{Send: "PING\n", Expect: "PONG"}}}
		}, says("PING\n", "PONG")},
	} {
		e := server(t, func(conn net.Conn) {
			if readUntil(conn, "\r\n") { // the header
				conn = tls.Server(conn, s.TLS)
			}
			c.server(conn)
		})
		check := c.check(health.Opening{Header: 1, TLS: &tls.Config{RootCAs: roots}})
		if _, err := probe(t, check, e); err != nil {
			t.Errorf("%T: %v", check, err)
		}
	}
}

func TestMQTTCheck(t *testing.T) {
	const connect = "imlb-check"
	for _, c := range []struct {
		name, answer  string
		any, accepted string // parts of the errors
	}{
		{"accepted", "\x20\x02\x00\x00", "", ""},
		{"accepted, with a session", "\x20\x02\x01\x00", "", ""},
		{"refused", "\x20\x02\x00\x05", "", "not authorized"},
		{"unavailable", "\x20\x02\x00\x03", "server unavailable", "server unavailable"},
		{"unknown code", "\x20\x02\x00\x09", "", "code 9"},
		{"another packet", "\x30\x02\x00\x00", "something else", "something else"},
		{"cut off", "\x20\x02", "read CONNACK", "read CONNACK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for accepted, want := range map[bool]string{false: c.any, true: c.accepted} {
				e := server(t, func(conn net.Conn) {
					if readUntil(conn, connect) {
						io.WriteString(conn, c.answer)
					}
				})
				_, err := probe(t, health.MQTTCheck{Accepted: accepted}, e)
				wantError(t, err, want)
			}
		})
	}
}

func TestScriptCheck(t *testing.T) {
	for _, c := range []struct {
		name    string
		server  func(net.Conn)
		steps   []health.Step
		failure string
	}{
		{
			"greeting and answer",
			func(conn net.Conn) {
				io.WriteString(conn, "* OK ready\r\n")
				says("a NOOP\r\n", "a OK done\r\n")(conn)
			},
			[]health.Step{{Expect: "* OK"}, {Send: "a NOOP\r\n", Pattern: regexp.MustCompile(`(?m)^a OK .*$`)}},
			"",
		},
		{
			"all at once",
			func(conn net.Conn) { io.WriteString(conn, "one two three") },
			[]health.Step{{Expect: "one"}, {Expect: "two"}, {Pattern: regexp.MustCompile("th.ee")}},
			"",
		},
		{
			"what was expected before is not expected again",
			func(conn net.Conn) { io.WriteString(conn, "one") },
			[]health.Step{{Expect: "one"}, {Expect: "one"}},
			"step 2",
		},
		{
			"only sends",
			func(conn net.Conn) { readUntil(conn, "bye") },
			[]health.Step{{Send: "bye"}},
			"",
		},
		{
			"something else comes",
			func(conn net.Conn) { io.WriteString(conn, "-ERR no") },
			[]health.Step{{Expect: "+OK"}},
			`step 1: expected "+OK", got "-ERR no": EOF`,
		},
		{
			"nothing comes in time",
			says("never", ""),
			[]health.Step{{Pattern: regexp.MustCompile("x+"), Timeout: 20 * time.Millisecond}},
			"expected /x+/",
		},
		{
			"too much comes",
			func(conn net.Conn) { io.WriteString(conn, strings.Repeat("no ", 40<<10)) },
			[]health.Step{{Expect: "yes"}},
			"does not come",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := probe(t, health.ScriptCheck{Steps: c.steps}, server(t, c.server))
			wantError(t, err, c.failure)
		})
	}
}

// certified returns a server that speaks TLS, and the pool that verifies it.
func certified(t *testing.T) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"ready":true}`)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, roots
}

func TestTLSChecks(t *testing.T) {
	s, roots := certified(t)
	addr := s.Listener.Addr().String()
	e := health.Endpoint{Name: "a", Addr: addr, Admin: addr}
	for _, c := range []struct {
		name    string
		config  *tls.Config
		failure string
	}{
		{"verified", &tls.Config{RootCAs: roots}, ""},
		{"verified by name", &tls.Config{RootCAs: roots, ServerName: "example.com"}, ""},
		{"another name", &tls.Config{RootCAs: roots, ServerName: "example.org"}, "example.org"},
		{"not known", &tls.Config{}, "certificate"},
		{"not verified", &tls.Config{InsecureSkipVerify: true}, ""},
	} {
		for _, check := range []health.Check{
			health.TLSCheck{Config: c.config},
			health.HTTPCheck{Path: "/", TLS: c.config},
			health.AgentCheck{Path: "/", TLS: c.config},
		} {
			_, err := probe(t, check, e)
			if wantError(t, err, c.failure); t.Failed() {
				t.Fatalf("%T, %s", check, c.name)
			}
		}
	}
	_, err := probeFor(t, time.Second, health.TLSCheck{}, server(t, says("never", "")))
	wantError(t, err, "TLS handshake")
}

// fixed is a check with one result.
type fixed struct {
	answer *health.Answer
	err    error
}

func (f fixed) Probe(context.Context, health.Endpoint) (*health.Answer, error) {
	return f.answer, f.err
}

func TestAllChecks(t *testing.T) {
	agent := fixed{answer: &health.Answer{Node: "a", Sessions: 7, Ready: true, Weight: 2}}
	xmpp := fixed{answer: &health.Answer{Sessions: -1, Ready: true, Mechanisms: []string{"PLAIN"}}}
	leaving := fixed{answer: &health.Answer{Sessions: -1, Draining: true}}
	together := &health.Answer{Node: "a", Sessions: 7, Ready: true, Weight: 2, Mechanisms: []string{"PLAIN"}}
	for _, c := range []struct {
		name    string
		all     health.All
		answer  *health.Answer
		failure string
	}{
		{"none", nil, nil, ""},
		{"no answers", health.All{fixed{}, fixed{}}, nil, ""},
		{"answers together", health.All{fixed{}, agent, xmpp}, together, ""},
		{"in another order", health.All{xmpp, fixed{}, agent}, together, ""},
		{"one says that it drains", health.All{agent, leaving}, &health.Answer{Node: "a", Sessions: 7, Draining: true, Weight: 2}, ""},
		{"one fails", health.All{agent, fixed{err: errors.New("refused")}}, agent.answer, "refused"},
		{"two fail", health.All{fixed{err: errors.New("refused")}, fixed{}, fixed{err: errors.New("503")}}, nil, "refused; 503"},
	} {
		answer, err := c.all.Probe(t.Context(), health.Endpoint{})
		wantError(t, err, c.failure)
		if !reflect.DeepEqual(answer, c.answer) {
			t.Errorf("%s: %+v", c.name, answer)
		}
	}
}
