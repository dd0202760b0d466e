package backend

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

const latestLimit = 64 << 10

// tally is a counter.
type tally int

func (t *tally) Inc() { *t++ }

// says is presence of a resource.
func says(from, what string) item {
	return item{kind: itemStanza, status: true, data: fmt.Appendf(nil, "<presence from='%s' to='bob@example.com'>%s</presence>", from, what)}
}

// fill has so much wait in an outbox that it looks at presence.
func fill(o *outbox) {
	o.push(item{kind: itemStanza, data: []byte("<iq/>" + strings.Repeat(" ", o.limit/statusShare))})
}

// whatWaits is all that an outbox has, but for what fills it.
func whatWaits(o *outbox) (all []string) {
	for _, it := range o.take().items {
		if !it.isVoid() && !strings.HasPrefix(string(it.data), "<iq/>") {
			all = append(all, string(it.data))
		}
	}
	return all
}

// Who changes its presence in a loop takes no more room than who does it once, while the session has its client and
// while it waits for it.
func TestPresenceInALoop(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*outbox){
		"slow":   func(*outbox) {},
		"parked": func(o *outbox) { o.close(nil, true); o.take() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOutbox(latestLimit, new(tally))
			leave(o)
			for i := range 10_000 {
				if !o.push(says("alice@example.com/phone", fmt.Sprint("<status>", i, "</status>"))) {
					t.Fatalf("presence %d is lost", i)
				}
			}
			if _, all := o.rest(); !all || len(o.items) > latestLimit/statusShare/itemOverhead+2 {
				t.Errorf("%d items wait, all: %v", len(o.items), all)
			}
			if all := whatWaits(o); !strings.Contains(all[len(all)-1], "<status>9999<") {
				t.Errorf("the last is %s", all[len(all)-1])
			}
		})
	}
}

// What a resource has said between two presences comes before the second one (RFC 6120 §10.1), and so does all that
// others have said.
func TestPresenceOvertakesNothing(t *testing.T) {
	t.Parallel()
	o := newOutbox(latestLimit, new(tally))
	fill(o)
	o.push(says("alice@example.com/phone", "1"))
	o.push(says("alice@example.com/tab", "2"))
	o.push(item{kind: itemStanza, data: []byte("<message from='alice@example.com/phone'/>")})
	o.push(item{kind: itemEntry, seq: 7})
	o.push(item{kind: itemStanza, data: []byte("<presence from='alice@example.com' type='unsubscribed'/>")})
	gone := says("alice@example.com/phone", "3")
	gone.data = []byte(strings.Replace(string(gone.data), "<presence", "<presence type='unavailable'", 1))
	o.push(gone)
	var got []string
	for _, it := range o.take().items[1:] {
		switch {
		case it.kind == itemEntry:
			got = append(got, "entry")
		case !it.isVoid():
			got = append(got, string(it.data))
		}
		if strings.Contains(string(it.data), "'unavailable'") && it.after != 7 {
			t.Errorf("it comes after entry %d, want 7", it.after)
		}
	}
	want := []string{
		string(says("alice@example.com/tab", "2").data), "<message from='alice@example.com/phone'/>", "entry",
		"<presence from='alice@example.com' type='unsubscribed'/>", string(gone.data),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// An update leaves out the capabilities that went with the presence whose place it takes (XEP-0115 §8.4).
func TestPresenceKeepsCapabilities(t *testing.T) {
	t.Parallel()
	const caps = "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:x' ver='AAAA'/>"
	for name, before := range map[string]func(*outbox){"before": func(*outbox) {}, "after": fill} {
		o := newOutbox(latestLimit, new(tally))
		before(o)
		o.push(says("alice@example.com/phone", caps))
		fill(o)
		o.push(says("alice@example.com/phone", "<show>away</show>"))
		want := []string{string(says("alice@example.com/phone", "<show>away</show>"+caps).data)}
		if got := whatWaits(o); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// What the resources of one user say does not take the room of what others say, and is counted.
func TestPresenceOfManyResources(t *testing.T) {
	t.Parallel()
	unseen := new(tally)
	o := newOutbox(latestLimit, unseen)
	fill(o)
	for i := range 10_000 {
		if !o.push(says(fmt.Sprint("alice@example.com/", i), "")) {
			t.Fatalf("presence of resource %d ends the session", i)
		}
	}
	o.push(says("carol@example.com/pad", ""))
	if got := whatWaits(o); len(got) > latestLimit/statusShare/itemOverhead || !strings.Contains(got[len(got)-1], "carol") {
		t.Errorf("%d wait, the last is %s", len(got), got[len(got)-1])
	} else if int(*unseen)+len(got) != 10_001 {
		t.Errorf("%d wait, %d are counted as unseen", len(got), *unseen)
	}
}

// Whatever comes: of each resource the last is there, in the order in which they came, and nothing else is lost.
func TestLatestAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		o := newOutbox(latestLimit, new(tally))
		fill(o)
		var model []item
		for i := range 300 {
			it := item{kind: itemStanza, data: fmt.Appendf(nil, "<message id='%d'/>", i)}
			if r.IntN(10) > 0 {
				from := fmt.Sprintf("user-%d@example.com/%d", r.IntN(5), r.IntN(3))
				it = says(from, fmt.Sprint(i))
				model = slices.DeleteFunc(model, func(other item) bool { return strings.Contains(string(other.data), "from='"+from+"'") })
			}
			model = append(model, it)
			if r.IntN(50) == 0 {
				first := item{kind: itemStanza, data: []byte("<iq/>")}
				o.prepend([]item{first})
			}
			o.push(it)
		}
		var got, want []string
		for _, it := range model {
			want = append(want, string(it.data))
		}
		bytes := 0
		for _, it := range o.items {
			if !it.isVoid() && string(it.data) != "<iq/>" { // which takes no room
				bytes += o.cost(it)
			}
		}
		if bytes != o.bytes {
			t.Errorf("seed %d: %d bytes are counted, %d are there", seed, o.bytes, bytes)
		}
		if got = whatWaits(o); !slices.Equal(got, want) {
			t.Fatalf("seed %d: got\n\t%s\nwant\n\t%s", seed, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
}
