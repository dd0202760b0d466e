package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/configs"
	"imlb/proxy/secrets"
	"imlb/test/consul"
)

// sharers writes the document of a front that ends TLS, with further keys.
func sharers(t *testing.T) func(more string) string {
	t.Helper()
	node, name := startEcho(t), filepath.Join(t.TempDir(), "chat")
	writePair(t, name, certificateFor(t, time.Now().Add(time.Hour), "chat.example"))
	return func(more string) string {
		return echoing("{protocol: tls, address: '127.0.0.1:0'}, {protocol: quic, address: '127.0.0.1:0', alpn: [echo], rate: {per_second: 0.01, burst: 1, max_wait: 1h}}", node.addr,
			fmt.Sprintf("tls: {certificates: [{cert_file: %s.crt, key_file: %[1]s.key}]}\n%s", name, more))
	}
}

// resumes tells whether a client with a session of one front, in cache, resumes it.
func resumes(t *testing.T, f *tested, cache tls.ClientSessionCache) bool {
	t.Helper()
	conn := tls.Client(dialTCP(t, f.addr("tls")), &tls.Config{
		InsecureSkipVerify: true, ServerName: "chat.example", ClientSessionCache: cache, MinVersion: tls.VersionTLS13, //nolint:gosec // it is self-signed
	})
	defer conn.Close()
	requireEcho(t, conn, "hello\n") // the ticket comes before
	return conn.ConnectionState().DidResume
}

// retries is a packet connection that notices Retry packets (RFC 9000 §17.2.5).
type retries struct {
	net.PacketConn
	seen atomic.Bool
}

// ReadFrom looks at what comes.
func (r *retries) ReadFrom(p []byte) (int, net.Addr, error) {
	n, addr, err := r.PacketConn.ReadFrom(p)
	if n > 4 && p[0]&0xf0 == 0xf0 && p[4] == 1 {
		r.seen.Store(true)
	}
	return n, addr, err
}

// dialQUIC connects, tells whether the client's address was validated by a Retry, and has a
// stream carried if that is wanted.
func dialQUIC(t *testing.T, f *tested, tokens quic.TokenStore, use bool) (retried bool) {
	t.Helper()
	socket, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	packets := &retries{PacketConn: socket}
	transport := &quic.Transport{Conn: packets}
	defer transport.Close()
	to, err := net.ResolveUDPAddr("udp", f.addr("quic"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := transport.Dial(ctx, to, &tls.Config{
		InsecureSkipVerify: true, ServerName: "chat.example", NextProtos: []string{"echo"}, MinVersion: tls.VersionTLS13, //nolint:gosec // it is self-signed
	}, &quic.Config{TokenStore: tokens, Versions: []quic.Version{quic.Version1}})
	if err != nil {
		t.Fatal(err)
	}
	if use {
		stream, err := conn.OpenStreamSync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		requireEcho(t, stream, "hello\n")
	}
	if err := conn.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
	return packets.seen.Load()
}

// Two fronts that share a file take each other's session tickets and QUIC tokens; those
// that share nothing do not, and a change of the document is enough to begin with it.
func TestFrontsShareAFile(t *testing.T) {
	t.Parallel()
	doc, file := sharers(t), filepath.Join(t.TempDir(), "secrets")
	share := doc("secrets: {file: " + file + "}")
	a, b := startTested(t, share), startTested(t, doc(""))
	cache := tls.NewLRUClientSessionCache(4)
	if resumes(t, a, cache) || !resumes(t, a, cache) {
		t.Error("a client resumes nothing, or not at the same front")
	}
	if resumes(t, b, cache) {
		t.Error("a client resumes at a front that shares nothing")
	}
	b.apply(share)
	until(t, "both share the file", func() bool {
		return a.sharing.keeper.Status().Shared && b.currentSharing().keeper.Status().Shared && a.sharing.keeper.Keys().Equal(b.currentSharing().keeper.Keys())
	})
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	cache = tls.NewLRUClientSessionCache(4)
	resumes(t, a, cache)
	if !resumes(t, b, cache) || !resumes(t, a, cache) {
		t.Error("a client does not resume at the other front")
	}
	tokens := quic.NewLRUTokenStore(4, 4)
	dialQUIC(t, a, tokens, true)
	dialQUIC(t, b, nil, true) // who uses up the rate
	if dialQUIC(t, b, tokens, false) || !dialQUIC(t, b, quic.NewLRUTokenStore(4, 4), false) {
		t.Error("a token of one front is no good at the other, or the other asks nobody for one")
	}
}

// A policy that changes makes no difference to who shares what.
func TestSecretsGoOnOverChanges(t *testing.T) {
	t.Parallel()
	doc, file := sharers(t), filepath.Join(t.TempDir(), "secrets")
	f := startTested(t, doc("secrets: {file: "+file+"}"))
	cache := tls.NewLRUClientSessionCache(4)
	resumes(t, f, cache)
	f.apply(doc("secrets: {file: " + file + ", period: 24h, kept: 5}"))
	if !resumes(t, f, cache) {
		t.Error("a change of the policy lost the keys")
	}
	f.apply(doc("secrets: {file: " + file + ", period: 24h, kept: 5}\nlimits: {login_attempts: 4}"))
	if !resumes(t, f, cache) {
		t.Error("a change of something else lost the keys")
	}
}

func TestWhatChangesSecrets(t *testing.T) {
	base := configs.Proxy{Cluster: "a", Secrets: configs.Secrets{Consul: true, Period: time.Hour}, Consul: &configs.Consul{Address: "h:1"}}
	for name, tt := range map[string]struct {
		change func(*configs.Proxy)
		want   bool
	}{
		"nothing":          {func(*configs.Proxy) {}, false},
		"the period":       {func(p *configs.Proxy) { p.Secrets.Period++ }, true},
		"the cluster":      {func(p *configs.Proxy) { p.Cluster = "b" }, true},
		"the agent":        {func(p *configs.Proxy) { p.Consul = &configs.Consul{Address: "h:2"} }, true},
		"the registration": {func(p *configs.Proxy) { p.Consul = &configs.Consul{Address: "h:1", Register: &configs.Registration{}} }, false},
	} {
		doc := base
		tt.change(&doc)
		if got := secretsChanged(base, doc); got != tt.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
	old, doc := configs.Proxy{Cluster: "a"}, configs.Proxy{Cluster: "b"}
	if secretsChanged(old, doc) {
		t.Error("the cluster of a front that shares nothing in Consul")
	}
}

// timesOf match the times of secrets in what lies in Consul.
var timesOf = regexp.MustCompile(`(?m)^\d{4}-\S+Z`)

// A front starts without its agent, on secrets of its own, and goes over to the shared
// ones when the agent comes. What one front makes anew reaches the other.
func TestFrontsShareInConsul(t *testing.T) {
	agent := consul.New(t)
	doc := sharers(t)("cluster: c\nsecrets: {consul: true}\nconsul: {address: '" + agent.Addr + "'}")
	began := time.Now()
	a := startTested(t, doc)
	if took := time.Since(began); took > loadTimeout+5*time.Second {
		t.Errorf("without the agent the start took %v", took)
	}
	if s := a.sharing.status(); s.Shared || s.Error == "" || s.Where != "consul imlb/c/secrets" {
		t.Errorf("without the agent the secrets are %+v", s)
	}
	own := a.sharing.keeper.Keys()
	cache := tls.NewLRUClientSessionCache(4)
	resumes(t, a, cache)

	agent.Start()
	until(t, "the front shares its secrets", func() bool { s := a.sharing.status(); return s.Shared && s.Error == "" })
	b := startTested(t, doc)
	if s := b.sharing.status(); !s.Shared || !b.sharing.keeper.Keys().Equal(own) {
		t.Errorf("the second front has %+v, and not the secrets of the first", s)
	}
	if !resumes(t, b, cache) {
		t.Error("a client of before does not resume at the second front")
	}

	// It is time for a new secret.
	client, err := document(t, doc).Consul.Client()
	if err != nil {
		t.Fatal(err)
	}
	store := secrets.NewConsul(client, "imlb/c/secrets", 0)
	entry, err := store.Get(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	old := timesOf.ReplaceAllString(string(entry.Data), time.Now().Add(-13*time.Hour).UTC().Format(time.RFC3339))
	if ok, err := store.CAS(t.Context(), []byte(old), entry.Version); !ok || err != nil || old == string(entry.Data) {
		t.Fatalf("could not make the secrets old: %t, %v", ok, err)
	}
	until(t, "both have the new secret", func() bool {
		one, two := a.sharing.keeper.Status(), b.sharing.keeper.Status()
		return one.Secrets == 2 && two.Secrets == 2 && one.Newest.Equal(two.Newest) && a.sharing.keeper.Keys().Equal(b.sharing.keeper.Keys())
	})
	if !resumes(t, b, cache) {
		t.Error("after the rotation a client of before does not resume")
	}
	for _, f := range []*tested{a, b} {
		for _, said := range []string{f.get("/status"), f.get("/metrics"), f.log.String()} {
			for line := range strings.Lines(old) {
				if words := strings.Fields(line); len(words) == 2 && len(words[1]) > 40 && strings.Contains(said, words[1]) {
					t.Fatal("a secret is told")
				}
			}
		}
	}
}

// A front that starts while the agent is away goes over to the secrets of its cluster when the
// agent comes back, and its QUIC connections go on.
func TestFrontLearnsTheSecretsOfItsCluster(t *testing.T) {
	t.Parallel()
	agent := consul.Start(t)
	doc := sharers(t)("cluster: c\nsecrets: {consul: true}\nconsul: {address: '" + agent.Addr + "'}")
	before := startTested(t, doc)
	until(t, "there are secrets", func() bool { return before.sharing.status().Shared })
	agent.Kill()
	f := startTested(t, doc)
	if s := f.sharing.status(); s.Shared || s.Error == "" || f.sharing.keeper.Keys().Equal(before.sharing.keeper.Keys()) {
		t.Errorf("without the agent the secrets are %+v", s)
	}
	to, err := net.ResolveUDPAddr("udp", f.addr("quic"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := quic.DialAddr(t.Context(), to.String(), &tls.Config{
		InsecureSkipVerify: true, ServerName: "chat.example", NextProtos: []string{"echo"}, MinVersion: tls.VersionTLS13, //nolint:gosec // it is self-signed
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	requireEcho(t, stream, "with keys of its own\n")
	agent.Start()
	until(t, "the front uses the secrets of its cluster", func() bool {
		return f.sharing.status().Shared && f.sharing.keeper.Keys().Equal(before.sharing.keeper.Keys())
	})
	requireEcho(t, stream, "with those of its cluster\n")
	if err := conn.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
}

// Secrets that the front cannot use are not told of as shared.
func TestSecretsThatAreNotUsed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secrets")
	ring, _ := secrets.Ring{}.Next(time.Now(), secrets.Policy{Period: time.Hour, Kept: 2})
	if err := os.WriteFile(file, ring.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	failing := errors.New("no")
	doc := configs.Proxy{Secrets: configs.Secrets{File: file, Period: time.Hour, Grace: time.Minute, Kept: 2}}
	s, err := newSharing(t.Context(), doc, func(context.Context, secrets.Keys) error { return failing }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	s.load(t.Context())
	if got := s.status(); got.Shared || got.Error != "shared secrets are not in full use: no" {
		t.Errorf("got %+v", got)
	}
	failing = nil
	s.load(t.Context())
	if got := s.status(); !got.Shared || got.Error != "" {
		t.Errorf("got %+v", got)
	}
}

// Where the document cannot be followed it is refused as a whole, and the secrets stay.
func TestSecretsOfARefusedDocument(t *testing.T) {
	t.Parallel()
	doc, file := sharers(t), filepath.Join(t.TempDir(), "secrets")
	f := startTested(t, doc(""))
	before := f.currentSharing()
	u := configs.Update{Proxy: document(t, doc("secrets: {file: "+file+"}"))}
	u.Proxy.TLS.Certificates[0].CertFile += ".none"
	f.source.updates <- u
	if err := <-f.source.applied; err == nil || f.currentSharing() != before {
		t.Errorf("the document gave %v", err)
	}
}
