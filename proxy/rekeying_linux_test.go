package proxy_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"imlb/proxy"
)

// rekeying is a client of TLS 1.3 that asks the front for other keys all the time (RFC 8446 §4.6.3), and
// reads nothing of the answers. With crypto/tls that cannot be done.
type rekeying struct {
	t      testing.TB
	conn   *net.TCPConn
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// rekey makes one of a client that has not written anything since its handshake, and has
// written down its secrets.
func rekey(t testing.TB, conn *tls.Conn, secrets string) *rekeying {
	t.Helper()
	if suite := conn.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip(tls.CipherSuiteName(suite), "is not written here")
	}
	_, secret, ok := strings.Cut(secrets, "CLIENT_TRAFFIC_SECRET_0 ")
	fields := strings.Fields(secret)
	if !ok || len(fields) < 2 {
		t.Fatalf("no secret in %q", secrets)
	}
	raw, err := hex.DecodeString(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	r := &rekeying{t: t, conn: conn.NetConn().(*net.TCPConn)}
	r.use(raw)
	return r
}

// use goes over to the keys of a secret (RFC 8446 §7.3).
func (r *rekeying) use(secret []byte) {
	block, err := aes.NewCipher(r.expand(secret, "key", 16))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.aead, err = cipher.NewGCM(block); err != nil {
		r.t.Fatal(err)
	}
	r.secret, r.iv, r.seq = secret, r.expand(secret, "iv", r.aead.NonceSize()), 0
}

// expand is HKDF-Expand-Label (RFC 8446 §7.1).
func (r *rekeying) expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	out, err := hkdf.Expand(sha256.New, secret, "\x00"+string([]byte{byte(n), byte(len(label))})+label+"\x00", n)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// record appends a record.
func (r *rekeying) record(to []byte, kind byte, content string) []byte {
	head := []byte{23, 3, 3, 0, 0}
	plain := append([]byte(content), kind)
	binary.BigEndian.PutUint16(head[3:], uint16(len(plain)+r.aead.Overhead()))
	nonce := slices.Clone(r.iv)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(r.seq >> (8 * i))
	}
	r.seq++
	return r.aead.Seal(append(to, head...), nonce, plain, head)
}

// flood sends sets of sixteen requests for other keys, which crypto/tls takes, and what, until so much was
// sent, or the front takes no more for a time. It returns how much was sent.
func (r *rekeying) flood(what string, most int, within time.Duration) (sent int) {
	const request = "\x18\x00\x00\x01\x01"
	for sent < most {
		var set []byte
		for range 16 {
			set = r.record(set, 22, request)
			r.use(r.expand(r.secret, "traffic upd", sha256.Size))
		}
		set = r.record(set, 23, what)
		_ = r.conn.SetWriteDeadline(time.Now().Add(within))
		n, err := r.conn.Write(set)
		sent += n
		if err != nil {
			return sent
		}
	}
	return sent
}

// dialRekeying returns such a client after its handshake. Its segments are small, and so are the kernel's
// buffers for it at the front.
func (f *front) dialRekeying(listener string, alpn ...string) (*tls.Conn, *bytes.Buffer) {
	f.t.Helper()
	dialer := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536),
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10))
		}), err)
	}}
	tcp, err := dialer.Dial("tcp", f.addr(listener))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { tcp.Close() })
	config, secrets := f.clientTLS(alpn...), new(bytes.Buffer)
	config.KeyLogWriter = secrets
	conn := tls.Client(tcp, config)
	if err := conn.Handshake(); err != nil {
		f.t.Fatal(err)
	}
	return conn, secrets
}

// rekeyingMost is more than buffers of the kernel hold of requests and answers, both ways.
const rekeyingMost = 8 << 20

// rekeyingHeld is how long a client has to be held to be taken for one that is.
const rekeyingHeld = 2 * time.Second

// A client that asks for other keys and does not take the answers is read no more, whatever carries
// its session: the front keeps no more and more answers for it.
func TestRekeyingClientIsHeld(t *testing.T) {
	t.Parallel()
	t.Run("opaque", func(t *testing.T) {
		t.Parallel()
		n, pick := onlyNode(t)
		f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TLS}, func(o *proxy.Options) { o.Timeouts.Write = time.Hour })
		conn, secrets := f.dialRekeying("x")
		leg := n.leg()
		go func() { _, _ = io.Copy(io.Discard, leg) }()
		if sent := rekey(t, conn, secrets.String()).flood("x", rekeyingMost, rekeyingHeld); sent >= rekeyingMost {
			t.Errorf("the front has read %d bytes, and answered them all", sent)
		}
	})
	t.Run("framed", func(t *testing.T) {
		t.Parallel()
		n, pick := onlyNode(t)
		f := startFront(t, pick, func(o *proxy.Options) { o.Timeouts.Write = time.Hour })
		conn, secrets := f.dialRekeying("xmpps", "xmpp-client")
		leg := login(newPeer(t, conn), n, "alice")
		go func() { _, _ = io.Copy(io.Discard, leg.conn) }()
		r := rekey(t, conn, secrets.String())
		r.seq = 3 // the header, the login and the header after it
		if sent := r.flood(" ", rekeyingMost, rekeyingHeld); sent >= rekeyingMost {
			t.Errorf("the front has read %d bytes, and answered them all", sent)
		}
	})
}

// Before the login, or the WebSocket, such a client has the time of all others, although it is TLS that waits
// for it.
func TestRekeyingClientIsLate(t *testing.T) {
	t.Parallel()
	for listener, what := range map[string]string{"xmpps": " ", "wss": "x"} {
		t.Run(listener, func(t *testing.T) {
			t.Parallel()
			_, pick := onlyNode(t)
			f := startFront(t, pick, func(o *proxy.Options) {
				o.Timeouts.Handshake, o.Timeouts.Identify, o.Timeouts.Write = 2*rekeyingHeld, 2*rekeyingHeld, time.Second
			})
			conn, secrets := f.dialRekeying(listener)
			if sent := rekey(t, conn, secrets.String()).flood(what, rekeyingMost, rekeyingHeld); sent >= rekeyingMost {
				t.Fatalf("the front has taken %d bytes", sent)
			}
			if r := f.record(); r["reason"] == "shutdown" {
				t.Errorf("the session has ended with %v", r)
			}
		})
	}
}

// One that takes the answers is served like any other.
func TestRekeyingClientIsServed(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TLS}, nil)
	conn, secrets := f.dialRekeying("x")
	leg := n.leg()
	came := make(chan int64, 1)
	go func() {
		sum, _ := io.Copy(io.Discard, leg)
		came <- sum
	}()
	r := rekey(t, conn, secrets.String())
	go func() { _, _ = io.Copy(io.Discard, r.conn) }()
	const most = 256 << 10
	sent := r.flood("x", most, patience)
	if err := r.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	const set = 16*27 + 23
	if sum := <-came; sent < most || sum != int64(sent/set) {
		t.Errorf("%d bytes were sent, and %d of %d came out of them", sent, sum, sent/set)
	}
}
