package test

import (
	"context"
	"fmt"
	"testing"
)

// testMetrics: what a session does is counted by the front and by its node.
func testMetrics(t *testing.T, d *dev) {
	alice, bob := d.account(t), d.account(t)
	counters := []struct {
		name   string
		labels []string
	}{
		{"imlb_proxy_sessions_ended_total", []string{`listener="xmpps"`, `reason="client-closed"`}},
		{"imlb_proxy_auth_total", []string{`mechanism="SCRAM-SHA-256"`}},
		{"imlb_proxy_stanzas_total", []string{`direction="in"`, `kind="message"`}},
		{"imlb_proxy_stanzas_total", []string{`direction="out"`, `kind="message"`}},
		{"imlb_proxy_bytes_total", []string{`direction="in"`}},
		{"imlb_proxy_dial_seconds_count", nil},
	}
	read := func() (values []float64) {
		for _, c := range counters {
			values = append(values, metric(t, d.Front.Admin, c.name, c.labels...))
		}
		return values
	}
	appended := func() (sum float64) {
		for name, addr := range d.admins() {
			if name != "front" {
				sum += metric(t, addr, "imlb_node_appends_total")
			}
		}
		return sum
	}
	before, stored := read(), appended()
	s := d.dialTLS(t)
	jid := s.session(d.Domain, "SCRAM-SHA-256", alice)
	s.write("<presence/><message to='%s' type='chat'><body>to myself</body></message>", jid)
	s.message()
	s.write("<message to='%s' type='chat'><body>to bob</body></message>", bob.jid)
	s.sync(d)
	if got := metric(t, d.Front.Admin, "imlb_proxy_sessions_active"); got < 1 {
		t.Errorf("imlb_proxy_sessions_active is %v while a session is logged in", got)
	}
	s.close()
	eventually(t, "the counters of one session", func(context.Context) (bool, string) {
		after := read()
		for i, c := range counters {
			if after[i] <= before[i] {
				return false, fmt.Sprintf("%s%v: %v, was %v", c.name, c.labels, after[i], before[i])
			}
		}
		return true, ""
	})
	if now := appended(); now < stored+2 {
		t.Errorf("imlb_node_appends_total grew from %v to %v with two messages", stored, now)
	}
}
