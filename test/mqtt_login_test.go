package test

import (
	"slices"
	"strings"
	"testing"

	"imlb/test/need"
)

// guessed is a user whose password is guessed, and who is no other test's.
const guessed = "guessed"

// testGuessedLogin: logins that the broker refuses put off the next ones of that user, right
// as they may be, until one succeeds. Others are not concerned.
func (m *brokers) testGuessedLogin(t *testing.T) {
	ways := []device{
		{version: "mqttv5", listener: "mqtts"}, {version: "mqttv311", listener: "mqtt"},
		{version: "mqttv5", listener: "ws"}, {version: "mqttv31", listener: "wss"},
	}
	for i, d := range slices.Concat(ways[:3], ways) {
		d.id, d.user, d.password = "guess", guessed, "wrong"
		p := m.dial(t, d)
		p.write(connectPacket(d, packetWill{}))
		if kind, body := p.read(); kind != 0x20 || !slices.Contains([]byte{4, 5, 0x86, 0x87}, body[1]) {
			t.Fatalf("guess %d: the answer is %#x %x", i, kind, body)
		}
		p.wantEnd()
		if i == 2 {
			m.publish(t, device{id: "guess", user: guessed, version: "mqttv311", listener: "mqtt"}, "-t", "guess", "-n")
		}
	}
	for version, want := range map[string]string{"mqttv5": "rate exceeded", "mqttv311": "unavailable"} {
		d := device{id: "guess", user: guessed, version: version, listener: "mqtt"}
		out, code := runs(t, "", need.Command(t, "mosquitto_pub"), m.args(d, "-t", "guess", "-n"))
		if code == 0 || !strings.Contains(out, want) {
			t.Errorf("%s: after guesses a login ends with exit code %d, %q; want %q", version, code, out, want)
		}
	}
	m.awaitLine("auth-backoff")
	m.publish(t, device{id: "guess", user: "", version: "mqttv5", listener: "mqtt"}, "-t", "guess", "-n")
}
