package test

import (
	"net"
	"strings"
	"testing"
)

// TestScenes: two users on two nodes, with clients and plugins of slixmpp, do what people
// do beside writing messages. The scripts say what has to arrive.
func TestScenes(t *testing.T) {
	t.Parallel()
	needSlixmpp(t)
	d := startDev(t, devOptions{users: 40, args: []string{"--nodes", "2"}})
	for _, name := range []string{"writing", "personal", "about", "away"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alice, bob := apart(t, d)
			host, port, err := net.SplitHostPort(d.Front.XMPP)
			if err != nil {
				t.Fatal(err)
			}
			out, code := runs(t, "", python, []string{
				"clients/" + name + ".py", "-j", alice.jid, "-p", alice.password, "--peer", bob.jid, "--peer-password", bob.password,
				"--host", host, "--port", port, "--ca", d.CA,
			}, withEnv("PYTHONDONTWRITEBYTECODE=1"))
			if code != 0 || !strings.Contains("\n"+out, "\nok\n") {
				t.Errorf("%s.py ended with %d:\n%s", name, code, tail(out))
			}
		})
	}
}
