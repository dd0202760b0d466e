package backend_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"imlb/backend/store"
)

// The clients of TestResumeAtRandom.

// hearing is what a stanza has told a client; none has no text.
type hearing struct {
	text   string
	copied bool
}

func (h hearing) String() string {
	if h.copied {
		return "copy of " + h.text
	}
	return h.text
}

func hear(stanza string) hearing {
	return hearing{between(stanza, "<body>", "</body>"), strings.Contains(stanza, "<forwarded ")}
}

// textsOf are those of what was heard that have one.
func textsOf(all []hearing) (texts []string) {
	for _, h := range all {
		if h.text != "" {
			texts = append(texts, h.String())
		}
	}
	return texts
}

func isStanza(element string) bool {
	return strings.HasPrefix(element, "<message") || strings.HasPrefix(element, "<presence") || strings.HasPrefix(element, "<iq")
}

// resumer is a client that resumes its session, with what its front notes.
type resumer struct {
	*client
	id        string
	node      int
	resumed   int  // how often
	serves    bool // it takes what is for the user
	available bool

	counted []hearing // by the stanzas of connections that are over, of those that the client has counted
	before  int       // how many stanzas these are
	came    []hearing // by each stanza of this connection …
	tail    []string  // … of which the front has noted this
	acked   int       // of all
}

// count is how many stanzas the client has got.
func (r *resumer) count() int { return r.before + len(r.came) }

// reads takes what comes, until something matches.
func (r *resumer) reads(pattern string) {
	r.t.Helper()
	for re := regexp.MustCompile(pattern); ; {
		got := r.next()
		if isStanza(got) {
			r.came, r.tail = append(r.came, hear(got)), append(r.tail, markOf(got))
		}
		if re.MatchString(got) {
			return
		}
	}
}

func (r *resumer) acknowledge(h int) {
	r.t.Helper()
	r.acked = h
	r.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", h))
	r.asks()
}

// asks returns when the node has handled all that was written so far.
func (r *resumer) asks() {
	r.t.Helper()
	r.write(smAsk)
	r.reads("^<a ")
}

// connection is what fronts know the client's by.
func (r *resumer) connection() string { return fmt.Sprint("conn-", r.resumed+1) }

// has notes that the client has all it got on this connection, up to h stanzas.
func (r *resumer) has(h int) {
	r.counted = append(r.counted, r.came[:h-r.before]...)
	r.before, r.came, r.tail = h, nil, nil
}

// resumeOn has the client resume its session on another connection, with h stanzas.
func (r *resumer) resumeOn(node, h int) {
	r.t.Helper()
	r.has(h)
	r.resumed++
	jid := r.jid
	r.client, r.node, r.acked = r.c.returnsOn(node, leg{id: r.connection()}, "alice"), node, h
	r.jid = jid
	r.resume(r.id, h)
	r.expect("^<resumed ")
}

// settleOn has a front tell a node what it has written to the client, whose node is lost.
func (r *resumer) settleOn(node int) {
	r.t.Helper()
	tail := r.tail[max(0, min(len(r.tail)-64, r.acked-r.before)):]
	note := fmt.Sprintf("alice@example.com\x000\x00%s\x00%d\x00%s", r.id, r.count(), strings.Join(tail, ","))
	r.c.dial(node, leg{id: r.connection(), settle: note}).gone()
}

// visitor is another client of alice's.
type visitor struct {
	*client
	node    int
	stanzas int // since it has enabled XEP-0198
	texts   []string
}

// phoneActs has phone come, acknowledge what it has, lose its connection, or leave.
func (r *randomRun) phoneActs() {
	how := r.rand.IntN(3)
	switch {
	case r.phone == nil:
		r.phone = r.comes("phone", smEnable)
	case how == 0:
		r.looks(r.phone)
		r.phone.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", r.phone.stanzas))
		r.receive(r.phone)
	case how == 1:
		r.phone = r.lost(r.phone)
	default:
		r.phone = r.closed(r.phone)
	}
}

// padActs has pad, which does not count stanzas, come or leave.
func (r *randomRun) padActs() {
	if r.pad == nil {
		r.pad = r.comes("pad", "")
		return
	}
	r.looks(r.pad)
	r.receive(r.pad)
	r.pad = r.closed(r.pad)
}

// comes connects a visitor to tab's node, or any.
func (r *randomRun) comes(resource, enable string) *visitor {
	v := &visitor{node: r.anyNode()}
	if r.rand.IntN(2) == 0 {
		v.node = r.tab.node
	}
	r.note("%s comes to %d", resource, v.node)
	v.client = r.login(v.node, "alice", resource)
	if enable != "" {
		v.counts()
	}
	v.write("<presence/>")
	r.looks(v)
	return v
}

// looks returns when a visitor has what came to it so far.
func (r *randomRun) looks(v *visitor) {
	r.quiet()
	v.write("<iq type='get' id='looks' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>")
	for {
		got := v.next()
		if isStanza(got) {
			v.stanzas++
		}
		if h := hear(got); h.text != "" {
			v.texts = append(v.texts, h.text)
		}
		if strings.HasPrefix(got, "<iq type='result' id='looks'") {
			return
		}
	}
}

// receive notes that what a visitor has got is received.
func (r *randomRun) receive(v *visitor) {
	r.note("%s has %q", v.jid, v.texts)
	for _, text := range v.texts {
		r.elsewhere[text] = true
	}
	v.texts = nil
}

// lost has a visitor, if there is one, lose its connection.
func (r *randomRun) lost(v *visitor) *visitor {
	if v != nil {
		r.note("%s is lost", v.jid)
		_ = v.conn.Close()
		r.eventually("the visitor is gone", func() bool {
			return !slices.ContainsFunc(r.sessions("alice"), func(s store.Session) bool { return v.jid == "alice@example.com/"+s.Resource })
		})
		r.quiet()
	}
	return nil
}

// closed has a visitor, if there is one, end its stream.
func (r *randomRun) closed(v *visitor) *visitor {
	if v != nil {
		r.note("%s leaves", v.jid)
		v.close()
	}
	return nil
}

// leave has the visitors of a node leave it.
func (r *randomRun) leave(node int) {
	if r.phone != nil && r.phone.node == node {
		r.phone = r.lost(r.phone)
	}
	if r.pad != nil && r.pad.node == node {
		r.padActs()
	}
}
