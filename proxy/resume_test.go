package proxy_test

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/proxy"
)

const (
	smNS     = " xmlns='urn:xmpp:sm:3'"
	enable   = "<enable" + smNS + " resume='true'/>"
	enabled  = "<enabled" + smNS + " id='a&amp;b' resume='true' max='300'/>"
	request  = "<r" + smNS + "/>"
	presence = "<presence xmlns='jabber:client'/>"
)

// ack is an <a/>.
func ack(h string) string { return "<a" + smNS + " h='" + h + "'/>" }

// item is entry n of alice's timeline, in the form that is the same on all transports.
func item(n string) string {
	return strings.Replace(entry(n), "<message>", "<message xmlns='jabber:client'>", 1)
}

// framedTransports are the transports of framed sessions, on loops and on goroutines.
func (f *front) framedTransports() map[string]func() *peer {
	return map[string]func() *peer{
		"tls":      f.dialTLS,
		"starttls": f.dialStartTLS,
		"ws":       f.dialWS,
		"quic":     func() *peer { return f.openQUIC(f.dialQUIC()) },
	}
}

// arrive sends what a client does up to the node's answer to its login.
func (p *peer) arrive() {
	p.t.Helper()
	if p.ws != nil {
		p.send(wsOpen)
		p.expect(wsHeader + wsElement(frontOffer))
	} else {
		p.send(streamOpen)
		p.expect(frontHeader + frontOffer)
	}
	p.send(plain("alice", "secret"))
}

// served brings a client that has arrived, and the node, to the relay.
func (p *peer) served(n *node) *peer {
	p.t.Helper()
	leg := n.accept().offer()
	leg.letsIn(p, plain("alice", "secret"))
	leg.scan.Reset()
	if p.ws != nil {
		p.send(wsOpen)
	} else {
		p.scan.Reset()
		p.send(streamOpen)
	}
	leg.open()
	leg.send(nodeHeader + nodeBind)
	if p.ws != nil {
		p.expect(wsNodeOpen + wsElement(nodeBind))
	} else {
		p.expect(nodeHeader + nodeBind)
	}
	return leg
}

// passes checks that what one side says reaches the other as it is.
func passes(from, to *peer, all ...string) {
	from.t.Helper()
	for _, what := range all {
		from.send(what)
		to.expect(what)
	}
}

// settled takes the settle that comes next, and checks what it says.
func (n *node) settled(want string) {
	n.t.Helper()
	leg := n.settling(want)
	leg.eof()
	leg.close()
}

// settling takes it, and has not answered it yet.
func (n *node) settling(want string) *peer {
	n.t.Helper()
	leg := n.accept()
	if got := settleNote(n.t, leg.proxy); got != want {
		n.t.Errorf("settled %q, want %q", got, want)
	}
	return leg
}

// nodesInTurn returns nodes that are used one after the other, and the front that does.
func nodesInTurn(t *testing.T, change func(*proxy.Options)) (*front, [3]*node) {
	t.Helper()
	nodes := [3]*node{startNode(t, "one"), startNode(t, "two"), startNode(t, "three")}
	pick := &picker{nodes: map[string][]proxy.Node{"": nil}}
	for _, n := range nodes {
		pick.nodes[""] = append(pick.nodes[""], n.at())
	}
	t.Cleanup(func() {
		if pick.mu.Lock(); pick.live != 0 {
			t.Errorf("%d choices were not released", pick.live)
		}
		pick.mu.Unlock()
	})
	return startFront(t, pick, change), nodes
}

// A session whose node dies is resumed at the next one, which knows by then what was
// written to the client since it counts, on every transport. The client's old connection may
// still be open.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"tls", "starttls", "ws", "quic"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			f, nodes := nodesInTurn(t, nil)
			dial := f.framedTransports()[transport]
			first := dial()
			first.arrive()
			leg := first.served(nodes[0])
			passes(leg, first, item("5"))
			passes(first, leg, enable)
			passes(leg, first, enabled, item("7"), presence, request, item("9"))
			passes(first, leg, ack("3"), request)
			passes(leg, first, ack("0"))
			nodes[0].ln.Close()
			leg.send("<message><body>half of")
			again := dial()
			leg.reset()
			settling := nodes[1].settling("alice@example.com\x000\x00a&b\x003\x007,0,9")
			again.arrive() // and waits
			settling.eof()
			settling.close()
			leg = again.served(nodes[1])
			passes(again, leg, "<resume"+smNS+" previd='other' h='9'/>")
			passes(leg, again, "<failed"+smNS+" h='4'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>", presence)
			passes(again, leg, "<resume"+smNS+" h='2' previd='a&amp;b'/>")
			passes(leg, again, "<resumed"+smNS+" h='0' previd='a&amp;b'/>", item("9"), item("10"))
			nodes[1].ln.Close()
			leg.reset()
			nodes[2].settled("alice@example.com\x000\x00a&b\x004\x009,10")
			first.close()
			again.close()
			for range 2 {
				if r := f.ended("node-lost"); r["settled"] != "done" {
					t.Errorf("logged %v", r)
				}
			}
		})
	}
}

// What the next node is told goes back to what the client has acknowledged, however far that is, on every transport.
func TestResumeUnacknowledged(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"tls", "starttls", "ws", "quic"} {
		for name, tt := range map[string]struct {
			acked []string
			first int // of what is told
		}{
			"nothing":   {nil, 1},
			"all":       {[]string{ack("50"), ack("100")}, 101},
			"in quotes": {[]string{"<a h=\"100\"" + smNS + "/>"}, 101},
			"nonsense":  {[]string{"<a" + smNS + "/>", ack(""), ack("-1"), ack("4294967296")}, 1},
		} {
			t.Run(transport+"/"+name, func(t *testing.T) {
				t.Parallel()
				f, nodes := nodesInTurn(t, nil)
				client := f.framedTransports()[transport]()
				client.arrive()
				leg := client.served(nodes[0])
				passes(client, leg, enable)
				passes(leg, client, enabled)
				for n := range 100 {
					passes(leg, client, item(strconv.Itoa(n+1)))
				}
				passes(client, leg, tt.acked...)
				for n := range 100 {
					passes(leg, client, item(strconv.Itoa(n+101)))
				}
				nodes[0].ln.Close()
				leg.reset()
				var told []string
				for n := tt.first; n <= 200; n++ {
					told = append(told, strconv.Itoa(n))
				}
				nodes[1].settled("alice@example.com\x000\x00a&b\x00200\x00" + strings.Join(told, ","))
				client.close()
				f.ended("node-lost")
			})
		}
	}
}

// A client that shows in time that it has received all is believed that, too.
func TestResumeProved(t *testing.T) {
	t.Parallel()
	f, nodes := nodesInTurn(t, nil)
	f.SetProofTime(patience)
	client := f.dialTLS()
	leg := login(client, nodes[0], "alice")
	passes(client, leg, enable)
	passes(leg, client, enabled, item("7"))
	leg.send(streamEnd)
	client.expect(streamEnd)
	client.send(streamEnd)
	client.eof()
	nodes[1].settled("alice@example.com\x007\x00a&b\x001\x007")
	client.close()
	leg.eof()
	f.ended("node-closed")
}

// A session that its node gives up because it goes on elsewhere is no more of this
// connection's business, but for what the client has proved to have.
func TestResumedElsewhere(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ condition, note string }{
		"moved":   {"conflict", ""},
		"drained": {"system-shutdown", "alice@example.com\x000\x00a&b\x001\x007"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, nodes := nodesInTurn(t, nil)
			client := f.dialTLS()
			leg := login(client, nodes[0], "alice")
			passes(client, leg, enable)
			passes(leg, client, enabled, item("7"))
			leg.send(streamError(tt.condition) + streamEnd)
			client.expect(streamError(tt.condition) + streamEnd)
			client.reset()
			want := "unproved"
			if tt.note != "" {
				nodes[1].settled(tt.note)
				want = "done"
			}
			if r := f.ended("node-closed"); r["settled"] != want {
				t.Errorf("logged %v", r)
			}
		})
	}
}

// A node that stands still may not go on, and is left like one that is lost, on loops and on
// goroutines.
func TestResumeAfterSlowNode(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"tls", "quic"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			f, nodes := nodesInTurn(t, func(o *proxy.Options) { o.Timeouts.Write = 100 * time.Millisecond })
			client := f.framedTransports()[transport]()
			client.arrive()
			leg := client.served(nodes[0])
			passes(client, leg, enable)
			passes(leg, client, enabled, item("7"))
			client.flood()
			client.expect(streamError("system-shutdown") + streamEnd)
			nodes[1].settled("alice@example.com\x000\x00a&b\x001\x007")
			client.close()
			if r := f.ended("slow-node"); r["settled"] != "done" {
				t.Errorf("logged %v", r)
			}
		})
	}
}

// There is a settle for a session that can be resumed even if its client has got nothing, or
// is not there any more to show what.
func TestResumeWithNothing(t *testing.T) {
	t.Parallel()
	f, nodes := nodesInTurn(t, nil)
	client := f.dialTLS()
	leg := login(client, nodes[0], "alice")
	passes(client, leg, enable)
	passes(leg, client, enabled)
	leg.reset()
	client.expect(streamError("system-shutdown"))
	client.reset()
	nodes[1].settled("alice@example.com\x000\x00a&b\x000\x00")
	f.ended("node-lost")
}

// With SASL2 a session that can be resumed begins inline (XEP-0386), and goes on so
// (XEP-0198).
func TestResumeInline(t *testing.T) {
	t.Parallel()
	const offers = "<settle xmlns='urn:imlb:front:0'/></stream:features>"
	success := func(inside string) string {
		return "<success" + sasl2NS + "><authorization-identifier>alice@example.com/T.1</authorization-identifier>" + inside + "</success>"
	}
	ask := authenticate("PLAIN", "\x00alice\x00secret", "<resume"+smNS+" h='4294967295' previd='p'/>"+bind2)
	auth := authenticate("PLAIN", "\x00alice\x00secret", bind2)
	for name, tt := range map[string]struct{ auth, success, note string }{
		"enabled":           {auth, success("<bound xmlns='urn:xmpp:bind:0'><enabled" + smNS + " id='n' resume='1'/></bound>"), "\x000\x00n\x002\x003,0"},
		"resumed":           {ask, success("<resumed" + smNS + " previd='p' h='2'/>"), "\x000\x00p\x001\x003,0"},
		"failed":            {ask, success("<failed" + smNS + "/><bound xmlns='urn:xmpp:bind:0'><enabled" + smNS + " id='n' resume='true'/></bound>"), "\x000\x00n\x002\x003,0"},
		"no resumption":     {auth, success("<bound xmlns='urn:xmpp:bind:0'><enabled" + smNS + "/></bound>"), ""},
		"no management":     {auth, success("<bound xmlns='urn:xmpp:bind:0'/>"), ""},
		"resumed another":   {ask, success("<resumed" + smNS + " previd='q' h='2'/>"), ""},
		"resumed for none":  {auth, success("<resumed" + smNS + " previd='p' h='2'/>"), ""},
		"senseless resume":  {strings.Replace(ask, "4294967295", "4294967296", 1), success("<resumed" + smNS + " previd='p' h='2'/>"), ""},
		"too long an id":    {auth, success("<bound xmlns='urn:xmpp:bind:0'><enabled" + smNS + " resume='true' id='" + strings.Repeat("x", 257) + "'/></bound>"), ""},
		"nothing of the id": {auth, success("<bound xmlns='urn:xmpp:bind:0'><enabled" + smNS + " resume='true'/></bound>"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, nodes := nodesInTurn(t, func(o *proxy.Options) { o.Mechanisms = nil })
			if err := f.Learn("nodes", "example.com", sasl2Offer); err != nil {
				t.Fatal(err)
			}
			client := f.dialTLS()
			client.send(streamOpen)
			client.expect(frontHeader + sasl2Offer)
			client.send(tt.auth)
			leg := nodes[0].accept()
			leg.open()
			leg.send(nodeHeader + strings.Replace(sasl2Offer, "</stream:features>", offers, 1))
			leg.expect(tt.auth)
			passes(leg, client, tt.success, afterSASL2, item("3"), presence)
			leg.reset()
			client.expect(streamError("system-shutdown"))
			client.reset()
			want := "unproved"
			if tt.note != "" {
				nodes[1].settled("alice@example.com" + tt.note)
				want = "done"
			}
			if r := f.ended("node-lost"); r["settled"] != want {
				t.Errorf("logged %v", r)
			}
		})
	}
}

// A node that takes no settles gets none, whatever it says of resumption.
func TestResumeUnsettled(t *testing.T) {
	t.Parallel()
	f, nodes := nodesInTurn(t, nil)
	client := begin(f, plain("alice", "secret"))
	leg := nodes[0].accept()
	leg.open()
	leg.send(nodeHeader + plainOffer)
	leg.expect(plain("alice", "secret"))
	passes(leg, client, saslSuccess)
	client.scan.Reset()
	leg.scan.Reset()
	client.send(streamOpen)
	leg.open()
	passes(leg, client, nodeHeader+nodeBind)
	passes(client, leg, enable)
	passes(leg, client, enabled, item("7"))
	leg.reset()
	client.expect(streamError("system-shutdown") + streamEnd)
	client.close()
	if r := f.ended("node-lost"); r["settled"] != "" {
		t.Errorf("logged %v", r)
	}
	nodes[1].idle()
}

// The note has the count modulo 2^32, and the last 64 entries, oldest first.
func TestResumeNote(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		h    int64
		in   []uint64
		want string
	}{
		"new":                 {-1, nil, "\x00id\x000\x00"},
		"resumed":             {5, nil, "\x00id\x005\x00"},
		"one":                 {-1, []uint64{8}, "\x00id\x001\x008"},
		"over the wrap":       {math.MaxUint32 - 1, []uint64{7, 0, 8}, "\x00id\x001\x007,0,8"},
		"to the wrap":         {math.MaxUint32, []uint64{7}, "\x00id\x000\x007"},
		"the largest numbers": {-1, []uint64{math.MaxInt64, math.MaxUint64}, "\x00id\x002\x009223372036854775807,=1152921504606846975"},
		"a place":             {-1, []uint64{7, 8 | proxy.PlaceBit, 9 | proxy.PlaceBit | proxy.HadBit}, "\x00id\x003\x007,@8,+9"},
		"places of copies":    {-1, []uint64{8 | proxy.PlaceBit | proxy.CopyBit, 9 | proxy.PlaceBit | proxy.HadBit | proxy.CopyBit}, "\x00id\x002\x00~8,=9"},
		"out of turn":         {-1, []uint64{8 | proxy.PlaceBit | proxy.ApartBit}, "\x00id\x001\x00!8"},
	} {
		if got := proxy.ResumeNote("id", tt.h, tt.in...); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// A note says what all stanzas have told that are not acknowledged, up to 4,096, and the last 64 in any case, oldest first.
func TestResumeNoteOfUnacknowledged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := int64(rapid.Uint32().Draw(t, "h"))
		if rapid.Bool().Draw(t, "near the wrap") {
			h = math.MaxUint32 - h%6000
		}
		var entries []uint64
		var waits []uint32 // before each of these
		waiting := uint32(0)
		for range rapid.IntRange(0, 4).Draw(t, "bursts") {
			for range rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, 6000)).Draw(t, "written") {
				entries, waits = append(entries, uint64(len(entries)%1000)), append(waits, waiting)
				waiting++
			}
			waiting -= rapid.Uint32Range(0, waiting).Draw(t, "acknowledged")
		}
		most := 0
		if n := len(waits); n > 0 {
			most = min(max(64, int(waits[n-1])+1), 4096)
		}
		got := proxy.ResumeNoteOf("id", h, entries, func(i, written uint32) uint32 { return written - waits[i] })
		head := fmt.Sprintf("\x00id\x00%d\x00", (h+int64(len(entries)))%(1<<32))
		tail, ok := strings.CutPrefix(got, head)
		if !ok {
			t.Fatalf("%q, want %q and so on", got, head)
		}
		var want []string
		for _, n := range entries {
			want = append(want, fmt.Sprint(n))
		}
		told := strings.Split(tail, ",")
		if tail == "" {
			told = nil
		}
		if len(told) > 4096 || len(told) < min(most, len(want)) || !slices.Equal(told, want[len(want)-len(told):]) {
			t.Fatalf("the note tells of %d stanzas, %q, want the last %d of %q", len(told), told, most, want)
		}
	})
}

// What a note costs to keep is bounded, and to count a stanza costs no allocation.
func TestResumeCost(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts everybody's.
	silent := func(uint32, uint32) uint32 { return 0 }
	n := len(proxy.ResumeNoteOf(strings.Repeat("x", 256), 0, slices.Repeat([]uint64{math.MaxUint64}, 10_000), silent))
	if n > 57<<10 || n < 50<<10 {
		t.Errorf("a note has %d bytes", n)
	}
	count := proxy.CountStanzas()
	if n := testing.AllocsPerRun(100, count); n != 0 {
		t.Errorf("a stanza costs %v allocations", n)
	}
}

func BenchmarkResumeCount(b *testing.B) {
	count := proxy.CountStanzas()
	for b.Loop() {
		count()
	}
}

// FuzzResumeInline: whatever is asked and answered, a note has its three fields.
func FuzzResumeInline(f *testing.F) {
	ask := "<authenticate" + sasl2NS + " mechanism='PLAIN'><resume" + smNS + " previd='p' h='7'/></authenticate>"
	for _, answer := range []string{
		"<resumed" + smNS + " previd='p' h='2'/>",
		"<bound xmlns='urn:xmpp:bind:0'><enabled" + smNS + " id='n&#9;&lt;' resume='1'/></bound>",
		"<enabled" + smNS + " id='n' resume='true'/>",
		"<failed" + smNS + "/>",
	} {
		f.Add([]byte(ask), []byte("<success"+sasl2NS+">"+answer+"</success>"))
	}
	f.Fuzz(func(t *testing.T, auth, success []byte) {
		note := proxy.ResumeInline(auth, success)
		if note == "" {
			return
		}
		fields := strings.Split(note, "\x00")
		if len(fields) != 4 || fields[0] != "" || fields[1] == "" || len(fields[1]) > 256 || fields[3] != "" {
			t.Errorf("note %q", note)
		}
		if _, err := strconv.ParseUint(fields[2], 10, 32); err != nil {
			t.Errorf("note %q: %v", note, err)
		}
	})
}

// What was written to a client that is gone is told to the next node if its own was lost before it can have stored that: when the
// user comes back, and when the node is seen to be lost. Later nobody asks.
func TestResumeAfterReset(t *testing.T) {
	t.Parallel()
	const note = "alice@example.com\x000\x00a&b\x003\x007,0,9"
	for name, tt := range map[string]struct {
		doubt time.Duration
		seen  bool // that the node is lost, by another session
		told  bool
	}{
		"back":       {patience, false, true},
		"seen":       {patience, true, true},
		"back later": {0, false, false},
		"seen later": {0, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, nodes := nodesInTurn(t, nil)
			f.SetDoubtTime(tt.doubt)
			other := f.dialTLS()
			otherLeg := login(other, nodes[0], "bob")
			first := f.dialTLS()
			leg := login(first, nodes[0], "alice")
			passes(first, leg, enable)
			passes(leg, first, enabled, item("7"), presence, item("9"))
			first.reset()
			leg.eof()
			f.ended("client-reset")
			nodes[0].ln.Close()
			if tt.seen {
				otherLeg.reset()
				if tt.told {
					nodes[1].settled(note)
				}
			}
			again := f.dialTLS()
			again.arrive()
			if !tt.seen && tt.told {
				nodes[1].settled(note)
			}
			leg = again.served(nodes[1])
			passes(again, leg, "<resume"+smNS+" h='3' previd='a&amp;b'/>")
			again.close()
			other.close()
		})
	}
}
