package bosh_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/proxy/bosh"
)

// model is a client that keeps the rules, on a network that does not: requests come in any
// order, connections break before or after an answer was written to them.
type model struct {
	t    *rapid.T
	s    *bosh.Session
	now  time.Time
	acks bool

	next    int                      // the rid of the request that the client makes next
	low     int                      // the lowest rid whose answer it has not received
	raw     map[int]string           // its requests from low on
	under   map[*bosh.Request]int    // those that the server has and the client waits for
	waiting map[int]bool             // rids that are under way, or have to be sent again
	got     map[int]string           // answers that came before their turn
	written map[*bosh.Request]string // answers that are under way
	said    int                      // what the client has said so far
	heard   int                      // and the server
	spoke   int                      // what the server has said so far
	knows   int                      // and the client
}

// A window of requests in any order, of which some are lost: nothing that is said is lost, comes
// twice or in another order, and nothing counts as received that was not.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t}
		m.begin()
		t.Repeat(map[string]func(*rapid.T){
			"ask":     m.ask,
			"deliver": m.deliver,
			"break":   m.cut,
			"arrive":  m.arrive,
			"lose":    m.lose,
			"take":    m.take,
			"speak":   m.speak,
			"wait":    m.wait,
			"":        m.check,
		})
	})
}

func (m *model) begin() {
	*m = model{
		t: m.t, now: time.Unix(1000, 0), acks: rapid.Bool().Draw(m.t, "acks"), next: 101, low: 101,
		raw: make(map[int]string), under: make(map[*bosh.Request]int), waiting: make(map[int]bool), got: make(map[int]string),
		written: make(map[*bosh.Request]string),
	}
	attrs := ""
	if m.acks {
		attrs = "ack='1'"
	}
	r, err := bosh.Parse([]byte("<body "+ns+" rid='100' to='example.com' "+attrs+"/>"), 0)
	if err != nil {
		m.t.Fatal(err)
	}
	if m.s, err = bosh.New(m.now, "S", r, bosh.Limits{}); err != nil {
		m.t.Fatal(err)
	}
	m.s.Next(m.now)
	m.s.Send([]byte("<f/>"))
	m.s.Flush(m.now)
	if len(m.s.Answers()) != 1 {
		m.t.Fatal("no session")
	}
}

// ask makes a request, if there may be one more.
func (m *model) ask(t *rapid.T) {
	if m.next-m.low >= m.s.Requests() {
		t.Skip()
	}
	payload := ""
	least := 0
	if !m.acks && m.next > m.low {
		least = 1 // it has a request under way, on which something may come as well
	}
	for range rapid.IntRange(least, 2).Draw(t, "payloads") {
		payload += fmt.Sprintf("<c n='%d'/>", m.said)
		m.said++
	}
	ack := ""
	if m.acks && m.low != m.next {
		ack = fmt.Sprintf("ack='%d'", m.low-1)
	}
	m.raw[m.next] = fmt.Sprintf("<body %s sid='S' rid='%d' %s>%s</body>", ns, m.next, ack, payload)
	m.waiting[m.next] = true
	m.next++
}

// deliver has a request reach the server, that is new or has to be sent again.
func (m *model) deliver(t *rapid.T) {
	rids := m.rids()
	if len(rids) == 0 {
		t.Skip()
	}
	rid := rapid.SampledFrom(rids).Draw(t, "rid")
	delete(m.waiting, rid)
	r, err := bosh.Parse([]byte(m.raw[rid]), 0)
	if err != nil {
		t.Fatal(err)
	}
	m.under[r] = rid
	m.s.Receive(m.now, r)
	m.collect()
}

func (m *model) rids() []int {
	var all []int
	for rid := range m.waiting {
		all = append(all, rid)
	}
	slices.Sort(all)
	return all
}

// open are the requests of which the server has not answered some, or all others.
func (m *model) open(answered bool) []*bosh.Request {
	var all []*bosh.Request
	for r := range m.under {
		if _, ok := m.written[r]; ok == answered {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *bosh.Request) int { return m.under[a] - m.under[b] })
	return all
}

func (m *model) some(t *rapid.T, answered bool) *bosh.Request {
	all := m.open(answered)
	if len(all) == 0 {
		t.Skip()
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(t, "request")]
}

// cut breaks the connection of a request that waits for its answer.
func (m *model) cut(t *rapid.T) {
	r := m.some(t, false)
	m.s.Gone(m.now, r)
	m.waiting[m.under[r]] = true
	delete(m.under, r)
	m.collect()
}

// lose breaks one whose answer is under way.
func (m *model) lose(t *rapid.T) {
	r := m.some(t, true)
	m.waiting[m.under[r]] = true
	delete(m.under, r)
	delete(m.written, r)
}

// arrive has the client receive an answer.
func (m *model) arrive(t *rapid.T) {
	r := m.some(t, true)
	m.got[m.under[r]] = m.written[r]
	delete(m.written, r)
	delete(m.under, r)
	for {
		answer, ok := m.got[m.low]
		if !ok {
			return
		}
		delete(m.got, m.low)
		delete(m.raw, m.low)
		m.low++
		for strings.Contains(answer, "<s n='") {
			want := fmt.Sprintf("<s n='%d'/>", m.knows)
			_, rest, ok := strings.Cut(answer, want)
			if !ok {
				t.Fatalf("the client is told %s and not %s", answer, want)
			}
			answer = rest
			m.knows++
		}
	}
}

// take has the server take one thing that was said.
func (m *model) take(t *rapid.T) {
	e, ok := m.s.Next(m.now)
	if !ok {
		t.Skip()
	}
	want := fmt.Sprintf("<c n='%d'/>", m.heard)
	if string(e.Raw) != want {
		t.Fatalf("took %+v %s, want %s", e, e.Raw, want)
	}
	m.heard++
	m.collect()
}

func (m *model) speak(t *rapid.T) {
	for range rapid.IntRange(1, 3).Draw(t, "elements") {
		m.s.Send(fmt.Appendf(nil, "<s n='%d'/>", m.spoke))
		m.spoke++
	}
	m.s.Flush(m.now)
	m.collect()
}

func (m *model) wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
	for by := m.s.Deadline(); !by.IsZero() && !m.now.Before(by); by = m.s.Deadline() {
		if m.s.Tick(m.now); m.s.Inactive() {
			m.begin()
			return
		}
	}
	m.collect()
}

func (m *model) collect() {
	for _, a := range m.s.Answers() {
		if strings.Contains(string(a.Body), "terminate") || strings.Contains(string(a.Body), "error") {
			m.t.Fatalf("%d is answered %s", m.under[a.To], a.Body)
		}
		m.written[a.To] = string(a.Body)
	}
}

func (m *model) check(t *rapid.T) {
	if got := m.s.Received() - 1; got > m.knows { // one were the features
		t.Fatalf("%d elements count as received, and %d are", got, m.knows)
	}
}
