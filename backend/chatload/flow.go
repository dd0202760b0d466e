package chatload

import (
	"bytes"
	"strconv"

	"imlb/backend/xmpp"
)

// flow is the messages from one session to one other, numbered from 0. It has a sender's
// and a receiver's side, each for the goroutine that writes or reads there.
type flow struct {
	from, to int // sessions

	head []byte // of each message, up to its number
	sent uint32

	next    uint32              // the number that is expected
	missing map[uint32]struct{} // numbers before it that have not come
	lost    int                 // that were missing when there were too many to keep
}

// mostMissing is how many missing numbers a flow keeps.
const mostMissing = 1 << 16

// verdict is what the number of a message says.
type verdict int

const (
	inOrder   verdict = iota
	reordered         // later ones came before
	doubled           // it has come already
)

// received notes that a message came.
func (f *flow) received(n uint32) verdict {
	if n < f.next {
		if _, ok := f.missing[n]; !ok {
			return doubled
		}
		delete(f.missing, n)
		return reordered
	}
	for ; f.next < n; f.next++ {
		if f.missing == nil {
			f.missing = make(map[uint32]struct{})
		}
		if len(f.missing) >= mostMissing {
			f.lost += int(n - f.next)
			f.next = n
			break
		}
		f.missing[f.next] = struct{}{}
	}
	f.next++
	return inOrder
}

// absent returns how many messages were sent and did not come. It is for when both
// sides are at rest.
func (f *flow) absent() int {
	return f.lost + len(f.missing) + int(f.sent) - int(min(f.next, f.sent))
}

// minSize is what a body needs to say what it has to.
const minSize = 64

const (
	bodyStart = "<body>"
	bodyEnd   = "</body></message>"
	marker    = "imlb-bench"
)

// stamp is what a message's body says.
type stamp struct {
	flow uint32
	n    uint32
	due  int64 // since the beginning of the run
}

// appendMessage appends the next message of a flow:
//
//	<message type='chat' to='…' id='RUN-FLOW-N'><body>imlb-bench RUN FLOW N DUE xxx…</body></message>
func (f *flow) appendMessage(dst []byte, run string, number int, due int64, size int) []byte {
	n := f.sent
	f.sent++
	dst = append(dst, f.head...)
	dst = strconv.AppendUint(dst, uint64(n), 10)
	dst = append(dst, "'>"+bodyStart...)
	body := len(dst)
	dst = append(dst, marker+" "...)
	dst = append(dst, run...)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(number), 10)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, uint64(n), 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, due, 10)
	dst = append(dst, ' ')
	for len(dst)-body < size {
		dst = append(dst, padding[:min(len(padding), size-(len(dst)-body))]...)
	}
	return append(dst, bodyEnd...)
}

const padding = "The quick brown fox jumps over the lazy dog, as it has done in every test since there were telegraphs. "

// messageHead returns what stands before the number of a message.
func messageHead(run string, number int, to string) []byte {
	head := append([]byte("<message type='chat' to='"), xmpp.AppendEscaped(nil, to)...)
	return append(head, "' id='"+run+"-"+strconv.Itoa(number)+"-"...)
}

// readStamp reads what a message's body says. ok is false if it is none of this run's
// flows.
func readStamp(raw []byte, run string) (s stamp, ok bool) {
	text := bodyOf(raw)
	if text, ok = bytes.CutPrefix(text, []byte(marker+" ")); !ok {
		return s, false
	}
	if text, ok = bytes.CutPrefix(text, []byte(run)); !ok || len(text) == 0 {
		return s, false
	}
	var number, n, due uint64
	for _, field := range []*uint64{&number, &n, &due} {
		if text, *field, ok = cutNumber(text); !ok {
			return s, false
		}
	}
	return stamp{flow: uint32(number), n: uint32(n), due: int64(due)}, number <= 1<<31 && n < 1<<32 && due < 1<<63 //nolint:gosec // checked
}

// cutNumber takes a space and a number from the front of a text.
func cutNumber(text []byte) (rest []byte, n uint64, ok bool) {
	if len(text) < 2 || text[0] != ' ' || text[1] < '0' || text[1] > '9' {
		return text, 0, false
	}
	i := 1
	for ; i < len(text) && i < 20 && text[i] >= '0' && text[i] <= '9'; i++ {
		n = n*10 + uint64(text[i]-'0')
	}
	return text[i:], n, true
}

// bodyOf returns the text of a message's body. As a rule it is written as it was sent.
func bodyOf(raw []byte) []byte {
	if _, after, ok := bytes.Cut(raw, []byte(bodyStart)); ok {
		return after
	}
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return nil
	}
	for child := range e.Children() {
		if child.Local() == "body" {
			return []byte(child.Text())
		}
	}
	return nil
}
