package ws_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/nettest"

	"imlb/proxy/ws"
)

const patience = 30 * time.Second

// pair returns a client of another make, and our end of its WebSocket.
func pair(t *testing.T, deflate bool) (*websocket.Conn, *ws.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conns := make(chan *ws.Conn, 1)
	go func() {
		tcp, err := ln.Accept()
		if err != nil {
			close(conns)
			return
		}
		buf := bufio.NewReader(tcp)
		r, err := http.ReadRequest(buf)
		if err != nil {
			close(conns)
			return
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(tcp, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
			base64.StdEncoding.EncodeToString(sum[:]))
		if deflate {
			fmt.Fprint(tcp, "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n")
		}
		fmt.Fprint(tcp, "\r\n")
		early, _ := buf.Peek(buf.Buffered())
		conns <- ws.New(tcp.(*net.TCPConn), ws.Config{Early: early, Deflate: deflate, Backlog: impatient{tcp}})
	}()
	o := &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{}}}
	if deflate {
		o.CompressionMode, o.CompressionThreshold = websocket.CompressionNoContextTakeover, 100
	}
	client, resp, err := websocket.Dial(t.Context(), "ws://"+ln.Addr().String(), o)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	client.SetReadLimit(-1)
	conn := <-conns
	t.Cleanup(func() { client.CloseNow(); conn.Close() })
	return client, conn
}

// impatient is a Backlog that does not wait for long.
type impatient struct{ net.Conn }

func (c impatient) Pending() int { return 0 }
func (c impatient) Await()       { c.SetDeadline(time.Now().Add(answerTime)) }

// answerTime is how long a test's client has to answer a close frame.
const answerTime = 100 * time.Millisecond

// within returns a context that does not wait for ever.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// What a client of another make sends comes back as it was, in messages of all lengths, in
// one frame or several, compressed or not.
func TestEcho(t *testing.T) {
	t.Parallel()
	for _, deflate := range []bool{false, true} {
		t.Run(fmt.Sprint("deflate ", deflate), func(t *testing.T) {
			t.Parallel()
			client, conn := pair(t, deflate)
			echoed := make(chan error, 1)
			go func() {
				_, err := io.Copy(conn, conn)
				echoed <- err
			}()
			ctx, rng := within(t), rand.New(rand.NewPCG(1, 2))
			var want []byte
			sent := make(chan error, 1)
			var messages [][]byte
			for _, n := range []int{0, 1, 99, 100, 125, 126, 5000, 65535, 65536, 300000} {
				for _, c := range []byte{'a', 0} { // compressible, and not
					p := bytes.Repeat([]byte{c}, n)
					for i := range p {
						if c == 0 {
							p[i] = byte(rng.Uint32())
						}
					}
					messages, want = append(messages, p), append(want, p...)
				}
			}
			go func() {
				for i, p := range messages {
					w, err := client.Writer(ctx, websocket.MessageBinary)
					for ; err == nil && len(p) > 1 && i%2 == 1; p = p[len(p)/2:] {
						_, err = w.Write(p[:len(p)/2])
					}
					if err == nil {
						_, err = w.Write(p)
					}
					if err == nil {
						err = w.Close()
					}
					if err != nil {
						sent <- err
						return
					}
				}
				sent <- client.Ping(ctx)
			}()
			var got []byte
			for len(got) < len(want) {
				kind, p, err := client.Read(ctx)
				if err != nil || kind != websocket.MessageBinary {
					t.Fatalf("read %v, %v", kind, err)
				}
				got = append(got, p...)
			}
			if !bytes.Equal(got, want) {
				t.Error("what came back is something else")
			}
			client.CloseRead(ctx) // takes the pong
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if err := client.Close(websocket.StatusNormalClosure, "bye"); err != nil {
				t.Errorf("close: %v", err)
			}
			if err := <-echoed; err != nil {
				t.Errorf("the end in order was %v", err)
			}
		})
	}
}

// A client of another make understands the end.
func TestParted(t *testing.T) {
	t.Parallel()
	client, conn := pair(t, false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn.Part(ws.TryAgainLater, "no-node")
		conn.Close()
	}()
	_, _, err := client.Read(within(t))
	var e websocket.CloseError
	if !errors.As(err, &e) || e.Code != websocket.StatusTryAgainLater || e.Reason != "no-node" {
		t.Errorf("got %v", err)
	}
	<-done
}

// A client that does not answer the close frame is waited for as long as it was said.
func TestPartedFromSilence(t *testing.T) {
	t.Parallel()
	_, conn := pair(t, false)
	began := time.Now()
	conn.Part(ws.Normal, "")
	if d := time.Since(began); d < answerTime {
		t.Errorf("waited %v", d)
	}
}

// A WebSocket is a net.Conn like any other, compressed or not.
func TestIsConn(t *testing.T) {
	t.Parallel()
	for _, deflate := range []bool{false, true} {
		t.Run(fmt.Sprint("deflate ", deflate), func(t *testing.T) {
			t.Parallel()
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return nil, nil, nil, err
				}
				defer ln.Close()
				c2, err = net.Dial("tcp", ln.Addr().String())
				if err != nil {
					return nil, nil, nil, err
				}
				c1, err = ln.Accept()
				if err != nil {
					return nil, nil, nil, err
				}
				c1, c2 = ws.New(c1.(*net.TCPConn), ws.Config{Deflate: deflate}), &browser{Conn: c2}
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

// browser is a client's end of a WebSocket, with a mask that leaves bytes as they are.
type browser struct {
	net.Conn
	left []byte // of the message that was read last
}

func (b *browser) Write(p []byte) (int, error) {
	head := binary.BigEndian.AppendUint64([]byte{0x82, 0x80 | 127}, uint64(len(p)))
	if _, err := b.Conn.Write(append(append(head, 0, 0, 0, 0), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (b *browser) Read(p []byte) (int, error) {
	for len(b.left) == 0 {
		var err error
		if b.left, err = b.message(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

// message reads a message of one frame.
func (b *browser) message() ([]byte, error) {
	head := make([]byte, 2, 10)
	if _, err := io.ReadFull(b.Conn, head); err != nil {
		return nil, err
	}
	n := uint64(head[1])
	if more := map[byte]int{126: 2, 127: 8}[head[1]]; more > 0 {
		long := make([]byte, 8)
		if _, err := io.ReadFull(b.Conn, long[8-more:]); err != nil {
			return nil, err
		}
		n = binary.BigEndian.Uint64(long)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(b.Conn, p); err != nil || head[0]&0x40 == 0 {
		return p, err
	}
	return io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(p), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
}

// What nettest does not ask for.
func TestConn(t *testing.T) {
	t.Parallel()
	t.Run("a read deadline in the middle of a message", func(t *testing.T) {
		t.Parallel()
		client, conn := pair(t, false)
		w, err := client.Writer(within(t), websocket.MessageBinary)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		for _, part := range []string{"one", "two", "three"} {
			if _, err := io.WriteString(w, part); err != nil {
				t.Fatal(err)
			}
			if part == "three" {
				w.Close() // before that it may be kept
			}
			if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			for {
				if _, err := conn.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	t.Run("close wakes a read", func(t *testing.T) {
		t.Parallel()
		_, conn := pair(t, false)
		done := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			done <- err
		}()
		conn.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the read returned %v", err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("wrote after Close: %v", err)
		}
	})
	t.Run("a write deadline in the middle of a message", func(t *testing.T) {
		t.Parallel()
		client, conn := pair(t, false)
		if err := conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		var err error
		whole := 0
		for block := make([]byte, 1<<20); err == nil; { // the client does not read
			var n int
			if n, err = conn.Write(block); n > 0 {
				whole++
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("no")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote, %v", err)
		}
		if err := conn.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() {
			_, err := conn.Write([]byte("end"))
			sent <- err
		}()
		for range whole {
			if _, p, err := client.Read(within(t)); err != nil || len(p) != 1<<20 {
				t.Fatalf("read %d bytes, %v", len(p), err)
			}
		}
		if _, p, err := client.Read(within(t)); err != nil || string(p) != "end" {
			t.Errorf("read %d bytes, %v", len(p), err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
	t.Run("two write at once", func(t *testing.T) {
		t.Parallel()
		client, conn := pair(t, false)
		for _, c := range "abcd" {
			go func() {
				for range 100 {
					if _, err := conn.Write(bytes.Repeat([]byte(string(c)), 10000)); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		for range 400 {
			_, p, err := client.Read(within(t))
			if err != nil || len(p) != 10000 || strings.Trim(string(p), string(p[0])) != "" {
				t.Fatalf("read %d bytes, %v", len(p), err)
			}
		}
	})
}
