package test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imlb/backend/chatload"
)

// TestBenchChat puts the load client's loads on a whole cluster, shortly: nothing is
// lost, doubled or out of order, between nodes neither.
func TestBenchChat(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 8, args: []string{"--nodes", "2"}})
	pids := []string{strconv.Itoa(d.Front.PID)}
	for _, n := range d.Nodes {
		pids = append(pids, strconv.Itoa(n.PID))
	}
	bench := func(t *testing.T, args ...string) *chatload.Result {
		t.Helper()
		args = append([]string{
			"bench", "chat", "--domain", d.Domain, "--ca", d.CA, "--format", "json", "--users", "8",
			"--user-format", "user%02d", "--password-format", "pw-user%02d", "--pid", strings.Join(pids, ","),
			"--warmup", "100ms", "--duration", "500ms", "--settle", "100ms",
		}, args...)
		if !slices.Contains(args, "--server") {
			args = append(args, "--server", d.Front.XMPP)
		}
		text, code := runs(t, "", program(t), args)
		var r chatload.Result
		if err := json.Unmarshal([]byte(text), &r); err != nil || code != 0 {
			t.Fatalf("imlb %s ended with %d: %v\n%s", strings.Join(args, " "), code, err, text)
		}
		if !r.OK() || r.CPU == nil || r.CPU.Server <= 0 || r.CPU.Client <= 0 {
			t.Errorf("%s", text)
		}
		return &r
	}
	for _, args := range [][]string{{"--rate", "200"}, {"--peers", "random", "--window", "2"}} {
		if r := bench(t, args...); !r.Managed || r.Messages.Sent < 20 || r.Messages.Delivered != r.Messages.Sent || r.Latency == nil {
			t.Errorf("%v: %+v", args, r.Messages)
		}
	}
	for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN"} {
		r := bench(t, "--workload", "logins", "--mechanism", mechanism, "--connecting", "2", "--duration", "1s", "--resume")
		if r.Mechanism != mechanism || r.Logins.Done == 0 || r.Logins.Resumed == 0 {
			t.Errorf("%s: %+v", mechanism, r.Logins)
		}
	}
	if r := bench(t, "--workload", "idle", "--sessions", "40", "--tls", "direct", "--server", d.Front.XMPPS); r.Sessions != 40 || r.Memory == nil || r.Memory.Before <= 0 {
		t.Errorf("%+v", r)
	}
	if r := bench(t, "--workload", "archive", "--preload", "200", "--queries", "20"); r.Archive.Filled != 200 || r.Archive.Entries != 20*50 {
		t.Errorf("%+v", r.Archive)
	}
}
