package test

import (
	"net"
	"strings"
	"testing"
)

// TestNodeDevices: two devices of one user, with the plugins of slixmpp for carbons, the
// archive and inactive clients.
func TestNodeDevices(t *testing.T) {
	needSlixmpp(t)
	d := startDev(t, devOptions{users: 2})
	alice, bob := d.account(t), d.account(t)
	host, port, err := net.SplitHostPort(d.Front.XMPP)
	if err != nil {
		t.Fatal(err)
	}
	out, code := runs(t, "", python, []string{
		"clients/devices.py", "-j", alice.jid, "-p", alice.password, "--peer", bob.jid,
		"--host", host, "--port", port, "--ca", d.CA,
	})
	if code != 0 || !strings.Contains(out, "ok") {
		t.Errorf("devices.py ended with %d:\n%s", code, out)
	}
}
