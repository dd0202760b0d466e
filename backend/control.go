package backend

import (
	"bytes"
	"encoding/json"
	"log/slog"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// control is a word among nodes about a user's sessions: the data of a bus signal of
// that kind. One of its fields is set, but for those that belong to another.
type control struct {
	Conflict string        `json:"conflict,omitempty"` // the session with this ID has been replaced
	Ended    string        `json:"ended,omitempty"`    // that was done, and is known to whoever saw it
	Yield    string        `json:"yield,omitempty"`    // the session with this ID is resumed elsewhere
	Epoch    uint64        `json:"epoch,omitempty"`    // with Yield: at this epoch; 0: a node of an earlier version wants it
	Count    *uint32       `json:"count,omitempty"`    // with Yield: the client has counted so many; nil: it has been resumed, or that is not known
	Kept     string        `json:"kept,omitempty"`     // the session with this ID is not left to a client that has that Count
	Roster   *rosterChange `json:"roster,omitempty"`   // an item of the user's roster has changed
	Withdraw string        `json:"withdraw,omitempty"` // this user may no longer see the presence
	Sent     *sentCopy     `json:"sent,omitempty"`     // one of the user's clients has sent this
	Blocks   *blockChange  `json:"blocks,omitempty"`   // the user's blocklist has changed
	Lost     *lostMessage  `json:"lost,omitempty"`     // a message to the user may have reached nobody
	Shown    *shown        `json:"shown,omitempty"`    // presence that not all of the user's resources see
	Look     bool          `json:"look,omitempty"`     // the store may have more of the user than was signalled
	Account  bool          `json:"account,omitempty"`  // an administrator has changed the account
	Kick     *kick         `json:"kick,omitempty"`     // an administrator ends sessions
}

// rosterChange is what a roster push says.
type rosterChange struct {
	Contact      string             `json:"contact"`
	Subscription store.Subscription `json:"subscription"`
	Version      uint64             `json:"version"`
	Removed      bool               `json:"removed,omitempty"`
	Push         string             `json:"push,omitempty"` // the <item/>; empty: clients do not see the change
}

func (n *Node) publishControl(user string, c control) {
	data, err := encodeJSON(c)
	if err != nil {
		n.opts.Logger.Error("encode a control signal", slog.Any("error", err))
		return
	}
	n.publish(bus.Signal{Kind: bus.Control, User: user, Data: data})
}

// encodeJSON is json.Marshal, but leaves what XML is made of as it is: what is made for web
// pages makes a stanza, and a long list, too long for a signal.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// control does what another node, or this one, asks for.
func (h *hub) control(sig bus.Signal) {
	var c control
	if err := json.Unmarshal(sig.Data, &c); err != nil {
		h.node.metrics.dropped.WithLabelValues("decode").Inc()
		return
	}
	switch {
	case c.Conflict != "":
		h.node.endFor(sig.User, c.Conflict)
	case c.Ended != "":
		h.node.hasEnded(c.Ended)
	case c.Yield != "":
		h.node.yieldSession(c.Yield, c.Epoch, c.Count)
	case c.Kept != "":
		h.node.yieldRefused(c.Kept, c.Count)
	case c.Roster != nil:
		h.pushRoster(*c.Roster)
	case c.Withdraw != "":
		h.withdraw(c.Withdraw)
	case c.Sent != nil:
		h.copySent(*c.Sent)
	case c.Blocks != nil:
		h.changeBlocks(*c.Blocks)
	case c.Lost != nil:
		h.lost(*c.Lost)
	case c.Shown != nil:
		h.receive("", c.Shown.Presence, c.Shown.Hidden)
	case c.Look:
		h.look()
	case c.Account:
		h.node.standing.look()
	case c.Kick != nil:
		h.kick(*c.Kick)
	}
}

// look makes the sessions look into the store, and the hub for changes of the roster and the blocklist.
func (h *hub) look() {
	h.node.missed.compare([]*hub{h})
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		s.out.miss()
	}
}

// withdraw shows a user who may no longer see them all sessions as unavailable.
func (h *hub) withdraw(user string) {
	blocks := h.blocklist()
	if blocks.matchesUser(user) {
		return // it was shown that already
	}
	for _, from := range h.available() {
		h.node.showUser(user, unavailablePresence(from), blocks)
	}
}

// available are the addresses of the sessions that are.
func (h *hub) available() []xmpp.JID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []xmpp.JID
	for _, s := range h.sessions {
		if s.presence != nil {
			all = append(all, s.jid)
		}
	}
	return all
}
