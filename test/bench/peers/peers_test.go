//go:build linux

package peers_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imlb/test/bench/peers"
	"imlb/test/bench/proc"
)

// The plain Go proxy is started as this very program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(play(os.Args[1:]))
	}
	// Under the race detector a process otherwise waits for a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

func play(args []string) (status int) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if len(args) < 3 || args[0] != "copy" || peers.Copy(ctx, os.Stdout, args[1], args[2], args[3:]...) != nil {
		return 1
	}
	return 0
}

// installed are the proxies that this machine has, but for our own.
func installed(t *testing.T) []peers.Peer {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	all := []peers.Peer{peers.Copying(self)}
	haproxies, err := peers.HAProxies(t.Context(), "haproxy", "")
	if err != nil && !errors.Is(err, peers.ErrMissing) {
		t.Fatal(err)
	}
	nginxes, err := peers.Nginxes(t.Context())
	if err != nil && !errors.Is(err, peers.ErrMissing) {
		t.Fatal(err)
	}
	return append(append(all, haproxies...), nginxes...)
}

// echoServer sends back what comes, and the end after it; to who asks for a WebSocket it
// says yes first.
func echoServer(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				if start, _ := in.Peek(4); string(start) == "GET " {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					_, _ = io.WriteString(conn, wsAnswer)
				}
				_, _ = io.Copy(conn, in)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// Every proxy carries bytes and the end of a direction, tells its processes, and is
// gone when it was stopped.
func TestPeers(t *testing.T) {
	t.Parallel()
	backend := echoServer(t)
	certs, err := peers.MakeCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range installed(t) {
		for _, protocol := range p.Protocols {
			if protocol == peers.XMPPS {
				continue // to these it is TLS
			}
			t.Run(p.Name+" "+string(protocol), func(t *testing.T) {
				t.Parallel()
				task := peers.Task{Protocol: protocol, Backend: backend, Sessions: 100, Certs: certs, Dir: t.TempDir()}
				r, err := p.Start(t.Context(), task)
				if err != nil {
					t.Fatal(err)
				}
				echoes(t, protocol, certs, r.Addr)
				for _, pid := range r.PIDs {
					if _, err := proc.CPU([]int{pid}); err != nil {
						t.Error(err)
					}
				}
				if err := r.Stop(); err != nil {
					t.Error(err)
				}
				for _, pid := range r.PIDs {
					if !gone(t, pid) {
						t.Errorf("process %d is still there", pid)
					}
				}
			})
		}
	}
}

// gone waits for a process's end: what was not our child is somebody else's to wait for.
func gone(t *testing.T, pid int) bool {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-ticker.C {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(state), ") Z ") {
			return true
		}
	}
	return false
}

func echoes(t *testing.T, protocol peers.Protocol, certs peers.Certs, addr netip.AddrPort) {
	t.Helper()
	conn, err := net.Dial("tcp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	type halfCloser interface {
		io.ReadWriter
		CloseWrite() error
	}
	var client halfCloser = conn.(*net.TCPConn)
	if protocol == peers.TLS {
		client = tls.Client(conn, &tls.Config{ServerName: "localhost", RootCAs: roots(t, certs)})
	}
	if protocol == peers.WS {
		opensWebSocket(t, client)
	}
	if _, err := io.WriteString(client, "there and back"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("there and back"))
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "there and back" {
		t.Fatalf("%q, %v", got, err)
	}
	if protocol == peers.WS {
		return // which has no half-close
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(client); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// The opening handshake of RFC 6455 §1.3.
const (
	wsRequest = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	wsAnswer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

// opensWebSocket does the opening handshake. Those who carry what follows do not look at it.
func opensWebSocket(t *testing.T, client io.ReadWriter) {
	t.Helper()
	if _, err := io.WriteString(client, wsRequest); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(answer.Status)
	}
}

func roots(t *testing.T, certs peers.Certs) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(certs.Cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("no certificate")
	}
	return pool
}

func TestMissing(t *testing.T) {
	t.Parallel()
	if _, err := peers.HAProxies(t.Context(), "/nowhere/haproxy", ""); !errors.Is(err, peers.ErrMissing) {
		t.Errorf("%v", err)
	}
	if _, err := peers.HAProxies(t.Context(), "", "-new"); !errors.Is(err, peers.ErrMissing) {
		t.Errorf("%v", err)
	}
}

// A program that ends before it serves says why.
func TestStartFails(t *testing.T) {
	t.Parallel()
	p := peers.IMLB("/bin/cat")[0] // which knows no flag --listen
	_, err := p.Start(t.Context(), peers.Task{Protocol: peers.TCP, Backend: netip.MustParseAddrPort("127.0.0.1:1")})
	if err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("%v", err)
	}
}

func TestProcess(t *testing.T) {
	t.Parallel()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	t.Run("stubborn, with a child", func(t *testing.T) {
		t.Parallel()
		p, err := peers.Launch(t.Context(), "stubborn", nil, nil, sh, "-c", "trap '' TERM; sleep 300 & while :; do sleep 1; done")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if !gone(t, p.PID()) {
			t.Error("it is still there")
		}
	})
	t.Run("ended", func(t *testing.T) {
		t.Parallel()
		p, err := peers.Launch(t.Context(), "short", nil, nil, sh, "-c", "echo sorry >&2; exit 3")
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "sorry") || !strings.Contains(err.Error(), "status 3") {
			t.Errorf("%v", err)
		}
	})
}

func TestTakes(t *testing.T) {
	t.Parallel()
	p := peers.Peer{Protocols: []peers.Protocol{peers.TCP}, Only: []string{"paced"}}
	if !p.Takes("paced", peers.TCP) || p.Takes("paced", peers.TLS) || p.Takes("connect", peers.TCP) {
		t.Error("not by workload and protocol")
	}
	if all := (peers.Peer{Protocols: []peers.Protocol{peers.TLS}}); !all.Takes("anything", peers.TLS) {
		t.Error("without a list not all")
	}
	if n := (peers.Peer{Descriptors: 6}).MostSessions(); n != 3200 {
		t.Errorf("%d sessions of 6 descriptors", n)
	}
}
