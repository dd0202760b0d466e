package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/proxy"
)

// stanzas makes a stream of n stanzas of all sizes, some with whitespace between.
func stanzas(r *rand.Rand, n int) []byte {
	var b bytes.Buffer
	for i := range n {
		switch r.IntN(4) {
		case 0:
			fmt.Fprintf(&b, "<presence id='%d'/>", i)
		case 1:
			fmt.Fprintf(&b, "<iq type='get' id='%d'><ping xmlns='urn:xmpp:ping'/></iq>\n", i)
		default:
			fmt.Fprintf(&b, "<message id='%d'><body>%s</body></message>", i, strings.Repeat("x", 1<<r.IntN(15)))
		}
	}
	return b.Bytes()
}

// sendTorn writes b in pieces of any size.
func sendTorn(w io.Writer, r *rand.Rand, b []byte) error {
	for len(b) > 0 {
		n := min(1+r.IntN(1<<r.IntN(14)), len(b))
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Whatever the pieces in which stanzas come, each side gets exactly the bytes that the
// other sent, while both send at the same time, on many sessions.
func TestRelayIsExact(t *testing.T) {
	t.Parallel()
	const sessions, length = 8, 300
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	conn := f.dialQUIC()
	var running sync.WaitGroup
	for i := range sessions {
		client := f.dialTLS()
		if i%2 == 0 {
			client = f.openQUIC(conn)
		}
		leg := login(client, n, "alice")
		for j, pair := range [][2]*peer{{client, leg}, {leg, client}} {
			seed := uint64(10*i + j)
			r := rand.New(rand.NewPCG(1, seed))
			sent := stanzas(r, length)
			running.Go(func() {
				if err := sendTorn(pair[0].conn, r, sent); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			})
			running.Go(func() {
				if err := pair[1].conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Error(err)
				}
				got := make([]byte, len(sent))
				if _, err := io.ReadFull(pair[1].conn, got); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("seed %d: got other bytes than were sent, and %v", seed, err)
				}
			})
		}
	}
	running.Wait()
}

// The number of an entry is read however the node writes it, and only from its user's timeline.
func TestTold(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]uint64{
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='7'/>":                   7,
		"<stanza-id xmlns=\"urn:xmpp:sid:0\" by=\"alice@example.com\" id=\"7\"/>":             7,
		"<stanza-id id='7' by='alice@example.com' xmlns='urn:xmpp:sid:0' />":                  7,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='7' x='y'/>":             7,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='&#55;'/>":               7,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='seven'/>":               0,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id=''/>":                    0,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' x='7'/>":                    0,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com.invalid' id='7'/>":           0,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='7'/>":                     0,
		"<stanza-id xmlns='urn:xmpp:sid:1' by='alice@example.com' id='7'/>":                   0,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='7'></stanza-id>":        0,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='7'/><active/>":          0,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='7'/>and more":           0,
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='9223372036854775808'/>": 0,
		"<at xmlns='urn:imlb:front:0' entry='7'/>":                                            7 | proxy.PlaceBit,
		"<at xmlns='urn:imlb:front:0' had='7'/>":                                              7 | proxy.PlaceBit | proxy.HadBit,
		"<at xmlns='urn:imlb:front:0' had='2305843009213693952'/>":                            0,
		"<at xmlns='urn:imlb:front:0' copy='7'/>":                                             7 | proxy.PlaceBit | proxy.CopyBit,
		"<at xmlns='urn:imlb:front:0' copied='7'/>":                                           7 | proxy.PlaceBit | proxy.CopyBit | proxy.HadBit,
		"<at xmlns='urn:imlb:front:0' apart='7'/>":                                            7 | proxy.PlaceBit | proxy.ApartBit,
		"<at xmlns='urn:imlb:front:0' entry='0'/>":                                            0,
		"<at xmlns='urn:imlb:front:0' entry='9223372036854775808'/>":                          0,
		"<at xmlns='urn:imlb:front:1' entry='7'/>":                                            0,
		"<at xmlns='urn:imlb:front:0' entry='7'/><active/>":                                   0,
	} {
		if got := proxy.ReadTold([]byte("<message><body>hi</body>"+id+"</message>"), "alice@example.com"); got != want {
			t.Errorf("%s is entry %d, want %d", id, got, want)
		}
	}
}

// The sender of a message decides how its end is written.
func TestToldBeforeAnyEnd(t *testing.T) {
	t.Parallel()
	const entry = "<message><body>hi</body><stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='17'/>"
	for _, end := range []string{"</message>", "</message >", "</message\n\t>"} {
		if got := proxy.ReadTold([]byte(entry+end), "alice@example.com"); got != 17 {
			t.Errorf("%q: got %d", end, got)
		}
	}
}

// What anybody may send inside another stanza is no entry: a number there would pass for received.
func TestToldInside(t *testing.T) {
	t.Parallel()
	const forged = "<message><stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='17'/></message>"
	for _, raw := range []string{
		"<iq type='set'><x>" + forged + "</x></iq>",
		"<presence>" + forged + "</presence>",
		"<message>" + forged + "</message>",
		"<message><![CDATA[<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='17'>]]>/></message>",
		"<message><![CDATA[<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='17'/>]]>/></message>",
		"<message><![CDATA[<at xmlns='urn:imlb:front:0' entry='17'/>]]>/></message>",
		"<m:message xmlns:m='jabber:client'>" + forged + "</m:message>",
	} {
		if got := proxy.ReadTold([]byte(raw), "alice@example.com"); got != 0 {
			t.Errorf("%s is entry %d", raw, got)
		}
	}
}

// FuzzTold looks for messages that make the front see an entry's number where
// a node did not put one.
func FuzzTold(f *testing.F) {
	f.Add(entry("7"))
	f.Add("<message><stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='1'/><x/></message>")
	f.Add("<message><at xmlns='urn:imlb:front:0' entry='1'/></message>")
	f.Add("<message><![CDATA[<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='1'>]]>/></message>")
	f.Fuzz(func(t *testing.T, raw string) {
		n := proxy.ReadTold([]byte(raw), "alice@example.com")
		if n&proxy.PlaceBit != 0 && !strings.Contains(raw, "urn:imlb:front:0") || n > 0 && n < proxy.PlaceBit && !strings.Contains(raw, "urn:xmpp:sid:0") {
			t.Errorf("entry %d in %s", n, raw)
		}
	})
}

// A QUIC connection that has no streams is closed after a while; one that has is not.
func TestQUICUnused(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		o.Timeouts.Handshake, o.Timeouts.Write = 3*time.Second, 300*time.Millisecond // in which the stream comes
	})
	used := f.dialQUIC()
	client := f.openQUIC(used)
	unused := f.dialQUIC()
	client.send(streamOpen)
	client.expect(frontHeader + frontOffer)
	<-unused.Context().Done()
	f.ended("no-stream")
	if used.Context().Err() != nil {
		t.Error("a connection was closed that had a stream")
	}
	client.send(streamEnd)
	client.expect(streamEnd)
	client.close()
	f.ended("client-closed")
	<-used.Context().Done()
}

// A line end after the last element of a stream does not come before the header of the
// next one, where an XML declaration has to be first.
func TestSpaceBetweenStreams(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	client := begin(f, plain("alice", "secret")+"\n")
	leg := n.accept().offer()
	leg.expect(plain("alice", "secret"))
	leg.send(saslSuccess + "\n")
	client.expect(saslSuccess)
	client.scan.Reset()
	leg.scan.Reset()
	client.send(" \n" + streamOpen + "\n<presence/>")
	leg.expect(streamOpen + "\n<presence/>")
	leg.send(" " + nodeHeader + nodeBind + " ")
	client.expect(nodeHeader + nodeBind + " ")
	f.leaves(client, leg)
}
