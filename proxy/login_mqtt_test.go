package proxy_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// CONNACK packets of a node, by what they say.
const (
	connackOK     = "\x20\x02\x00\x00"
	connackBad    = "\x20\x02\x00\x04" // bad user name or password
	connackDenied = "\x20\x02\x00\x05" // not authorized
	connackAway   = "\x20\x02\x00\x03" // server unavailable

	connack5OK     = "\x20\x03\x00\x00\x00"
	connack5Denied = "\x20\x06\x00\x87\x03\x1f\x00\x00" // with an empty reason
	connack5Away   = "\x20\x03\x00\x88\x00"
	mqttAuth       = "\xf0\x04\x18\x02\x15\x00" // a step of a login that takes several
)

// mqttWay is a way for MQTT to come to a front.
type mqttWay struct {
	listener proxy.Listener
	dial     func(*front) *stream
	agreed   bool // it is known to be MQTT before the first byte
}

// mqttWays are on loops, on loops in TLS, and on goroutines.
func mqttWays() map[string]mqttWay {
	webSocket := func(subprotocol string, compression websocket.CompressionMode) func(f *front) *stream {
		return func(f *front) *stream {
			o := f.wsOptions(nil)
			o.CompressionMode = compression
			if subprotocol != "" {
				o.Subprotocols = []string{subprotocol}
			}
			return f.dialWith("ws", "/mqtt", o).stream()
		}
	}
	at := func(subprotocol string) proxy.WebSocket {
		return proxy.WebSocket{Path: "/mqtt", Subprotocols: []string{subprotocol}}
	}
	compressed := at("")
	compressed.Compress = true
	return map[string]mqttWay{
		"mqtt":              {proxy.Listener{Protocol: proxy.MQTT, Identify: byMQTT()}, (*front).dial, true},
		"mqtts":             {proxy.Listener{Protocol: proxy.MQTTS, Identify: byMQTT()}, func(f *front) *stream { return f.dialSecure(f.clientTLS("mqtt")) }, true},
		"tcp":               {proxy.Listener{Protocol: proxy.TCP, Identify: byMQTT()}, (*front).dial, false},
		"ws":                {proxy.Listener{Protocol: proxy.WS, Identify: byMQTT(), WebSocket: at("")}, webSocket("", websocket.CompressionDisabled), false},
		"ws, compressed":    {proxy.Listener{Protocol: proxy.WS, Identify: byMQTT(), WebSocket: compressed}, webSocket("", websocket.CompressionNoContextTakeover), false},
		"ws, not looked at": {proxy.Listener{Protocol: proxy.WS, WebSocket: at("mqtt")}, webSocket("mqtt", websocket.CompressionDisabled), true},
	}
}

// strict is a back-off that allows one failed login of a user from one place.
func strict(o *proxy.Options) {
	o.Rules.Backoff = limit.Backoff{Pair: limit.Steps{Free: 1, First: time.Hour, Max: time.Hour}, Window: time.Hour}
}

// tries lets a client of alice's connect, and has the node answer, in pieces of so many bytes. It
// returns both ends after the client has got the answer.
func (w mqttWay) tries(f *front, n *node, version byte, answer string, pieces int) (client *stream, atNode *leg) {
	f.t.Helper()
	client = w.dial(f)
	connect := mqttConnect(version, "phone", "alice")
	client.send(connect)
	atNode = n.leg()
	atNode.recv(connect)
	for len(answer) > 0 {
		piece := answer[:min(pieces, len(answer))]
		atNode.send(piece)
		client.recv(piece)
		answer = answer[len(piece):]
	}
	return client, atNode
}

// fails is a login that the node refuses, as brokers do: by an answer and the end.
func (w mqttWay) fails(f *front, n *node, version byte, answer string, pieces int) {
	f.t.Helper()
	client, atNode := w.tries(f, n, version, answer, pieces)
	atNode.Close()
	client.over()
	client.Close()
	if r := f.ended("auth-failed"); r["auth_failures"] != "1" || r["logged_in"] != "false" {
		f.t.Errorf("logged %v", r)
	}
}

// works is a login that the node accepts, after which the session goes on.
func (w mqttWay) works(f *front, n *node, version byte, answer string, pieces int) {
	f.t.Helper()
	client, atNode := w.tries(f, n, version, answer, pieces)
	long := strings.Repeat("x", 200<<10)
	go func() { _, _ = atNode.Write([]byte(long)) }()
	client.recv(long)
	client.send("\xe0\x00")
	atNode.recv("\xe0\x00")
	client.Close()
	atNode.over()
	atNode.Close()
	if r := f.ended("client-closed"); r["auth_failures"] != "0" || r["logged_in"] != "true" {
		f.t.Errorf("logged %v", r)
	}
}

// inAllWays runs a test on each of them, with a front and a node of its own.
func inAllWays(t *testing.T, change func(*proxy.Options), test func(t *testing.T, way mqttWay, f *front, n *node)) {
	t.Helper()
	for name, way := range mqttWays() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			test(t, way, startOpaque(t, witnessOf(n), way.listener, change), n)
		})
	}
}

// Logins of MQTT that the node refuses put off the next ones, as those of SASL do, until one
// succeeds.
func TestMQTTLogins(t *testing.T) {
	t.Parallel()
	inAllWays(t, strict, func(t *testing.T, way mqttWay, f *front, n *node) {
		way.fails(f, n, 4, connackBad, 99)
		way.works(f, n, 4, connackOK, 1)
		way.fails(f, n, 5, connack5Denied, 1)
		way.works(f, n, 5, mqttAuth+mqttAuth+connack5OK, 4)
		way.fails(f, n, 5, mqttAuth+connack5Denied, 2)
		way.fails(f, n, 3+1, connackDenied, 3)
		client := way.dial(f)
		client.send(mqttConnect(5, "phone", "alice"))
		if way.listener.Identify.Chain != nil {
			client.recv("\x20\x03\x00\x9f\x00")
		}
		client.over()
		client.Close()
		f.ended("auth-backoff")
		n.idle()
	})
}

// A node that refuses for a reason of its own says nothing of the login, and neither does
// one that goes without an answer.
func TestMQTTLoginsUndecided(t *testing.T) {
	t.Parallel()
	inAllWays(t, strict, func(t *testing.T, way mqttWay, f *front, n *node) {
		for _, answer := range []string{connackAway, connack5Away, "", "\x20", "\x20\x02\x00", mqttAuth} {
			client, atNode := way.tries(f, n, 4, answer, 99)
			atNode.Close()
			client.over()
			client.Close()
			if r := f.ended("node-closed"); r["auth_failures"] != "0" || r["logged_in"] != "false" {
				t.Errorf("%q: logged %v", answer, r)
			}
		}
		way.works(f, n, 4, connackOK, 99)
	})
}

// A node that has refused a client, and resets the connection since the client has said more than was read, is not
// lost: clients can have that at will.
func TestMQTTRefusedByReset(t *testing.T) {
	t.Parallel()
	inAllWays(t, nil, func(t *testing.T, way mqttWay, f *front, n *node) {
		for answer, reason := range map[string]string{
			connackBad: "auth-failed", connack5Denied: "auth-failed", connackAway: "node-closed", "": "node-lost", connackOK: "node-lost",
		} {
			client, atNode := way.tries(f, n, 4, answer, 99)
			atNode.reset()
			client.over()
			client.Close()
			f.ended(reason)
		}
	})
}

// A session of MQTT counts as one that is not logged in until the node has let it in; then
// it counts for its user, who may have no more than allowed: the client does not hear of a
// success that is none.
func TestMQTTLoginsCount(t *testing.T) {
	t.Parallel()
	change := func(o *proxy.Options) {
		o.Rules.User.Concurrent = 1
		o.Rules.User.Unauthenticated = 2
		// Bytes are counted for the user while the login is under way, too.
		o.Rules.User.In = limit.Bandwidth{PerSecond: 1 << 30, Burst: 1 << 30}
		o.Rules.User.Out = o.Rules.User.In
	}
	inAllWays(t, change, func(t *testing.T, way mqttWay, f *front, n *node) {
		first, atFirst := way.tries(f, n, 4, "", 99)
		second, atSecond := way.tries(f, n, 4, "", 99)
		third := way.dial(f)
		third.send(mqttConnect(4, "phone", "alice"))
		third.over()
		third.Close()
		if r := f.ended("too-many"); r["limit"] != "unauthenticated-user" {
			t.Errorf("logged %v", r)
		}
		first.send("\xc0\x00")
		atFirst.send(connackOK)
		first.recv(connackOK)
		atFirst.recv("\xc0\x00")
		atSecond.send(connackOK)
		second.recv(connackAway)
		if got := second.over(); got != "" {
			t.Errorf("the second client has got %q", got)
		}
		atSecond.end()
		atSecond.Close()
		second.Close()
		if r := f.ended("too-many"); r["limit"] != "concurrent-user" {
			t.Errorf("logged %v", r)
		}
		first.Close()
		atFirst.over()
		atFirst.Close()
		f.ended("client-closed")
	})
}

// isLate has two clients of a user connect of whom the node lets the second one in first. It returns the
// other one.
func (w mqttWay) isLate(f *front, n *node, version byte, more string) (client *stream, atNode *leg) {
	f.t.Helper()
	client, atNode = w.tries(f, n, version, "", 99)
	client.send(more)
	atNode.recv(more)
	w.tries(f, n, 4, connackOK, 99)
	return client, atNode
}

// A client of whom others were faster is told so, whatever it has said and whatever comes with the node's
// answer, unless it has got a part of that: then there is nothing that it could be told.
func TestMQTTRefusedLate(t *testing.T) {
	t.Parallel()
	const full5 = "\x20\x03\x00\x97\x00" // quota exceeded
	ways := mqttWays()
	ways["quic"] = mqttWay{proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}, Identify: byMQTT()}, (*front).openOpaqueQUIC, false}
	for name, way := range ways {
		for what, test := range map[string]struct {
			version byte
			more    string
			half    bool
			answer  []string
			want    string
		}{
			"3.1.1":          {4, "", false, []string{connackOK}, connackAway},
			"5":              {5, "", false, []string{connack5OK}, full5},
			"more to come":   {5, "\xc0\x00", false, []string{"\x20\x08\x00\x00\x05\x12\x00\x02ab\x30\x03\x00\x01x"}, full5},
			"after a step":   {5, "", false, []string{mqttAuth, connack5OK}, mqttAuth + full5},
			"half an end":    {4, "\xc0\x00", true, []string{connackOK}, connackAway},
			"half an answer": {4, "", false, []string{connackOK[:1], connackOK[1:]}, connackOK[:1]},
		} {
			if test.half && strings.HasPrefix(name, "ws") {
				continue
			}
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				n := startNode(t, "one")
				f := startOpaque(t, witnessOf(n), way.listener, func(o *proxy.Options) { o.Rules.User.Concurrent = 1 })
				client, atNode := way.isLate(f, n, test.version, test.more)
				if test.half {
					client.closeWrite()
					atNode.end()
				}
				got := ""
				for i, part := range test.answer {
					atNode.send(part)
					if i < len(test.answer)-1 {
						client.recv(part)
						got += part
					}
				}
				if got += client.over(); got != test.want {
					t.Errorf("the client has got %q, want %q", got, test.want)
				}
				if test.want != connackOK[:1] && !test.half {
					atNode.end()
				}
				client.Close()
				if r := f.ended("too-many"); r["limit"] != "concurrent-user" {
					t.Errorf("logged %v", r)
				}
			})
		}
	}
}

// What is no MQTT passes, on a listener for it and on others, and counts as logged in.
func TestMQTTNone(t *testing.T) {
	t.Parallel()
	inAllWays(t, func(o *proxy.Options) { o.Rules.Global.Unauthenticated = 1 }, func(t *testing.T, way mqttWay, f *front, n *node) {
		client, atNode := way.tries(f, n, 4, "\xd0\x00", 1)
		next, atNext := way.tries(f, n, 4, "\x30\x03\x00\x01x", 99)
		for _, s := range []*stream{client, next, atNode.stream, atNext.stream} {
			s.Close()
		}
		for range 2 {
			f.record()
		}
	})
}

// What is no CONNECT reaches no node where MQTT was agreed on, although the client's address would do to
// find one, and nothing is answered but to another version. Elsewhere, and where the user is not looked for in
// first bytes, it is the node's.
func TestMQTTBreach(t *testing.T) {
	t.Parallel()
	ways := mqttWays()
	agreed := ways["ws, not looked at"]
	agreed.listener.Identify = byMQTT()
	ways["ws, agreed"] = agreed
	reserved := []byte(mqttConnect(4, "phone", "alice"))
	reserved[9] |= 1
	for what, test := range map[string]struct{ sent, answer, cause string }{
		"HTTP":          {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", "mqtt: foreign"},
		"no CONNECT":    {"\xc0\x00", "", "mqtt: foreign"},
		"reserved flag": {string(reserved), "", "mqtt: malformed"},
		"version 6":     {mqttConnect(6, "phone", "alice"), "\x20\x02\x00\x01", "mqtt: malformed"},
	} {
		for name, way := range ways {
			t.Run(what+", "+name, func(t *testing.T) {
				t.Parallel()
				n := startNode(t, "one")
				f := startOpaque(t, witnessOf(n), way.listener, nil)
				client := way.dial(f)
				client.send(test.sent)
				if !way.agreed || way.listener.Identify.Chain == nil {
					leg := n.leg()
					leg.recv(test.sent)
					f.hangsUp(client, leg)
					return
				}
				if got := client.over(); got != test.answer {
					t.Errorf("the client has got %q, want %q", got, test.answer)
				}
				client.Close()
				if r := f.ended("protocol-error"); r["cause"] != test.cause || r["node"] != "" || r["user"] != "" {
					t.Errorf("logged %v", r)
				}
				n.idle()
			})
		}
	}
}

// A login of MQTT that is not over in time ends its session, whoever is to blame: a client that
// says nothing or not all of its CONNECT, or a node that does not answer, or not to the end.
// Until then it counts as one that is not logged in.
func TestMQTTLoginsLate(t *testing.T) {
	t.Parallel()
	connect := mqttConnect(5, "phone", "alice")
	tests := map[string]struct {
		sent, answer string
		reason       string
	}{
		"silent client":      {"", "", "identify-timeout"},
		"client stops early": {connect[:12], "", "identify-timeout"},
		"client stops late":  {connect[:len(connect)-2], "", "identify-timeout"},
		"silent node":        {connect, "", "identify-timeout"},
		"step of a login":    {connect, mqttAuth, "identify-timeout"},
		"refused, and open":  {connect, connack5Denied, "auth-failed"},
	}
	for name, test := range tests {
		change := func(o *proxy.Options) {
			o.Timeouts.Identify = 300 * time.Millisecond
			if test.answer != "" {
				o.Timeouts.Identify = 2 * time.Second // which the answer has to come in
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inAllWays(t, change, func(t *testing.T, way mqttWay, f *front, n *node) {
				if test.sent == "" && !way.agreed {
					t.Skip("nothing says that this is MQTT")
				}
				client := way.dial(f)
				client.send(test.sent)
				if test.answer != "" {
					leg := n.leg()
					leg.recv(test.sent)
					leg.send(test.answer)
					client.recv(test.answer)
				}
				if got := client.over(); got != "" {
					t.Errorf("the client got %q", got)
				}
				client.Close()
				if r := f.ended(test.reason); r["logged_in"] != "false" || !strings.Contains(r["cause"], "timeouts.identify") {
					t.Errorf("logged %v", r)
				}
				if c := f.Limits(time.Now(), 0).Global; c.Unauthenticated != 0 {
					t.Errorf("%d still count as not logged in", c.Unauthenticated)
				}
			})
		})
	}
}

// A client that leaves inside its CONNECT reaches no node, although its address would do to find one.
func TestMQTTLeavesInside(t *testing.T) {
	t.Parallel()
	connect := mqttConnect(5, "phone", "alice")
	for _, size := range []int{12, len(connect) - 9} { // not after the name, by which it is known
		inAllWays(t, nil, func(t *testing.T, way mqttWay, f *front, n *node) {
			if way.listener.Identify.Chain == nil {
				t.Skip("the first bytes are the node's")
			}
			client := way.dial(f)
			client.send(connect[:size])
			client.Close()
			if r := f.ended("client-closed"); r["node"] != "" || !strings.Contains(r["cause"], "inside its CONNECT") {
				t.Errorf("logged %v", r)
			}
			n.idle()
		})
	}
}

// A client that is let in is not held to that time any more, and neither is who does not speak MQTT.
func TestMQTTLoginsInTime(t *testing.T) {
	t.Parallel()
	change := func(o *proxy.Options) { o.Timeouts.Identify = 3 * time.Second }
	inAllWays(t, change, func(t *testing.T, way mqttWay, f *front, n *node) {
		in, atIn := way.tries(f, n, 4, connackOK, 99)
		other, atOther := way.tries(f, n, 4, "\xd0\x00", 1)
		late, _ := way.tries(f, n, 4, "", 99)
		late.over()
		late.Close()
		f.ended("identify-timeout")
		for client, leg := range map[*stream]*leg{in: atIn, other: atOther} {
			client.send("\xc0\x00")
			leg.recv("\xc0\x00")
			leg.send("\xd0\x00")
			client.recv("\xd0\x00")
			f.hangsUp(client, leg)
		}
	})
}

// A client that is refused while it goes on to speak gets the answer and the end of its
// connection, and no reset, which might overtake the answer.
func TestMQTTRefusedWhileItSpeaks(t *testing.T) {
	t.Parallel()
	connect, more := mqttConnect(5, "phone", "alice"), strings.Repeat("x", 200<<10)
	for name, way := range mqttWays() {
		if strings.HasPrefix(name, "ws") { // which has a close frame for that
			continue
		}
		for why, refuses := range map[string]func(f *front, pick *parking){
			"no-node":  func(_ *front, pick *parking) { pick.room <- struct{}{} }, // and no node
			"shutdown": func(f *front, _ *parking) { go func() { _ = f.Shutdown(context.Background()) }() },
		} {
			t.Run(name+", "+why, func(t *testing.T) {
				t.Parallel()
				pick := parkingOf()
				f := startOpaque(t, pick, way.listener, waits(pick, time.Hour))
				client := way.dial(f)
				client.send(connect)
				next(t, pick.asked, "asked for a node")
				sent := make(chan error, 1)
				go func() {
					_, err := client.Write([]byte(more))
					sent <- err
				}()
				refuses(f, pick)
				client.recv(connack5Away)
				if err := next(t, sent, "read on"); err != nil {
					t.Error(err)
				}
				client.send(more[:99])
				client.end()
				client.Close()
				f.ended(why)
			})
		}
	}
}
