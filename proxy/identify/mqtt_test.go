package identify_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"imlb/proxy/identify"
	"imlb/test/need"
)

// connect is a CONNECT packet to be built, right or wrong.
type connect struct {
	level          byte
	flags          byte // besides those that the other fields imply
	properties     []byte
	clientID       string
	will           bool
	willProperties []byte
	willTopic      string
	willPayload    string
	user           string
	hasUser        bool
	password       string
	hasPassword    bool
}

func (c connect) bytes() []byte {
	name := "MQTT"
	if c.level&^0x80 == 3 {
		name = "MQIsdp"
	}
	body := append(str(nil, name), c.level, c.allFlags(), 0, 10)
	if c.level == 5 {
		body = append(binary.AppendUvarint(body, uint64(len(c.properties))), c.properties...)
	}
	body = str(body, c.clientID)
	if c.will {
		if c.level == 5 {
			body = append(binary.AppendUvarint(body, uint64(len(c.willProperties))), c.willProperties...)
		}
		body = str(str(body, c.willTopic), c.willPayload)
	}
	if c.hasUser {
		body = str(body, c.user)
	}
	if c.hasPassword {
		body = str(body, c.password)
	}
	return append(binary.AppendUvarint([]byte{0x10}, uint64(len(body))), body...)
}

func (c connect) allFlags() byte {
	flags := c.flags
	if c.will {
		flags |= 0x04
	}
	if c.hasPassword {
		flags |= 0x40
	}
	if c.hasUser {
		flags |= 0x80
	}
	return flags
}

func str(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// The examples of the specifications' non-normative sections, with a payload.
const (
	example311 = "\x10\x2a\x00\x04MQTT\x04\xce\x00\x0a\x00\x03dev\x00\x04w/do\x00\x04gone\x00\x05alice\x00\x06secret"
	example5   = "\x10\x34\x00\x04MQTT\x05\xce\x00\x0a\x05\x11\x00\x00\x00\x0a\x00\x03dev" +
		"\x05\x02\x00\x00\x00\x1e\x00\x04w/do\x00\x04gone\x00\x05alice\x00\x06secret"
	example31 = "\x10\x1f\x00\x06MQIsdp\x03\xc2\x00\x0a\x00\x03dev\x00\x05alice\x00\x06secret"
)

func TestMQTT(t *testing.T) {
	t.Parallel()
	full := connect{clientID: "dev", will: true, willTopic: "t", willPayload: "gone", user: "alice", hasUser: true, password: "\x00\xff", hasPassword: true}
	with := func(change func(c *connect)) string {
		c := full
		c.level = 5
		change(&c)
		return string(c.bytes())
	}
	for _, c := range []struct {
		name, sent string
		want       identify.Verdict
		key        string
	}{
		{"3.1.1 example", example311, identify.Found, "alice"},
		{"5 example", example5, identify.Found, "alice"},
		{"3.1 example", example31, identify.Found, "alice"},
		{"bridge 3.1.1", with(func(c *connect) { c.level = 0x84 }), identify.Found, "alice"},
		{"bridge 3.1", with(func(c *connect) { c.level = 0x83 }), identify.Found, "alice"},
		{"5 with properties", with(func(c *connect) { c.properties = make([]byte, 300) }), identify.Found, "alice"},
		{"5 with will properties", with(func(c *connect) { c.willProperties = make([]byte, 200) }), identify.Found, "alice"},
		{"no user name", with(func(c *connect) { c.hasUser = false }), identify.Found, "dev"},
		{"no user name, but a password: 3.1.1", with(func(c *connect) { c.level, c.hasUser = 4, false }), identify.Malformed, ""},
		{"empty user name", with(func(c *connect) { c.user = "" }), identify.Found, "dev"},
		{"no names", with(func(c *connect) { c.clientID, c.hasUser = "", false }), identify.Nobody, ""},
		{"empty names", with(func(c *connect) { c.clientID, c.user = "", "" }), identify.Nobody, ""},
		{"NUL in the user name", with(func(c *connect) { c.user = "a\x00b" }), identify.BadKey, ""},
		{"surrogate in the user name", with(func(c *connect) { c.user = "\xed\xa0\x80" }), identify.BadKey, ""},
		{"long user name", with(func(c *connect) { c.user = strings.Repeat("a", 1024) }), identify.Found, shortened(strings.Repeat("a", 1024))},
		{"reserved flag", with(func(c *connect) { c.flags = 1 }), identify.Malformed, ""},
		{"reserved flag in 3.1", with(func(c *connect) { c.level, c.flags = 3, 1 }), identify.Found, "alice"},
		{"will QoS 3", with(func(c *connect) { c.flags = 0x18 }), identify.Malformed, ""},
		{"will QoS without will", with(func(c *connect) { c.will, c.flags = false, 0x08 }), identify.Malformed, ""},
		{"will retained without will", with(func(c *connect) { c.will, c.flags = false, 0x20 }), identify.Malformed, ""},
		{"level 6", with(func(c *connect) { c.level = 6 }), identify.Malformed, ""},
		{"will of 32 KiB", with(func(c *connect) { c.willPayload = strings.Repeat("x", 32<<10) }), identify.TooLong, ""},
		{"properties of 256 MiB", "\x10\xff\xff\xff\x7f\x00\x04MQTT\x05\x80\x00\x0a\xf0\xff\xff\x7f", identify.TooLong, ""},
		{"properties past the packet", "\x10\x10\x00\x04MQTT\x05\x80\x00\x0a\x7f", identify.Malformed, ""},
		{"client id past the packet", "\x10\x0f\x00\x04MQTT\x04\x02\x00\x0a\x00\x04dev", identify.Malformed, ""},
		{"user name past the packet", "\x10\x11\x00\x04MQTT\x04\x82\x00\x0a\x00\x03dev\x00\x05alice", identify.Malformed, ""},
		{"length of five bytes", "\x10\xff\xff\xff\xff", identify.Malformed, ""},
		{"empty packet", "\x10\x00", identify.Malformed, ""},
		{"PUBLISH", "\x30", identify.Foreign, ""},
		{"reserved bits of CONNECT", "\x12", identify.Foreign, ""},
		{"another name", "\x10\x20\x00\x04MQTX", identify.Foreign, ""},
		{"a long name", "\x10\x20\x00\x05", identify.Foreign, ""},
		{"HTTP", "G", identify.Foreign, ""},
		{"TLS", "\x16", identify.Foreign, ""},
		{"nothing", "", identify.More, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want(t, checkSteps(t, identify.MQTT{}, []byte(c.sent)), c.want, c.key)
		})
	}
}

// Where MQTT was agreed on, what is none or breaks its rules is a breach; what only names nobody
// is not, nor what lies too far in to be looked at.
func TestMQTTBreach(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sent    string
		verdict identify.Verdict
		breach  bool
	}{
		{"GET / HTTP/1.1", identify.Foreign, true},
		{"\x30\x03\x00\x01x", identify.Foreign, true}, // a PUBLISH
		{"\x10\xff\xff\xff\xff", identify.Malformed, true},
		{string(connect{level: 6, clientID: "dev"}.bytes()), identify.Malformed, true},
		{string(connect{level: 4, clientID: "dev", flags: 1}.bytes()), identify.Malformed, true},
		{string(connect{level: 4}.bytes()), identify.Nobody, false},
		{string(connect{level: 4, clientID: "a\x01b"}.bytes()), identify.BadKey, false},
		{string(connect{level: 5, properties: make([]byte, 20<<10)}.bytes()), identify.TooLong, false},
		{example5, identify.Found, false},
		{example5[:20], identify.More, false},
	} {
		for _, agreed := range []string{"", "http/1.1", "mqtt", "mqttv3.1"} {
			for _, only := range []bool{false, true} {
				in := identify.Input{Facts: identify.Facts{Agreed: agreed}, Sent: []byte(c.sent)}
				isMQTT, want := strings.HasPrefix(agreed, "mqtt"), c.verdict
				if only && !isMQTT {
					want = identify.Foreign
				}
				r := identify.MQTT{Agreed: only}.Identify(in)
				if r.Verdict != want || r.Breach != (c.breach && isMQTT) {
					t.Errorf("%.20q, agreed on %q: %+v, want %v", c.sent, agreed, r, want)
				}
			}
		}
	}
}

// A version that nobody knows is told from a packet that makes no sense.
func TestMQTTUnknown(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]bool{
		string(connect{level: 6}.bytes()): true, string(connect{level: 2}.bytes()): true, "\x10\x20\x00\x06MQIsdp\x04": true,
		example31: false, example311: false, example5: false, "\x10\x00": false, "\x10\x20\x00\x04MQTT": false, "GET /": false, "": false,
	} {
		if got := identify.MQTTUnknown([]byte(sent)); got != want {
			t.Errorf("%q: %v", sent, got)
		}
	}
}

func TestMQTTClientIDFirst(t *testing.T) {
	t.Parallel()
	id := identify.MQTT{ClientIDFirst: true}
	want(t, checkSteps(t, id, []byte(example311)), identify.Found, "dev")
	anonymous := connect{level: 4, user: "alice", hasUser: true}
	want(t, checkSteps(t, id, anonymous.bytes()), identify.Found, "alice")
}

// The name decides with its last byte, and what it takes to get there is known early.
func TestMQTTDecidesEarly(t *testing.T) {
	t.Parallel()
	packet := connect{level: 5, clientID: "dev", properties: make([]byte, 1000), user: "alice", hasUser: true, password: strings.Repeat("x", 5000), hasPassword: true}.bytes()
	end := strings.Index(string(packet), "alice") + len("alice")
	want(t, identifyAtOnce(identify.MQTT{}, packet[:end]), identify.Found, "alice")
	if r := identifyAtOnce(identify.MQTT{}, packet[:end-1]); r.Verdict != identify.More || r.Need != end {
		t.Errorf("one byte less: %+v, want %d bytes", r, end)
	}
	asked := 0
	for n := 0; n < end; asked++ {
		n = identifyAtOnce(identify.MQTT{}, packet[:n]).Need
	}
	if asked > 25 {
		t.Errorf("asked %d times by a caller that waits for what is needed", asked)
	}
	want(t, checkSteps(t, identify.MQTT{Max: end}, packet), identify.Found, "alice")
	short := identify.MQTT{Max: end - 1}
	if got := checkSteps(t, short, packet); got.Verdict != identify.TooLong {
		t.Errorf("with one byte less allowed: %+v", got)
	}
}

// FuzzMQTT: a packet with a name is found by that name.
func FuzzMQTT(f *testing.F) {
	f.Add(byte(0), "", "dev", "t", "gone", "alice", "secret", byte(0xFF))
	f.Add(byte(1), "", "dev", "", "", "", "", byte(0))
	f.Add(byte(2), "\x11\x00\x00\x00\x10", "", "", "", "bob", "", byte(1))
	f.Fuzz(func(t *testing.T, version byte, properties, clientID, topic, payload, user, password string, has byte) {
		for _, s := range []string{properties, clientID, topic, payload, user, password} {
			if len(s) > 4<<10 {
				t.Skip("more than is looked at")
			}
		}
		c := connect{
			level: 3 + version%3, properties: []byte(properties), willProperties: []byte(properties), clientID: clientID,
			willTopic: topic, willPayload: payload, user: user, password: password,
			hasUser: has&1 != 0, will: has&2 != 0, hasPassword: has&4 != 0 && has&1 != 0,
		}
		key := clientID
		if c.hasUser && user != "" {
			key = user
		}
		got := identifyAtOnce(identify.MQTT{Max: 64 << 10}, c.bytes())
		switch {
		case key == "" && got.Verdict == identify.Nobody:
		case got.Verdict == identify.BadKey && (!utf8.ValidString(key) || strings.ContainsFunc(key, control)):
		case got.Verdict != identify.Found || got.Key != shortened(key):
			t.Fatalf("%+v: got %+v, want %q", c, got, key)
		}
	})
}

func control(r rune) bool {
	return r < ' ' || r >= 0x7F && r < 0xA0 || r == '\u2028' || r == '\u2029'
}

// FuzzMQTTBytes: whatever comes, it comes to the same at once and byte by byte.
func FuzzMQTTBytes(f *testing.F) {
	for _, s := range []string{example31, example311, example5, "\x10\xff\xff\xff\x7f\x00\x04MQTT\x05\x80\x00\x0a\xf0\xff\xff\x7f", "\x10\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		input = input[:min(len(input), 1<<10)]
		checkSteps(t, identify.MQTT{Max: 600}, input)
		checkSteps(t, identify.MQTT{Max: 600, ClientIDFirst: true}, input)
		if identify.MQTTUnfinished(input) && input[0] != 0x10 {
			t.Fatalf("%q begins no CONNECT", input)
		}
	})
}

// What real clients send.
func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	pub, sub := need.Command(t, "mosquitto_pub"), need.Command(t, "mosquitto_sub") //nolint:misspell // Their names.
	will := []string{"--will-topic", "w", "--will-payload", "gone", "--will-qos", "1", "--will-retain"}
	property := []string{"-D", "connect", "user-property", "k", "v", "-D", "connect", "session-expiry-interval", "60"}
	for _, c := range []struct {
		name    string
		program string
		args    []string
		first   bool
		key     string
	}{
		{"3.1 user", pub, []string{"-V", "mqttv31", "-i", "dev", "-u", "alice", "-P", "secret"}, false, "alice"},
		{"3.1 client", pub, []string{"-V", "mqttv31", "-i", "dev"}, false, "dev"},
		{"3.1.1 user", pub, []string{"-V", "mqttv311", "-i", "dev", "-u", "alice", "-P", "secret"}, false, "alice"},
		{"3.1.1 will", sub, append([]string{"-V", "mqttv311", "-i", "dev", "-u", "алиса"}, will...), false, "алиса"},
		{"3.1.1 client", sub, []string{"-V", "mqttv311", "-i", "dev"}, false, "dev"},
		{"3.1.1 client first", pub, []string{"-V", "mqttv311", "-i", "dev", "-u", "alice"}, true, "dev"},
		{"5 user", pub, append([]string{"-V", "mqttv5", "-i", "dev", "-u", "alice", "-P", "secret"}, property...), false, "alice"},
		{"5 will", sub, append(append([]string{"-V", "mqttv5", "-i", "dev", "-u", "alice"}, will...), property...), false, "alice"},
		{"5 client", sub, []string{"-V", "mqttv5", "-i", "dev", "-c"}, false, "dev"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			args := append(c.args, "-t", "t")
			if c.program == pub {
				args = append(args, "-m", "hello")
			}
			sent := firstBytes(t, c.program, args)
			want(t, checkSteps(t, identify.MQTT{ClientIDFirst: c.first}, sent), identify.Found, c.key)
		})
	}
}

// firstBytes runs an MQTT client and returns its first packet.
func firstBytes(t *testing.T, program string, args []string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := exec.CommandContext(ctx, program, append([]string{"-h", "127.0.0.1", "-p", port}, args...)...)
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := client.Wait(); err == nil {
			t.Errorf("%s: got no answer and was content", client)
		}
	}()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	first, err := in.ReadByte()
	if err != nil {
		t.Fatal(err)
	}
	length, err := binary.ReadUvarint(in)
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(in, body); err != nil {
		t.Fatal(err)
	}
	return append(binary.AppendUvarint([]byte{first}, length), body...)
}

// A CONNECT is unfinished until its last byte is there.
func TestMQTTUnfinished(t *testing.T) {
	t.Parallel()
	const connect = "\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc"
	for n := range len(connect) + 1 {
		if got, want := identify.MQTTUnfinished([]byte(connect[:n])), n > 0 && n < len(connect); got != want {
			t.Errorf("%d bytes: %v", n, got)
		}
	}
	for _, other := range []string{"\x20\x02", "GET /", connect + "\xc0\x00", "\x10\xff\xff\xff\xff"} {
		if identify.MQTTUnfinished([]byte(other)) {
			t.Errorf("%q: unfinished", other)
		}
	}
}
