package test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imlb/test/need"
)

// mqttUsers is how many users the brokers know.
const mqttUsers = 24

// mqttVersions are the versions of the protocol, as mosquitto's clients call them.
var mqttVersions = []string{"mqttv31", "mqttv311", "mqttv5"} //nolint:gochecknoglobals // a constant in all but syntax

// brokers are two real brokers that do not know each other, behind one front.
type brokers struct {
	*process // the front
	t        *testing.T
	admin    string
	addrs    map[string]string // of the front's listeners, by name
	ca       string            // file of the authority
	client   *tls.Config
	all      []*broker
}

// broker is one of them.
type broker struct {
	*process
	name, addr string
}

// mqttDocument needs the brokers' addresses, the certificate's files and the address
// for operators.
const mqttDocument = `
listeners:
  - {protocol: mqtt, address: "127.0.0.1:0", pool: brokers, rate: {per_second: 0}}
  - {protocol: mqtts, address: "127.0.0.1:0", pool: brokers, rate: {per_second: 0}}
  - {protocol: ws, address: "127.0.0.1:0", pool: brokers, rate: {per_second: 0}, websocket: {path: /mqtt, subprotocols: [mqtt]}, identify: {by: [{type: mqtt}]}}
  - {protocol: wss, address: "127.0.0.1:0", pool: brokers, rate: {per_second: 0}, websocket: {path: /mqtt, subprotocols: [mqtt]}, identify: {by: [{type: mqtt}]}}
pools:
  brokers:
    nodes: [{name: one, address: %q}, {name: two, address: %q}]
    proxy_protocol: none
    checks: [{type: mqtt, accepted: true}]
    check: {interval: 250ms, timeout: 2s}
placement: {park: 0s, epsilon: 10} # what a broker keeps for a user who is away is on that one: users must not overflow
tls:
  certificates: [{cert_file: %q, key_file: %q}]
timeouts: {shutdown: 5s}
limits: {login_backoff: {window: 1h, user_and_source: {free: 3, first: 1h, max: 1h}}}
admin: {address: %q}
log: {format: json}
`

// startBrokers runs both and the front.
func startBrokers(t *testing.T) *brokers {
	t.Helper()
	mosquitto := mosquittoPath(t)
	dir := t.TempDir()
	passwords := brokerPasswords(t, dir)
	base := freeBasePort(t)
	m := &brokers{t: t, admin: net.JoinHostPort("127.0.0.1", strconv.Itoa(base+2))}
	for i, name := range []string{"one", "two"} {
		text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\npassword_file %s\npersistence false\nlog_dest stderr\nlog_type all\n", base+i, passwords)
		if os.Geteuid() == 0 {
			text += "user root\n" // who may read what belongs to the test
		}
		b := &broker{name: name, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(base+i))}
		b.process = start(t, "mosquitto "+name, mosquitto, []string{"-c", document(t, dir, name+".conf", text)})
		b.awaitLine("running")
		m.all = append(m.all, b)
	}
	cert, key, config := selfSigned(t, dir)
	m.ca, m.client = cert, &tls.Config{RootCAs: config.RootCAs, ServerName: endedName, MinVersion: tls.VersionTLS12}
	text := fmt.Sprintf(mqttDocument, m.all[0].addr, m.all[1].addr, cert, key, m.admin)
	m.process = start(t, "imlb proxy", program(t), []string{"proxy", "--config", document(t, dir, "front.yaml", text)})
	awaitReadyz(t, m.process, m.admin)
	m.awaitFit(2)
	_, body, err := get(within(t, patience), m.admin, "/status")
	if err == nil {
		m.addrs, err = listenerAddrs(body)
	}
	if err != nil || len(m.addrs) != 4 {
		t.Fatalf("listeners %v, %v", m.addrs, err)
	}
	return m
}

// mosquittoPath finds the broker, which Debian has where only root looks.
func mosquittoPath(t *testing.T) string {
	t.Helper()
	need.Command(t, "mosquitto_sub")
	if path := "/usr/sbin/mosquitto"; exists(path) {
		return path
	}
	return need.Command(t, "mosquitto")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// brokerPasswords makes the file of the users that both brokers know.
func brokerPasswords(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	for i := range mqttUsers {
		fmt.Fprintf(&text, "%s:pw-%s\n", mqttUser(i), mqttUser(i))
	}
	fmt.Fprintf(&text, "%s:pw-%s\n", guessed, guessed)
	file := document(t, dir, "passwords", text.String())
	if out, code := runs(t, "", need.Command(t, "mosquitto_passwd"), []string{"-U", file}); code != 0 {
		t.Fatalf("mosquitto_passwd: exit code %d\n%s", code, out)
	}
	return file
}

func mqttUser(i int) string { return fmt.Sprintf("user%02d", i) }

// awaitFit waits until so many brokers have passed their checks, and no more, and until
// users are placed by that. Without any, all are tried.
func (m *brokers) awaitFit(n int) {
	m.t.Helper()
	awaitStatus(m.t, m.admin, fmt.Sprint(n, " fit brokers"), func(s frontStatus) bool {
		p, fit := s.pool("brokers"), 0
		for _, standing := range p.standings() {
			if standing == "fit" {
				fit++
			}
		}
		return fit == n && (n == 0 || p.Fit == n && !p.Panic)
	})
}

// device is a client of mosquitto's, or what a test says in its place.
type device struct {
	id       string // a client identifier of MQTT 3.1 has 23 characters at most
	user     string // "" for none
	password string // that of the user when empty
	version  string
	listener string // mqtt or mqtts; an address of a broker is taken as it is
}

// secret is the password that the device shows.
func (d device) secret() string {
	if d.password != "" {
		return d.password
	}
	return "pw-" + d.user
}

// args are what mosquitto_pub and mosquitto_sub are told of a device.
func (m *brokers) args(d device, more ...string) []string {
	addr := m.addrs[d.listener]
	if addr == "" {
		addr = d.listener
	}
	host, port, _ := net.SplitHostPort(addr)
	args := []string{"-h", host, "-p", port, "-i", d.id, "-V", d.version}
	if d.user != "" {
		args = append(args, "-u", d.user, "-P", d.secret())
	}
	if d.listener == "mqtts" {
		args = append(args, "--cafile", m.ca, "--tls-alpn", "mqtt")
	}
	return append(args, more...)
}

// publish runs mosquitto_pub.
func (m *brokers) publish(t *testing.T, d device, more ...string) {
	t.Helper()
	if out, code := runs(t, "", need.Command(t, "mosquitto_pub"), m.args(d, more...)); code != 0 {
		t.Fatalf("mosquitto_pub %v: exit code %d\n%s", m.args(d, more...), code, out)
	}
}

// subscribe runs mosquitto_sub until a broker has its subscription.
func (m *brokers) subscribe(t *testing.T, d device, more ...string) *process {
	t.Helper()
	p := start(t, "mosquitto_sub "+d.id, need.Command(t, "mosquitto_sub"), m.args(d, more...))
	m.awaitLog(t, "Sending SUBACK to "+d.id)
	return p
}

// awaitLog waits for a line of either broker's, and returns whose it is.
func (m *brokers) awaitLog(t *testing.T, part string) *broker {
	t.Helper()
	var found *broker
	eventually(t, "a broker to log "+part, func(context.Context) (bool, string) {
		found = m.logged(part)
		return found != nil, "none did"
	})
	return found
}

// logged returns the broker that has logged this last; nil if neither has.
func (m *brokers) logged(part string) (found *broker) {
	last := ""
	for _, b := range m.all {
		all, _, _ := b.out.from(0)
		for _, line := range all {
			if strings.Contains(line, part) && line >= last { // they begin with the time
				found, last = b, line
			}
		}
	}
	return found
}

// home is the broker that a device was let in by.
func (m *brokers) home(t *testing.T, id string) *broker {
	t.Helper()
	return m.awaitLog(t, " as "+id+" (")
}

// TestMQTT: real clients and brokers, which notice nothing of the front.
func TestMQTT(t *testing.T) {
	t.Parallel()
	m := startBrokers(t)
	a, b := m.users(t)
	// None of these shares a user, a client identifier or a topic with another.
	t.Run("at once", func(t *testing.T) {
		for name, run := range map[string]func(*testing.T){
			"meet":          func(t *testing.T) { m.testMeet(t, a[0], b[0]) },
			"large":         func(t *testing.T) { m.testLarge(t, a[1]) },
			"retained":      func(t *testing.T) { m.testRetained(t, a[2], b[2]) },
			"will":          func(t *testing.T) { m.testWill(t, a[3]) },
			"alive":         func(t *testing.T) { m.testAlive(t, a[4]) },
			"refused login": m.testRefusedLogin,
			"guessed login": m.testGuessedLogin,
			"client id":     m.testClientID,
			"stored":        func(t *testing.T) { m.testStored(t, a[1]) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t)
			})
		}
	})
	t.Run("a broker dies", func(t *testing.T) { m.testBrokerDies(t, a, b) })
	t.Run("no broker", m.testNoBroker)
}

// users sorts all users by their brokers. Each of both has a fair share of them.
func (m *brokers) users(t *testing.T) (a, b []string) {
	t.Helper()
	var wait sync.WaitGroup
	for i := range mqttUsers {
		wait.Go(func() {
			m.publish(t, device{id: "first-" + mqttUser(i), user: mqttUser(i), version: "mqttv311", listener: "mqtt"}, "-t", "x", "-n")
		})
	}
	wait.Wait()
	for i := range mqttUsers {
		if m.home(t, "first-"+mqttUser(i)) == m.all[0] {
			a = append(a, mqttUser(i))
		} else {
			b = append(b, mqttUser(i))
		}
	}
	if len(a) < mqttUsers/4 || len(b) < mqttUsers/4 {
		t.Fatalf("%d and %d users on the brokers, want about half on each", len(a), len(b))
	}
	return a, b
}

// testMeet: what one device of a user publishes comes to all others, whatever version
// and transport they have, and to nobody who lives on the other broker.
func (m *brokers) testMeet(t *testing.T, user, stranger string) {
	var subs []*process
	for _, listener := range []string{"mqtt", "mqtts"} {
		for _, version := range mqttVersions {
			subs = append(subs, m.subscribe(t, device{id: "m-" + listener + version, user: user, version: version, listener: listener}, "-t", "meet/#", "-q", "1"))
		}
	}
	var raws []*packets
	for _, listener := range []string{"ws", "wss"} {
		p := m.connect(t, device{id: "m-" + listener, user: user, version: "mqttv5", listener: listener}, packetWill{})
		p.subscribe("meet/#")
		raws = append(raws, p)
	}
	apart := m.subscribe(t, device{id: "m-apart", user: stranger, version: "mqttv5", listener: "mqtts"}, "-t", "meet/#")
	n := 0
	for _, listener := range []string{"mqtt", "mqtts"} {
		for _, version := range mqttVersions {
			n++
			m.publish(t, device{id: "p-" + listener + version, user: user, version: version, listener: listener}, "-t", "meet/all", "-q", "1", "-m", fmt.Sprint("message ", n))
		}
	}
	for _, p := range raws {
		for i := range n {
			p.wantMessage("meet/all", fmt.Sprint("message ", i+1))
		}
	}
	raws[0].publish("meet/all", "from the web")
	for _, p := range subs {
		p.awaitLine("from the web")
		if got := p.out.text(); strings.Count(got, "message ") != n {
			t.Errorf("%s received %q, want %d messages", p.name, got, n)
		}
	}
	m.publish(t, device{id: "p-apart", user: stranger, version: "mqttv311", listener: "mqtt"}, "-t", "meet/all", "-m", "from a stranger")
	apart.awaitLine("from a stranger")
	if got := apart.out.text(); got != "from a stranger" {
		t.Errorf("a user of the other broker received %q", got)
	}
}

// testLarge: messages of some 100 KB arrive whole and once, with QoS 2.
func (m *brokers) testLarge(t *testing.T, user string) {
	dir := t.TempDir()
	for i, version := range mqttVersions {
		var subs []*process
		for _, listener := range []string{"mqtt", "mqtts"} {
			d := device{id: fmt.Sprint("l-", listener, i), user: user, version: version, listener: listener}
			subs = append(subs, m.subscribe(t, d, "-t", "large/"+version, "-q", "2"))
		}
		var want []string
		for n := range 4 {
			payload := strings.Repeat(rand.Text(), 4000+3000*n) // 26 bytes, so 100 to 340 KB
			file := document(t, dir, fmt.Sprint(version, n), payload)
			listener := []string{"mqtt", "mqtts"}[n%2]
			m.publish(t, device{id: fmt.Sprint("lp-", i, n), user: user, version: version, listener: listener}, "-t", "large/"+version, "-q", "2", "-f", file)
			want = append(want, payload)
		}
		m.publish(t, device{id: fmt.Sprint("lp-", i, "end"), user: user, version: version, listener: "mqtt"}, "-t", "large/"+version, "-q", "2", "-m", "the end")
		for _, p := range subs {
			p.awaitLine("the end")
			if got, _, _ := p.out.from(0); !slices.Equal(got, append(slices.Clone(want), "the end")) {
				t.Errorf("%s %s: %d messages came, not those that were sent, or not as they were", version, p.name, len(got))
			}
		}
	}
}

// testRetained: a retained message waits for the user's devices, on the user's broker.
func (m *brokers) testRetained(t *testing.T, user, stranger string) {
	for i, version := range mqttVersions {
		topic := "kept/" + version
		m.publish(t, device{id: fmt.Sprint("k-", i), user: user, version: version, listener: "mqtts"}, "-t", topic, "-r", "-q", "1", "-m", "kept")
		m.subscribe(t, device{id: fmt.Sprint("ks-", i), user: user, version: version, listener: "mqtt"}, "-t", topic, "-C", "1").awaitLine("kept")
		apart := m.subscribe(t, device{id: fmt.Sprint("ka-", i), user: stranger, version: version, listener: "mqtt"}, "-t", topic)
		m.publish(t, device{id: fmt.Sprint("kp-", i), user: stranger, version: version, listener: "mqtt"}, "-t", topic, "-m", "another")
		apart.awaitLine("another")
		if got := apart.out.text(); got != "another" {
			t.Errorf("%s: a user of the other broker received %q", version, got)
		}
	}
}

// testStored: what comes while a device with a session is away waits for it, since it
// comes back to the same broker.
func (m *brokers) testStored(t *testing.T, user string) {
	d := device{id: "s-away", user: user, version: "mqttv311", listener: "mqtt"}
	away := m.subscribe(t, d, "-t", "stored", "-q", "1", "-c")
	away.signal(syscall.SIGTERM)
	away.awaitExit()
	m.publish(t, device{id: "s-pub", user: user, version: "mqttv5", listener: "mqtts"}, "-t", "stored", "-q", "1", "-m", "meanwhile")
	d.listener = "mqtts"
	back := start(t, "mosquitto_sub, back", need.Command(t, "mosquitto_sub"), m.args(d, "-t", "stored", "-q", "1", "-c", "-C", "1"))
	back.awaitLine("meanwhile")
}

// testWill: the will is published when the client's connection breaks, and not when
// the client says good-bye, as on a direct connection.
func (m *brokers) testWill(t *testing.T, user string) {
	watcher := m.subscribe(t, device{id: "w-watch", user: user, version: "mqttv5", listener: "mqtt"}, "-t", "will/#", "-v")
	direct := m.home(t, "w-watch").addr
	for i, listener := range []string{direct, "mqtt", "mqtts", "ws", "wss"} {
		for _, version := range []string{"mqttv311", "mqttv5"} {
			how := fmt.Sprint(version, "-", i)
			polite := m.connect(t, device{id: "wp-" + how, user: user, version: version, listener: listener}, packetWill{"will/polite", how})
			polite.disconnect()
			broken := m.connect(t, device{id: "wb-" + how, user: user, version: version, listener: listener}, packetWill{"will/broken", how})
			broken.reset()
			watcher.awaitLine("will/broken " + how)
			long := how + strings.Repeat(" long", 12_000) // which comes before the user name
			m.connect(t, device{id: "wl-" + how, user: user, version: version, listener: listener}, packetWill{"will/long", long}).reset()
			watcher.awaitLine("will/long " + how)
		}
	}
	m.publish(t, device{id: "w-end", user: user, version: "mqttv5", listener: "mqtt"}, "-t", "will/end", "-m", "x")
	watcher.awaitLine("will/end")
	if got := watcher.out.text(); strings.Contains(got, "will/polite") {
		t.Errorf("wills of those who said good-bye were published:\n%s", got)
	}
}

// testAlive: a client that has nothing to say but pings stays.
func (m *brokers) testAlive(t *testing.T, user string) {
	var subs []*process
	for i, version := range mqttVersions {
		d := device{id: fmt.Sprint("a-", i), user: user, version: version, listener: []string{"mqtt", "mqtts"}[i%2]}
		subs = append(subs, m.subscribe(t, d, "-t", "alive", "-k", "5"))
	}
	for i := range subs {
		m.awaitLog(t, fmt.Sprint("Sending PINGRESP to a-", i)) // after 5 s; without it the broker would end the connection after 7.5
	}
	m.publish(t, device{id: "a-pub", user: user, version: "mqttv311", listener: "mqtt"}, "-t", "alive", "-m", "still here")
	for i, p := range subs {
		p.awaitLine("still here")
		if n := strings.Count(m.all[0].out.text()+m.all[1].out.text(), fmt.Sprint(" as a-", i, " (")); n != 1 {
			t.Errorf("client %d has connected %d times", i, n)
		}
	}
	for _, listener := range []string{"ws", "wss"} {
		p := m.connect(t, device{id: "a-" + listener, user: user, version: "mqttv311", listener: listener}, packetWill{})
		p.ping()
	}
}

// testRefusedLogin: a client with a wrong password is told so by the broker, in the
// words of its version.
func (m *brokers) testRefusedLogin(t *testing.T) {
	for _, version := range mqttVersions {
		d := device{id: "r-" + version, user: "stranger-" + version, password: "wrong", version: version, listener: m.all[0].addr}
		want, code := runs(t, "", need.Command(t, "mosquitto_pub"), m.args(d, "-t", "x", "-n"))
		if code == 0 || !strings.Contains(strings.ToLower(want), "not authori") {
			t.Fatalf("%s: the broker itself answered %q, exit code %d", version, want, code)
		}
		for _, listener := range []string{"mqtt", "mqtts"} {
			d.listener = listener
			if got, gotCode := runs(t, "", need.Command(t, "mosquitto_pub"), m.args(d, "-t", "x", "-n")); got != want || gotCode != code {
				t.Errorf("%s on %s: %q, exit code %d; without the front %q, %d", version, listener, got, gotCode, want, code)
			}
		}
	}
}

// testClientID: a client without a user is known by its identifier. When it connects
// again, the broker ends the connection that it had, which only works on one.
func (m *brokers) testClientID(t *testing.T) {
	homes := make(map[*broker]int)
	for i := range 12 {
		id := fmt.Sprintf("nobody-%02d", i)
		first := m.connect(t, device{id: id, version: "mqttv311", listener: "mqtt"}, packetWill{})
		homes[m.home(t, id)]++
		second := m.connect(t, device{id: id, version: "mqttv311", listener: []string{"mqtts", "ws", "wss", "mqtt"}[i%4]}, packetWill{})
		first.wantEnd()
		second.ping()
	}
	if len(homes) != len(m.all) {
		t.Errorf("%d clients without a user are all on one broker", 12)
	}
}

// testBrokerDies: the clients of a broker that is killed lose their connections, and
// when they come back they are served by the other.
func (m *brokers) testBrokerDies(t *testing.T, a, b []string) {
	var lost, kept []*packets
	for i, listener := range []string{"mqtt", "mqtts", "ws", "wss"} {
		lost = append(lost, m.connect(t, device{id: "d-lost-" + listener, user: a[i], version: "mqttv5", listener: listener}, packetWill{}))
		kept = append(kept, m.connect(t, device{id: "d-kept-" + listener, user: b[i], version: "mqttv311", listener: listener}, packetWill{}))
	}
	sub := m.subscribe(t, device{id: "d-sub", user: a[5], version: "mqttv311", listener: "mqtts"}, "-t", "dies") // connects again by itself
	dead, living := m.home(t, "d-sub"), m.all[1]
	if dead != m.all[0] {
		t.Fatalf("%s is on %s, and was on %s", a[5], dead.name, m.all[0].name)
	}
	dead.signal(syscall.SIGKILL)
	for _, p := range lost {
		p.wantEnd()
	}
	m.awaitFit(1)
	eventually(t, "the lost client on the other broker", func(context.Context) (bool, string) {
		return strings.Contains(living.out.text(), "Sending SUBACK to d-sub"), living.name
	})
	m.publish(t, device{id: "d-pub", user: a[5], version: "mqttv5", listener: "mqtt"}, "-t", "dies", "-m", "here again")
	sub.awaitLine("here again")
	for i, listener := range []string{"mqtt", "mqtts", "ws", "wss"} {
		m.connect(t, device{id: "d-back-" + listener, user: a[i], version: "mqttv5", listener: listener}, packetWill{}).ping()
		if home := m.home(t, "d-back-"+listener); home != living {
			t.Errorf("%s: the client that came back is on %s, not on %s", listener, home.name, living.name)
		}
		kept[i].ping()
	}
}

// testNoBroker: without any broker clients are told that the server is not available,
// 3 in the older versions and 0x88 in MQTT 5.
func (m *brokers) testNoBroker(t *testing.T) {
	for _, b := range m.all {
		select {
		case <-b.done:
		default:
			b.signal(syscall.SIGKILL)
			<-b.done
		}
	}
	wants := map[string]string{"mqttv31": mqttUnavailable, "mqttv311": mqttUnavailable, "mqttv5": "\x20\x03\x00\x88\x00"}
	check := func(when string) {
		for version, want := range wants {
			for _, listener := range []string{"mqtt", "mqtts", "ws", "wss"} {
				p := m.dial(t, device{id: "n", user: mqttUser(1), version: version, listener: listener})
				p.write(connectPacket(device{id: "n", user: mqttUser(1), version: version}, packetWill{}))
				if err := expect(p.conn, want); err != nil {
					t.Errorf("%s: %s on %s: %v", when, version, listener, err)
				}
				p.wantEnd()
			}
			d := device{id: "n", user: mqttUser(1), version: version, listener: "mqtt"}
			if out, code := runs(t, "", need.Command(t, "mosquitto_pub"), m.args(d, "-t", "x", "-n")); code == 0 || !strings.Contains(strings.ToLower(out), "unavailable") {
				t.Errorf("%s: mosquitto_pub %s: %q, exit code %d", when, version, out, code)
			}
		}
	}
	check("before the front knows")
	m.awaitFit(0)
	check("when the front knows")
}

// packets is a client of MQTT that says exactly what a test tells it to.
type packets struct {
	t    *testing.T
	conn net.Conn
	tcp  *net.TCPConn // below everything
	five bool         // MQTT 5
}

// packetWill is what a broker says when a client is gone; nothing without a topic.
type packetWill struct{ topic, payload string }

// dial opens a connection of a device.
func (m *brokers) dial(t *testing.T, d device) *packets {
	t.Helper()
	ctx := within(t, patience)
	p := &packets{t: t, five: d.version == "mqttv5"}
	addr := m.addrs[d.listener]
	if addr == "" {
		addr = d.listener
	}
	connect := func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if tcp, ok := conn.(*net.TCPConn); ok {
			p.tcp = tcp
		}
		return conn, err
	}
	var err error
	switch d.listener {
	case "ws", "wss":
		p.conn, err = m.webSocket(ctx, d.listener, connect)
	case "mqtts":
		if p.conn, err = connect(ctx, "tcp", addr); err == nil {
			p.conn = tls.Client(p.conn, m.client)
		}
	default:
		p.conn, err = connect(ctx, "tcp", addr)
	}
	if err != nil {
		t.Fatalf("dial %s: %v", d.listener, err)
	}
	_ = p.conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = p.tcp.Close() })
	return p
}

// connect logs a device in.
func (m *brokers) connect(t *testing.T, d device, will packetWill) *packets {
	t.Helper()
	p := m.dial(t, d)
	p.write(connectPacket(d, will))
	if kind, body := p.read(); kind != 0x20 || body[1] != 0 {
		t.Fatalf("%s: want an accepting CONNACK, got %#x %x", d.id, kind, body)
	}
	return p
}

// packet puts a fixed header before a body (MQTT 3.1.1 §2.2).
func packet(kind byte, body string) string {
	return string(binary.AppendUvarint([]byte{kind}, uint64(len(body)))) + body
}

// field is a string with its length.
func field(s string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

// connectPacket is a CONNECT with a clean session (MQTT 3.1.1 §3.1, 5 §3.1).
func connectPacket(d device, will packetWill) string {
	name, level, properties := "MQTT", byte(4), ""
	switch d.version {
	case "mqttv31":
		name, level = "MQIsdp", 3
	case "mqttv5":
		level, properties = 5, "\x00"
	}
	flags, payload := byte(2), field(d.id)
	if will.topic != "" {
		flags |= 4
		payload += properties + field(will.topic) + field(will.payload)
	}
	if d.user != "" {
		flags |= 0xc0
		payload += field(d.user) + field(d.secret())
	}
	return packet(0x10, field(name)+string([]byte{level, flags, 0, 60})+properties+payload)
}

func (p *packets) write(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// read returns the next packet.
func (p *packets) read() (kind byte, body []byte) {
	p.t.Helper()
	var one [1]byte
	next := func() byte {
		if _, err := io.ReadFull(p.conn, one[:]); err != nil {
			p.t.Fatalf("read a packet: %v", err)
		}
		return one[0]
	}
	kind = next()
	length, shift := 0, 0
	for more := true; more; shift += 7 {
		b := next()
		length |= int(b&0x7f) << shift
		more = b >= 0x80
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(p.conn, body); err != nil {
		p.t.Fatalf("read a packet: %v", err)
	}
	return kind, body
}

// subscribe waits for the SUBACK, with QoS 0.
func (p *packets) subscribe(topic string) {
	p.t.Helper()
	p.write(packet(0x82, "\x00\x01"+p.properties()+field(topic)+"\x00"))
	if kind, body := p.read(); kind != 0x90 {
		p.t.Fatalf("want a SUBACK, got %#x %x", kind, body)
	}
}

func (p *packets) publish(topic, payload string) {
	p.t.Helper()
	p.write(packet(0x30, field(topic)+p.properties()+payload))
}

// properties are none, which only MQTT 5 says.
func (p *packets) properties() string {
	if p.five {
		return "\x00"
	}
	return ""
}

func (p *packets) wantMessage(topic, payload string) {
	p.t.Helper()
	kind, body := p.read()
	if want := field(topic) + p.properties() + payload; kind>>4 != 3 || string(body) != want {
		p.t.Fatalf("want a PUBLISH of %q, got %#x %q", want, kind, body)
	}
}

func (p *packets) ping() {
	p.t.Helper()
	p.write("\xc0\x00")
	if kind, body := p.read(); kind != 0xd0 {
		p.t.Fatalf("want a PINGRESP, got %#x %x", kind, body)
	}
}

// disconnect says good-bye and waits for the end.
func (p *packets) disconnect() {
	p.t.Helper()
	p.write(mqttDisconnect)
	p.wantEnd()
}

// wantEnd reads to the end of the connection, however that comes.
func (p *packets) wantEnd() {
	p.t.Helper()
	if _, err := io.Copy(io.Discard, p.conn); isTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
		p.t.Fatalf("the connection has not ended: %v", err)
	}
}

// reset breaks the connection, below TLS and WebSocket.
func (p *packets) reset() {
	p.t.Helper()
	if err := errors.Join(p.tcp.SetLinger(0), p.tcp.Close()); err != nil {
		p.t.Fatal(err)
	}
}

// webSocket opens one that carries MQTT, through a connection of connect's.
func (m *brokers) webSocket(ctx context.Context, scheme string, connect func(context.Context, string, string) (net.Conn, error)) (net.Conn, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: connect, TLSClientConfig: m.client, DisableKeepAlives: true}}
	ws, resp, err := websocket.Dial(ctx, scheme+"://"+m.addrs[scheme]+"/mqtt", &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"mqtt"}})
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	return websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), nil
}
