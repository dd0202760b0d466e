package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"imlb/test/need"
)

// TestRestart: a cluster that starts again on the data of an earlier run has its
// users and their messages.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const count = 10
	d := startDev(t, devOptions{dir: dir, names: []string{"alice", "bob"}})
	alice, bob := d.account(t), d.account(t)
	s := d.dialTLS(t)
	s.session(d.Domain, "SCRAM-SHA-256", alice)
	for i := range count {
		s.write("<message to='%s' type='chat' id='k%d'><body>kept %d</body></message>", bob.jid, i, i)
	}
	s.sync(d)
	s.close()
	ca, err := os.ReadFile(d.CA)
	if err != nil {
		t.Fatal(err)
	}
	d.stop()

	// No --user: the accounts are there.
	d = startDev(t, devOptions{dir: dir})
	again, err := os.ReadFile(d.CA)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(ca) {
		t.Error("the second run has another CA: clients would have to be told anew")
	}
	wantOffline(t, d, bob, "kept", count)
	wantNothingStored(t, d, bob)
	d.stop()

	d = startDev(t, devOptions{dir: dir, args: []string{"--user", "bob:another"}})
	s = d.dialTLS(t)
	s.open(d.Domain)
	wantFailure(t, s.plain(bob, bob.password), "not-authorized")
	bob.password = "another"
	wantNothingStored(t, d, bob)
}

// TestDevAlone: without flags but the port, the cluster has the three accounts
// that it prints, in a directory that does not outlive it.
func TestDevAlone(t *testing.T) {
	t.Parallel()
	base := freeBasePort(t)
	p := start(t, "imlb dev", program(t), []string{"dev", "--base-port", fmt.Sprint(base)}, withEnv("TMPDIR="+t.TempDir()))
	d := &dev{process: p, t: t, base: base, killed: map[string]bool{}}
	ca := regexp.MustCompile(`(/\S+)/ca\.pem`)
	line, err := p.out.wait(within(t, 2*patience), ca.MatchString)
	if err != nil {
		t.Fatalf("no line names the CA: %v\n%s", err, p.out.text())
	}
	d.dir = ca.FindStringSubmatch(line)[1]
	d.awaitReady()
	for _, name := range []string{"alice", "bob", "carol"} {
		account := account{name: name, jid: name + "@localhost"}
		fields := strings.Fields(p.awaitLine(account.jid + " "))
		account.password = fields[len(fields)-1]
		s := d.dialTLS(t)
		s.session(d.Domain, "SCRAM-SHA-256", account)
		s.close()
	}
	pasteLine(t, d)
	d.stop()
	if _, err := os.Stat(d.dir); !os.IsNotExist(err) {
		t.Errorf("the temporary directory %s is still there: %v", d.dir, err)
	}
}

// pasteLine runs the line that the cluster prints for a person to paste, and
// looks for the message.
func pasteLine(t *testing.T, d *dev) {
	t.Helper()
	need.Command(t, "go-sendxmpp")
	line := strings.TrimSpace(d.awaitLine("go-sendxmpp -u "))
	if out, code := runs(t, "", "bash", []string{"-c", line}); code != 0 {
		t.Fatalf("%s\nended with %d:\n%s", line, code, out)
	}
	words := strings.Fields(line)
	receiver := account{jid: words[len(words)-1]}
	receiver.name, _, _ = strings.Cut(receiver.jid, "@")
	fields := strings.Fields(d.awaitLine("  " + receiver.jid + " "))
	receiver.password = fields[len(fields)-1]
	s := d.dialTLS(t)
	s.session(d.Domain, "SCRAM-SHA-256", receiver)
	s.write("<presence/>")
	if got := strings.TrimSpace(s.message().body()); got != "hello" {
		t.Errorf("%s received %q, want hello", receiver.jid, got)
	}
	s.close()
}

// TestCtrlC: a terminal sends SIGINT to all that is in the foreground. Clients
// are told, and nothing is left.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 1})
	s := presentClient(t, d)
	if err := syscall.Kill(-d.pid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.wantShutdown()
	if code := d.awaitExit(); code != 0 {
		t.Errorf("exit code %d after Ctrl-C", code)
	}
	d.checkGone()
}

// TestStopTogether: when a machine goes down, the front and its nodes stop at
// the same time. A client is told once.
func TestStopTogether(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 1})
	s := presentClient(t, d)
	pids := []int{d.Front.PID}
	for _, n := range d.Nodes {
		pids = append(pids, n.PID)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	s.wantShutdown()
	if code := d.awaitExit(); code == 0 {
		t.Error("a cluster whose front has ended says that all is well")
	}
	d.checkGone()
}

// presentClient is a client that has logged in and is available.
func presentClient(t *testing.T, d *dev) *stream {
	t.Helper()
	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", d.account(t))
	s.write("<presence/>")
	s.sync(d)
	return s
}

// wantShutdown reads up to the stream error system-shutdown, and the end.
func (s *stream) wantShutdown() {
	s.t.Helper()
	e := s.readUntil("a stream error", func(e element) bool { return e.is(nsStreams, "error") })
	if e.child(nsStream, "system-shutdown").XMLName.Local == "" {
		s.t.Errorf("a client was told %+v, want system-shutdown", e)
	}
	s.wantEnd()
}

// TestDevKilled: the children do not outlive a parent that had no time to stop
// them.
func TestDevKilled(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 1})
	d.signal(syscall.SIGKILL)
	d.awaitExit()
	d.checkGone()
}

// TestDevErrors: what stands in the way is said, and said before anything runs.
func TestDevErrors(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 1})
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"port in use", []string{"--base-port", fmt.Sprint(d.base)}, "in use"},
		{"no password", []string{"--user", "alice"}, "NAME:PASSWORD"},
		{"a name that is none", []string{"--user", "a b:secret"}, "a b"},
		{"unknown flag", []string{"--bse-port", "1"}, "--bse-port"},
		{"unknown database", []string{"--database", "oracle://x", "--base-port", fmt.Sprint(freeBasePort(t))}, "oracle"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"dev", "--data", filepath.Join(t.TempDir(), "data")}, tt.args...)
			out, code := runs(t, "", program(t), args)
			if code == 0 || !strings.Contains(out, tt.want) || strings.Contains(out, "goroutine ") {
				t.Errorf("exit code %d, printed %q; want an error that says %q", code, out, tt.want)
			}
		})
	}
}
