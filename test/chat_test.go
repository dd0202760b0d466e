package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"imlb/test/need"
)

// python is Debian's interpreter, to which Debian's slixmpp belongs.
const python = "/usr/bin/python3"

// needSlixmpp skips the test when there is no such library.
func needSlixmpp(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/usr/lib/python3/dist-packages/slixmpp/__init__.py"); err != nil {
		need.Missing(t, "python3-slixmpp")
	}
}

// event is what happened to a client.
type event struct {
	Client    string            `json:"client"`
	Event     string            `json:"event"`
	JID       string            `json:"jid,omitempty"`
	Mechanism string            `json:"mechanism,omitempty"`
	From      string            `json:"from,omitempty"`
	To        string            `json:"to,omitempty"`
	Type      string            `json:"type,omitempty"`
	ID        string            `json:"id,omitempty"`
	Body      string            `json:"body,omitempty"`
	Condition string            `json:"condition,omitempty"`
	Reason    string            `json:"reason,omitempty"`
	Cmd       string            `json:"cmd,omitempty"`
	What      string            `json:"what,omitempty"`
	StanzaIDs []string          `json:"stanza_ids,omitempty"`
	LastChild string            `json:"last_child,omitempty"`
	Delay     string            `json:"delay,omitempty"`
	Count     int               `json:"count,omitempty"`
	Items     map[string]string `json:"items,omitempty"`
}

// events is the history of one client, in order. Each kind of event is read on
// its own: who waits for "online" loses no message that came before it.
type events struct {
	t    *testing.T
	name string

	mu   sync.Mutex
	all  []event
	read map[string]int // by kind: up to here in all a test has looked
	more chan struct{}  // closed and replaced with every event
}

func newEvents(t *testing.T, name string) *events {
	t.Helper()
	return &events{t: t, name: name, read: make(map[string]int), more: make(chan struct{})}
}

func (e *events) add(ev event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
	close(e.more)
	e.more = make(chan struct{})
}

// next returns the next event of a kind that has not been looked at; or a
// channel to wait on when there is none.
func (e *events) next(kind string) (event, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := e.read[kind]; i < len(e.all); i++ {
		if e.all[i].Event == kind {
			e.read[kind] = i + 1
			return e.all[i], nil
		}
	}
	e.read[kind] = len(e.all)
	return event{}, e.more
}

// history returns all events of a kind so far.
func (e *events) history(kind string) []event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []event
	for _, ev := range e.all {
		if ev.Event == kind {
			found = append(found, ev)
		}
	}
	return found
}

// await reads on until an event of the kind that satisfies match (nil: any),
// and returns it. An "error" event meanwhile fails the test.
func (e *events) await(kind string, match func(event) bool) event {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		ev, more := e.next(kind)
		if more == nil && (match == nil || match(ev)) {
			return ev
		}
		if more == nil {
			continue
		}
		if failed, none := e.next("error"); none == nil {
			e.t.Fatalf("%s: %+v", e.name, failed)
		}
		select {
		case <-ctx.Done():
			e.t.Fatalf("%s: no %q within %v; all that happened:\n%s", e.name, kind, patience, e)
		case <-more:
		}
	}
}

// awaitBody waits for a message with this body.
func (e *events) awaitBody(body string) event {
	e.t.Helper()
	return e.await("message", func(m event) bool { return m.Body == body })
}

// String shows the history, shortened.
func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for i, ev := range e.all {
		if len(e.all) > 60 && i == 20 {
			fmt.Fprintf(&b, "… %d more …\n", len(e.all)-60)
		}
		if len(e.all) > 60 && i >= 20 && i < len(e.all)-40 {
			continue
		}
		line, _ := json.Marshal(ev) //nolint:errchkjson // A struct of strings.
		fmt.Fprintf(&b, "  %.300s\n", line)
	}
	return b.String()
}

// chat is a process full of slixmpp clients (clients/chat.py).
type chat struct {
	*process
	t *testing.T

	writing sync.Mutex // one command at a time on standard input

	mu      sync.Mutex
	clients map[string]*events
}

// startChat starts the process; it has no clients yet.
func startChat(t *testing.T) *chat {
	t.Helper()
	needSlixmpp(t)
	c := &chat{t: t, clients: make(map[string]*events)}
	c.process = start(t, "chat.py", python, []string{"-u", "clients/chat.py"})
	c.awaitLine(`"hello"`)
	dispatched := make(chan struct{})
	go func() {
		defer close(dispatched)
		c.dispatch()
	}()
	t.Cleanup(func() {
		_ = c.stdin.Close()
		c.awaitExit()
		<-dispatched
	})
	return c
}

// dispatch sorts the events to the clients until the process ends.
func (c *chat) dispatch() {
	for n := 0; ; {
		got, ended, more := c.out.from(n)
		n += len(got)
		for _, line := range got {
			var ev event
			if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &ev) == nil {
				c.events(ev.Client).add(ev)
			}
		}
		if ended && len(got) == 0 {
			return
		}
		if !ended {
			<-more
		}
	}
}

func (c *chat) events(name string) *events {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.clients[name]
	if e == nil {
		e = newEvents(c.t, name)
		c.clients[name] = e
	}
	return e
}

// client is one user's application in a chat process.
type client struct {
	*events
	chat *chat
	t    *testing.T
}

// client names a client; several may be of one user.
func (c *chat) client(name string) *client {
	return &client{events: c.events(name), chat: c, t: c.t}
}

// do sends a command.
func (c *client) do(cmd string, fields map[string]any) {
	c.t.Helper()
	line := map[string]any{"client": c.name, "cmd": cmd}
	for k, v := range fields {
		line[k] = v
	}
	data, err := json.Marshal(line)
	if err != nil {
		c.t.Fatal(err)
	}
	c.chat.writing.Lock()
	defer c.chat.writing.Unlock()
	if _, err := c.chat.stdin.Write(append(data, '\n')); err != nil {
		c.t.Fatalf("%s: command %s: %v", c.name, cmd, err)
	}
}

// login is how a client connects; the zero value is STARTTLS with the
// mechanism that the library likes best, without stream management.
type login struct {
	mechanism string
	direct    bool // direct TLS
	sm        bool // XEP-0198
	silent    bool // no initial presence
	priority  int
	password  string // instead of the account's
}

// start begins a login.
func (c *client) start(d *dev, a account, l login) {
	c.t.Helper()
	addr := d.Front.XMPP
	if l.direct {
		addr = d.Front.XMPPS
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		c.t.Fatal(err)
	}
	if l.password == "" {
		l.password = a.password
	}
	c.do("login", map[string]any{
		"jid": a.jid, "password": l.password, "host": host, "port": number, "ca": d.CA,
		"mechanism": l.mechanism, "direct": l.direct, "sm": l.sm, "silent": l.silent, "priority": l.priority,
	})
}

// login logs in and waits until the client is online.
func (c *client) login(d *dev, a account, l login) event {
	c.t.Helper()
	c.start(d, a, l)
	return c.await("online", nil)
}

func (c *client) send(to, body string) {
	c.t.Helper()
	c.do("send", map[string]any{"to": to, "body": body})
}

// logout ends the stream in good order.
func (c *client) logout() {
	c.t.Helper()
	c.do("logout", nil)
	c.await("offline", nil)
}

// bodies lists what the messages said.
func bodies(messages []event) []string {
	said := make([]string, 0, len(messages))
	for _, m := range messages {
		said = append(said, m.Body)
	}
	return said
}
