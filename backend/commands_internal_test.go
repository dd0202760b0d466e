package backend

import (
	"strings"
	"testing"
	"time"
)

// A command does not wait for ever (XEP-0050 §3.3), and what has expired makes room.
func TestCommandExpires(t *testing.T) {
	c := findCommand("http://jabber.org/protocol/admin#add-user")
	old := &commandRun{id: "old", command: c, expires: time.Now()}
	s := &session{runs: []*commandRun{old}}
	if _, err := s.findRun("old", c); err == nil || !strings.Contains(err.Error(), "not-allowed") {
		t.Errorf("got %v", err)
	}
	if e, ok := asStanzaError(commandError("not-allowed", "session-expired")); !ok || !strings.Contains(e.App, "<session-expired xmlns='http://jabber.org/protocol/commands'/>") {
		t.Errorf("got %+v", e)
	}
	if _, err := s.findRun("old", c); err == nil || !strings.Contains(err.Error(), "bad-request") {
		t.Errorf("the second time: %v", err)
	}
	s.runs = []*commandRun{old, {id: "young", command: c, expires: time.Now().Add(time.Hour)}}
	s.keepRun(&commandRun{id: "new", command: c, expires: time.Now().Add(time.Hour)})
	if len(s.runs) != 2 || s.runs[0].id != "young" {
		t.Errorf("%d runs are kept", len(s.runs))
	}
}

// Every command has a node, a name and a way to be found.
func TestCommandNodes(t *testing.T) {
	for _, c := range commands {
		if findCommand(c.node) != c || c.name == "" || c.do == nil {
			t.Errorf("%+v", c)
		}
	}
}
