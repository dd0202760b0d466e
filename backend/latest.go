package backend

import (
	"slices"
	"strings"

	"imlb/backend/xmpp"
)

// latest is where presence waits in an outbox. Of each resource only the last counts, and takes the place of those
// before it, so that nobody ends the session of a slow client by changing it in a loop. It exists while much
// waits.
type latest struct {
	places map[spoken]int // among the items
	taken  map[string]int // bytes, by user
	void   int            // items that say nothing any more
}

// spoken is what presence has in common of which only the last counts. What a resource says to all and what it says to
// this client alone are two things.
type spoken struct{ from, to string }

// statusShare is the part of an outbox from which on this is looked at, and the one that presence of
// the resources of one user may take then. Those that are too many are not seen.
const statusShare = 8

// pushStatus is push for presence while much waits; under outbox.mu. It comes after all that waits: what its sender has
// said between what it takes the place of and this is not overtaken.
func (o *outbox) pushStatus(it item) bool {
	header, err := xmpp.ParseHeader(it.data)
	if err != nil {
		return o.add(it)
	}
	if o.latest == nil {
		o.findLatest()
	}
	l, user, more := o.latest, bareOf(header.From), o.cost(it)
	if place, waits := l.places[spoken{header.From, header.To}]; waits {
		more -= o.cost(o.items[place])
	}
	if more > 0 && l.taken[user]+more > o.limit/statusShare {
		o.unseen.Inc()
		return true
	}
	it.data = o.supersede(header, it.data)
	place := len(o.items)
	ok := o.add(it)
	if len(o.items) > place {
		o.noteLatest(header, place)
	}
	if l.void > len(o.items)/2 {
		o.items = slices.DeleteFunc(o.items, item.isVoid)
		o.findLatest()
	}
	return ok
}

// isVoid tells whether an item has been removed.
func (it item) isVoid() bool { return it.kind == itemRaw && it.data == nil }

// findLatest looks for the presence that waits; under outbox.mu.
func (o *outbox) findLatest() {
	o.latest = &latest{places: make(map[spoken]int), taken: make(map[string]int)}
	for i := range o.items {
		if !o.items[i].status {
			continue
		}
		if header, err := xmpp.ParseHeader(o.items[i].data); err == nil {
			o.items[i].data = o.supersede(header, o.items[i].data)
			o.noteLatest(header, i)
		}
	}
}

// supersede removes the presence whose place another one takes. It returns that one with the capabilities that an
// update leaves out, since they were not written yet; under outbox.mu.
func (o *outbox) supersede(header xmpp.Header, presence []byte) []byte {
	l, key := o.latest, spoken{header.From, header.To}
	place, waits := l.places[key]
	if !waits {
		return presence
	}
	if header.Type == "" {
		presence = withCapsOf(o.items[place].data, presence)
	}
	cost := o.cost(o.items[place])
	o.bytes -= cost
	l.taken[bareOf(header.From)] -= cost
	l.void++
	o.items[place] = item{}
	delete(l.places, key)
	return presence
}

// noteLatest notes where presence waits; under outbox.mu.
func (o *outbox) noteLatest(header xmpp.Header, place int) {
	o.latest.places[spoken{header.From, header.To}] = place
	o.latest.taken[bareOf(header.From)] += o.cost(o.items[place])
}

// bareOf returns the user's part of an address.
func bareOf(address string) string {
	user, _, _ := strings.Cut(address, "/")
	return user
}
