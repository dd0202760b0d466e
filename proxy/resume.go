package proxy

import (
	"bytes"
	"strconv"
	"strings"

	"imlb/backend/xmpp"
)

const nsBind2 = "urn:xmpp:bind:0" // XEP-0386

// A resumption knows which entries the stanzas were that the client has not acknowledged, up to
// tailMost, and of the last tailLength in any case: the node stores what is acknowledged a moment later. Both
// divide 2^32, so that the ring goes on where the count begins again.
const (
	tailFirst  = 8
	tailLength = 64
	tailMost   = 4096
)

// tailBytes bounds the tail of a note, which is one field of a PROXY header among others (2.2 of its
// specification: 64 KiB in all).
const tailBytes = 56 << 10

// maxResumeID is how long the id of a session that can be resumed may be, in bytes.
const maxResumeID = 256

// resumption is what the next node of a session has to know that is resumed there
// (XEP-0198 §5) because its node was lost. The client says then how many stanzas it has
// handled; the front alone still knows which they were, because it wrote them. One that
// is nil belongs to a session that cannot be resumed.
type resumption struct {
	id    string
	count uint32 // of the stanzas written to the client, modulo 2^32 like the client's own
	kept  uint32 // of the last ones in tail
	tail  []told // a ring, whose length is a power of two
}

// wrote counts a stanza that is written to the client, which has acknowledged acked of them.
func (r *resumption) wrote(t told, acked uint32) {
	length, waiting := uint32(len(r.tail)), r.count-acked //nolint:gosec // G115: tailMost at most
	switch full := r.kept == length; {
	case length == 0:
		r.resize(tailFirst)
	case full && length < tailLength, full && waiting >= length && length < tailMost:
		r.resize(2 * length)
	case length > tailLength && waiting < length/4:
		r.resize(length / 2)
	}
	r.tail[r.count%uint32(len(r.tail))] = t //nolint:gosec // G115: as above
	r.count++
	r.kept = min(r.kept+1, uint32(len(r.tail))) //nolint:gosec // G115: as above
}

// resize gives the ring another length.
func (r *resumption) resize(length uint32) {
	tail := make([]told, length)
	r.kept = min(r.kept, length)
	for n := r.count - r.kept; n != r.count; n++ {
		tail[n%length] = r.told(n)
	}
	r.tail = tail
}

// told is what stanza n has told, counted from 0; it must be kept.
func (r *resumption) told(n uint32) told {
	return r.tail[n%uint32(len(r.tail))] //nolint:gosec // G115: tailMost at most
}

// append appends the fields of a settle: id, count, and what the last stanzas told, oldest first, as far as there is
// room.
func (r *resumption) append(dst []byte) []byte {
	dst = append(append(dst, 0), r.id...)
	dst = strconv.AppendUint(append(dst, 0), uint64(r.count), 10)
	dst = append(dst, 0)
	var scratch [32]byte
	first, room := r.count, tailBytes
	for oldest := r.count - r.kept; first != oldest; first-- {
		if room -= len(r.told(first-1).append(scratch[:0])) + len(","); room < 0 {
			break
		}
	}
	for n := first; n != r.count; n++ {
		if n != first {
			dst = append(dst, ',')
		}
		dst = r.told(n).append(dst)
	}
	return dst
}

// resume is what a client asks that wants to resume a session.
type resume struct {
	id string
	h  uint32 // stanzas that it has handled
}

// fitsNote tells whether the id of a session can be told to a node.
func fitsNote(id string) bool {
	return id != "" && len(id) <= maxResumeID && strings.IndexByte(id, 0) < 0
}

// readResume reads a <resume/>; nil for another element, and for one that makes no sense.
func readResume(e xmpp.Element) *resume {
	if !e.Is(xmpp.NSSM, "resume") {
		return nil
	}
	id, _ := e.Attr("previd")
	number, _ := e.Attr("h")
	h, err := strconv.ParseUint(number, 10, 32)
	if err != nil || !fitsNote(id) {
		return nil
	}
	return &resume{id: id, h: uint32(h)}
}

// readResumption reads a node's <enabled/> or <resumed/>, of which the latter answers
// asked. It is nil when the session cannot be resumed, and ok is false for another
// element.
func readResumption(e xmpp.Element, asked *resume) (r *resumption, ok bool) {
	switch {
	case e.Is(xmpp.NSSM, "enabled"):
		id, _ := e.Attr("id")
		if may, _ := e.Attr("resume"); may != "true" && may != "1" || !fitsNote(id) {
			return nil, true
		}
		return &resumption{id: id}, true
	case e.Is(xmpp.NSSM, "resumed"):
		if id, _ := e.Attr("previd"); asked == nil || asked.id != id {
			return nil, true
		}
		return &resumption{id: asked.id, count: asked.h}, true
	}
	return nil, false
}

// askedInline returns the <resume/> in an <authenticate/>, or nil if there is none.
func askedInline(c claim) *resume {
	e, err := xmpp.ParseElement(c.auth)
	if err != nil || !c.sasl2 {
		return nil
	}
	child, ok := e.Child(xmpp.NSSM, "resume")
	if !ok {
		return nil
	}
	return readResume(child)
}

// resumptionInline is that of the session which a <success/> of SASL2 brings: of one that
// was resumed (XEP-0198), or of one that can be, after its resource was bound (XEP-0386).
func resumptionInline(raw []byte, asked *resume) *resumption {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return nil
	}
	if resumed, ok := e.Child(xmpp.NSSM, "resumed"); ok {
		r, _ := readResumption(resumed, asked)
		return r
	}
	if bound, ok := e.Child(nsBind2, "bound"); ok {
		e = bound
	}
	enabled, ok := e.Child(xmpp.NSSM, "enabled")
	if !ok {
		return nil
	}
	r, _ := readResumption(enabled, nil)
	return r
}

// resumedInline tells whether a <success/> of SASL2 brings a session that was there before.
func resumedInline(raw []byte) bool {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return false
	}
	_, ok := e.Child(xmpp.NSSM, "resumed")
	return ok
}

// heard takes note of an element of the client's that is no stanza.
func (r *relay) heard(tok xmpp.Token) {
	if tok.Kind == xmpp.KindElement && acknowledges(tok.Raw) {
		if h, ok := readAck(tok.Raw); ok {
			r.acked.Store(h)
		}
		return
	}
	if e, ok := r.management(tok); ok {
		if asked := readResume(e); asked != nil {
			r.asked.Store(asked)
		}
	}
}

// readAck reads the count of an <a/>, as it is mostly written. Of one that is not, what it acknowledges is kept for longer.
func readAck(raw []byte) (h uint32, ok bool) {
	_, value, ok := bytes.Cut(raw, []byte(" h="))
	if !ok || len(value) == 0 {
		return 0, false
	}
	end := bytes.IndexByte(value[1:], value[0]) // the other quote
	if end < 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(value[1:1+end]), 10, 32)
	return uint32(n), err == nil
}

// said takes note of an element of the node's that is no stanza. A conflict says that the
// session is somewhere else by now (RFC 6120 §4.9.3.3), where it may count anew: what was
// written here would mislead whoever resumes it next.
func (r *relay) said(tok xmpp.Token) {
	if isStreamError(tok.Raw) {
		if e, ok := xmpp.ParseStreamError(tok.Raw); ok && e.Condition == xmpp.Conflict {
			r.resumes = nil
		}
		return
	}
	if e, ok := r.management(tok); ok {
		if next, ok := readResumption(e, r.asked.Load()); ok {
			r.resumes = next
			if next != nil {
				r.acked.Store(next.count) // the client acknowledges nothing before it has this
			}
		}
	}
}

// management returns a first-level element that may begin a session which can be resumed:
// mostly they are acknowledgements, which are not looked at.
func (r *relay) management(tok xmpp.Token) (xmpp.Element, bool) {
	if tok.Kind != xmpp.KindElement || acknowledges(tok.Raw) || !r.node.features.settles {
		return xmpp.Element{}, false
	}
	e, err := xmpp.ParseElement(tok.Raw)
	return e, err == nil
}

// acknowledges tells whether an element is an <r/> or <a/>, as they are mostly written.
func acknowledges(raw []byte) bool {
	return len(raw) > len("<r") && (raw[1] == 'r' || raw[1] == 'a') && endsName(raw[2])
}
