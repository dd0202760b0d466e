package test

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// unnoticed is the time within which what a session has written, or what was acknowledged, may be known to its node alone:
// that of a point (a second), and what a busy machine adds.
const unnoticed = 1500 * time.Millisecond

// entry is a message on the timeline of a user.
type entry struct {
	*saying
	number uint64
}

// check holds what was heard, and what is stored, against what is promised:
//
//   - A message that was acknowledged is stored for its sender and its recipient, once, in the order in which it was said.
//     Another one is at most. At the end all are acknowledged but those on the way when a client logged out.
//   - It comes to each client that is available from before it is said on and stays so, or has got a later one, and to the one
//     whose address it has if the session is the same at the end; to at least one in any case, or as a copy, if the one that it was left
//     to has ended its session meanwhile; to nobody else.
//   - A client that gets copies gets one of what it does not get itself, and of what the user's other clients say.
//   - Each comes once; see mayRepeat for what may come again. The count of what has come fits, or no session could be resumed.
//   - What comes comes in stored order.
func (w *walk) check() {
	w.t.Helper()
	for own := range slices.Chunk(w.devices, len(walkResources)) {
		user := own[0].user
		received, sent := w.timeline(user)
		for _, d := range own {
			w.checkStored(d, sent)
			d.check(received, sent)
		}
		for _, e := range received {
			if !slices.ContainsFunc(own, func(d *walker) bool { return d.got(e.text) || d.gotCopy(e.text) }) {
				w.fault("%s is stored for %s as entry %d, and has not come to any client", e.text, user.name, e.number)
			}
		}
		for _, from := range w.devices {
			w.checkOrder("stored for "+user.name, said(w, from, user), acknowledged(w, from, user), textsBy(from, received))
		}
	}
}

// timeline returns what is stored for a user: what others have said, and what it has.
func (w *walk) timeline(user account) (received, sent []entry) {
	w.t.Helper()
	a, err := w.db.Account(w.t.Context(), user.jid)
	if err != nil {
		w.t.Fatal(err)
	}
	entries, err := w.db.Read(w.t.Context(), a.Owner, 0, 100_000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		_, text, _ := strings.Cut(string(e.Stanza), "<body>")
		text, _, _ = strings.Cut(text, "</body>")
		m := w.said[text]
		switch {
		case m == nil:
			w.fault("entry %d of %s is %s, which nobody said", e.Seq, user.name, e.Stanza)
		case e.Sent:
			sent = append(sent, entry{m, e.Seq})
		default:
			received = append(received, entry{m, e.Seq})
		}
	}
	return received, sent
}

// checkStored compares what a client has said with what is stored of that for its user.
func (w *walk) checkStored(d *walker, sent []entry) {
	for i := 0; i < len(w.devices); i += len(walkResources) {
		to := w.devices[i].user
		var stored []string
		for _, e := range sent {
			if e.by == d && e.to == to {
				stored = append(stored, e.text)
			}
		}
		w.checkOrder("stored of what "+d.name+" said to "+to.name, said(w, d, to), acknowledged(w, d, to), stored)
	}
}

func (w *walk) checkOrder(what string, sent, acked, received []string) {
	for _, v := range (history{sent, acked, received}).violations() {
		w.fault("%s: %s", what, v)
	}
}

// said returns what a client has said to a user, in order.
func said(w *walk, from *walker, to account) (texts []string) {
	for _, m := range w.said {
		if m.by == from && m.to == to {
			texts = append(texts, m.text)
		}
	}
	slices.SortFunc(texts, byNumber)
	return texts
}

// acknowledged returns those of them that were.
func acknowledged(w *walk, from *walker, to account) (texts []string) {
	for _, text := range said(w, from, to) {
		if w.said[text].acked {
			texts = append(texts, text)
		}
	}
	return texts
}

func textsBy(from *walker, entries []entry) (texts []string) {
	for _, e := range entries {
		if e.by == from {
			texts = append(texts, e.text)
		}
	}
	return texts
}

// got tells whether a message has come, not only a copy of it.
func (d *walker) got(text string) bool { return d.first(text, "") != nil }

// gotCopy tells whether a copy has come while the client was available.
func (d *walker) gotCopy(text string) bool {
	r := d.first(text, "received")
	return r != nil && r.period >= 0
}

// first is the first receipt of a message, or of a copy.
func (d *walker) first(text, copied string) *receipt {
	i := slices.IndexFunc(d.heard, func(r receipt) bool { return r.text == text && r.copied == copied })
	if i < 0 {
		return nil
	}
	return &d.heard[i]
}

func (d *walker) check(received, sent []entry) {
	d.checkNothingElse(received, sent)
	d.checkOnce()
	for p := range d.periods {
		d.checkPeriod(p, received)
	}
	for _, e := range received {
		if e.resource == d.resource && e.at.After(d.begun) && !d.got(e.text) {
			d.w.fault("%s has not got %s, which is for it (entry %d)", d.name, e.text, e.number)
		}
	}
	d.checkCopies(received, sent)
}

// checkNothingElse looks for what is not on the timeline, or not as that entry.
func (d *walker) checkNothingElse(received, sent []entry) {
	for _, r := range d.heard {
		entries := received
		if r.copied == "sent" {
			entries = sent
		}
		i := slices.IndexFunc(entries, func(e entry) bool { return e.text == r.text && e.number == r.entry })
		if i < 0 {
			d.w.fault("%s has got %q (%s) as entry %d, which is not stored", d.name, r.text, r.copied, r.entry)
		} else if r.copied != "" && (!d.carbons || entries[i].by == d) {
			d.w.fault("%s has got a copy of %s that it does not want", d.name, r.text)
		}
	}
}

// checkOnce looks for what has come twice, and may not.
func (d *walker) checkOnce() {
	last := make(map[[2]string]receipt)
	for _, r := range d.heard {
		key := [2]string{r.text, r.copied}
		if before, again := last[key]; again && !d.mayRepeat(before, r) {
			d.w.fault("%s has got %s %s twice: in session %d as stanza %d, and %v later in session %d as stanza %d",
				d.name, r.copied, r.text, before.session, before.count, r.at.Sub(before.at).Round(time.Millisecond), r.session, r.count)
		}
		last[key] = r
	}
}

// mayRepeat tells whether a message may come a second time. In the same session it may if the node had to be fenced, and the
// front could not say what the client has, since the connection was lost then, too, it had ended itself, or the database could not take it; but not what was acknowledged before.
// In another session it may if it was not acknowledged when the first ended, or if a node has ended since: how much of what came live
// counts as received while something waited for another client of the user.
func (d *walker) mayRepeat(first, second receipt) bool {
	acked := d.acknowledgedAt(first)
	if first.session != second.session {
		return acked.IsZero() || slices.ContainsFunc(d.w.ends, func(e nodeEnd) bool {
			return e.from.Before(second.at) && (e.to.IsZero() || e.to.After(first.at.Add(-unnoticed)))
		})
	}
	for _, e := range d.w.ends {
		if e.sudden && e.from.Before(second.at) && d.w.unheard(e, acked) {
			return true
		}
		for _, lost := range d.losses {
			if !e.sudden || !lost.Before(second.at) || !e.from.Before(second.at) || !lost.Before(e.to.Add(unnoticed)) {
				continue
			}
			unknown := acked.IsZero() || acked.After(e.from.Add(-unnoticed)) || acked.After(lost.Add(-unnoticed))
			if unknown && lost.After(e.from.Add(-unnoticed)) {
				return true
			}
		}
	}
	return false
}

// unheard tells whether the database, or the front, was away when a node ended, or when the front was to say what the client had, so that
// it is not known what was acknowledged in the meantime.
func (w *walk) unheard(e nodeEnd, acked time.Time) bool {
	const settling = 4 * time.Second
	return slices.ContainsFunc(slices.Concat(w.aways, w.fronts), func(away nodeEnd) bool {
		return away.from.Before(e.from.Add(settling)) && away.to.After(e.from.Add(-unnoticed)) && (acked.IsZero() || acked.After(away.from.Add(-unnoticed)))
	})
}

// acknowledgedAt is when the client has acknowledged what it got; zero: it has not.
func (d *walker) acknowledgedAt(r receipt) time.Time {
	for _, a := range d.acks {
		if a.session == r.session && a.count >= r.count {
			return a.at
		}
	}
	return time.Time{}
}

// checkPeriod looks at what comes to a client while it is available: all that is for it, in stored order. What was said before
// may have come out of turn, and what is for another client comes when that does not take it.
func (d *walker) checkPeriod(p int, received []entry) {
	in := d.periods[p]
	if in.since.IsZero() {
		return
	}
	var sequence, must, got []string
	highest := uint64(0)
	for _, r := range d.heard {
		if m := d.w.said[r.text]; r.copied == "" && r.period == p && m != nil && m.resource == "" {
			highest = max(highest, r.entry)
		}
	}
	inTurn := make(map[string]bool)
	for _, e := range received {
		if e.at.Before(in.since) || e.resource != "" && e.resource != d.resource {
			continue
		}
		inTurn[e.text] = true
		sequence = append(sequence, e.text)
		if !in.over || e.number < highest {
			must = append(must, e.text)
		}
	}
	seen := make(map[string]bool)
	for _, r := range d.heard {
		if r.copied == "" && r.period == p && inTurn[r.text] && !seen[r.text] {
			seen[r.text] = true
			got = append(got, r.text)
		}
	}
	d.w.checkOrder(fmt.Sprintf("%s, available since %.3f", d.name, in.since.Sub(d.w.began).Seconds()), sequence, must, got)
}

// checkCopies looks at what a client that gets copies has to have, in the time in which it was available at the end.
func (d *walker) checkCopies(received, sent []entry) {
	n := len(d.periods)
	if !d.carbons || n == 0 || d.periods[n-1].over || d.periods[n-1].since.IsZero() {
		return
	}
	for _, e := range received {
		if e.at.After(d.periods[n-1].since) && !d.got(e.text) && d.first(e.text, "received") == nil {
			d.w.fault("%s has got neither %s (entry %d) nor a copy", d.name, e.text, e.number)
		}
	}
	for _, e := range sent {
		if e.at.After(d.periods[n-1].since) && e.by != d && d.first(e.text, "sent") == nil {
			d.w.fault("%s has got no copy of %s (entry %d), which %s said", d.name, e.text, e.number, e.by.name)
		}
	}
	d.checkCopiesInOrder()
}

// checkCopiesInOrder looks at the order in which copies come while a client is available.
func (d *walker) checkCopiesInOrder() {
	last, seen := receipt{period: -1}, make(map[[2]string]bool)
	for _, r := range d.heard {
		m, key := d.w.said[r.text], [2]string{r.text, r.copied}
		if r.copied == "" || r.period < 0 || seen[key] || m == nil || m.at.Before(d.periods[r.period].since) || d.periods[r.period].since.IsZero() {
			continue
		}
		seen[key] = true
		if r.period == last.period && r.entry < last.entry {
			d.w.fault("%s has got the copy of %s (entry %d) after that of %s (entry %d)", d.name, r.text, r.entry, last.text, last.entry)
		}
		last = r
	}
}
