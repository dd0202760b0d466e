package backend

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/backend/store"
)

// Stanzas take no more room in what is stored, and in signals, than they have to.
func TestStanzasAreNotEscaped(t *testing.T) {
	t.Parallel()
	const stanza = "<presence><status>&amp;</status></presence>"
	data, err := sessionState{Presence: stanza}.encode()
	if err != nil || string(data) != `{"presence":"`+stanza+`"}` {
		t.Errorf("got %s, %v", data, err)
	}
	if st, err := decodeState(data); err != nil || st.Presence != stanza {
		t.Errorf("got back %+v, %v", st, err)
	}
}

// Whatever was written and acknowledged around the wrap of the counts at 2^32, a client
// that resumes gets each stanza that it has not received once more, and no other:
// from what the node has left as well as from what the front has noted.
func TestReckonAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Uint64Range(1<<32-20, 1<<32+5).Draw(t, "base")
		u := &unacked{}
		u.goOn(uint32(base), arrival{}, store.Versions{})
		type written struct { // seq is 0 for what is no entry
			count, seq uint64
			copied     bool
		}
		var all []written
		sent, acked, seq := base, base, uint64(0)
		var told []uint64 // with each version, how many stanzas had been written
		type claim struct{ count, upTo uint64 }
		var claims []claim // the client has had all up to there once it has counted that
		t.Repeat(map[string]func(*rapid.T){
			"stanza": func(*rapid.T) {
				sent++
				u.stanza([]byte(strconv.FormatUint(sent, 10)), 0)
				all = append(all, written{count: sent})
			},
			"entry": func(*rapid.T) {
				seq++
				sent++
				u.entry(seq, seq, seq, false)
				all = append(all, written{count: sent, seq: seq})
				claims = append(claims, claim{sent, seq})
			},
			"copy": func(*rapid.T) {
				seq++
				sent++
				u.stanza([]byte(strconv.FormatUint(sent, 10)), seq)
				u.skip(seq)
				all = append(all, written{sent, seq, true})
				claims = append(claims, claim{sent, seq})
			},
			"passed copy": func(*rapid.T) {
				seq++
				sent++
				u.stanza([]byte(strconv.FormatUint(sent, 10)), seq)
				u.pass(seq)
				all = append(all, written{sent, seq, true})
			},
			"told": func(*rapid.T) {
				told = append(told, sent)
				u.tell(store.Versions{Roster: uint64(len(told))})
			},
			"skipped entry": func(*rapid.T) {
				seq++
				u.skip(seq)
				claims = append(claims, claim{sent, seq})
			},
			"passed entry": func(*rapid.T) { seq++; u.pass(seq) },
			"ack": func(t *rapid.T) {
				acked = rapid.Uint64Range(acked, sent).Draw(t, "acked")
				if _, _, ok := u.ack(uint32(acked)); !ok {
					t.Fatal("refused")
				}
			},
		})
		h := rapid.Uint64Range(acked, sent).Draw(t, "h")
		left := u.leftover()
		left.Cursor = seq
		point, _ := u.point(0)
		a, err := sessionState{Left: &left, Presence: "<presence/>", Carbons: true}.reckon(uint32(h), point, nil)
		if err != nil {
			t.Fatal(err)
		}
		if known, _ := slices.BinarySearch(told, acked+1); a.told.Roster != uint64(known) {
			t.Errorf("told up to %d, want %d", a.told.Roster, known)
		}
		var claimed uint64
		for _, c := range claims {
			if c.count <= h || c.upTo <= a.pos {
				claimed = max(claimed, c.upTo)
			}
		}
		if a.claim != claimed {
			t.Errorf("the client has all up to %d, want %d", a.claim, claimed)
		}
		var stanzas, missing, entries []uint64
		note := frontNote{count: uint32(sent)}
		for _, w := range all {
			note.tail = append(note.tail, notation{seq: w.seq, claims: w.seq != 0 && !w.copied, copied: w.copied})
			switch {
			case (w.seq == 0 || w.copied && w.seq <= a.pos) && w.count > h:
				stanzas = append(stanzas, w.count)
			case w.seq != 0 && w.count > h:
				missing = append(missing, w.seq)
			case w.seq != 0:
				entries = append(entries, w.seq)
			}
		}
		var again []uint64
		for _, it := range a.stanzas {
			n, err := strconv.ParseUint(string(it.data), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			again = append(again, n)
		}
		if !slices.Equal(again, stanzas) {
			t.Errorf("stanzas again: %v, want %v", again, stanzas)
		}
		byNote, err := sessionState{Since: uint32(base)}.reckon(uint32(h), point, &note)
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, pos uint64, missing []uint64) {
			if len(entries) > 0 && entries[len(entries)-1] > pos || len(missing) > 0 && missing[0] <= pos {
				t.Errorf("by the %s, the cursor goes on after %d; received %v, missing %v", what, pos, entries, missing)
			}
		}
		check("node", a.pos, missing)
		for _, w := range all {
			if w.copied && w.count > h {
				missing = append(missing, w.seq)
			}
		}
		slices.Sort(missing)
		check("front", byNote.pos, missing)
		byPoint, err := sessionState{}.reckon(uint32(acked), point, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range all {
			if w.seq != 0 && w.count > acked && w.seq <= byPoint.pos {
				t.Errorf("by the stored point, the cursor goes on after %d; %d was not acknowledged", byPoint.pos, w.seq)
			}
		}
	})
}

// A place counts as long as the cursor does not go back, what is claimed, or was had, counts for ever.
func TestReckonAfterGoingBack(t *testing.T) {
	const base = 1<<32 - 2
	u := &unacked{}
	u.goOn(base, arrival{pos: 10}, store.Versions{})
	note := frontNote{count: base}
	write := func(seq uint64, claims, had bool) {
		u.entry(seq, 0, seq, false)
		note.count++
		note.tail = append(note.tail, notation{seq: seq, claims: claims, had: had})
	}
	reckon := func(h uint32) (pos, claimed, claim uint64) {
		t.Helper()
		point, _ := u.point(0)
		a, err := sessionState{}.reckon(h, point, &note)
		if err != nil {
			t.Fatal(err)
		}
		return a.pos, a.claimed, a.claim
	}
	write(11, true, false)
	write(14, false, true)
	write(15, false, false)
	if pos, claimed, claim := reckon((base + 3) & math.MaxUint32); pos != 15 || claimed != 11 || claim != 14 {
		t.Errorf("goes on after %d, claimed %d, had %d", pos, claimed, claim)
	}
	if !u.rewind(12, 0) {
		t.Error("the store need not know")
	}
	if pos, claimed, claim := reckon((base + 3) & math.MaxUint32); pos != 11 || claimed != 11 || claim != 14 {
		t.Errorf("after going back, goes on after %d, claimed %d, had %d", pos, claimed, claim)
	}
	write(13, false, false)
	if pos, _, _ := reckon((base + 4) & math.MaxUint32); pos != 13 {
		t.Errorf("and forth, goes on after %d", pos)
	}
	if u.rewind(13, 0) {
		t.Error("the store need know of a place that is none")
	}
}

// A client that counts what was never sent, or less than it has acknowledged, is not
// the one whose session it is.
func TestReckonRefuses(t *testing.T) {
	const near = 1<<32 - 2
	left := sessionState{Left: &leftover{Sent: 3, Lost: 1, HasLost: true}} // five stanzas after near
	for name, r := range map[string]struct {
		st   sessionState
		h    uint32
		note *frontNote
		ok   bool
	}{
		"all":                       {left, 3, nil, true},
		"more":                      {left, 4, nil, false},
		"less than was kept":        {left, 0, nil, false},
		"all that was kept":         {left, 1, nil, true},
		"less than acknowledged":    {left, near - 1, nil, false},
		"more than the front wrote": {sessionState{}, 2, &frontNote{count: 1}, true}, // at another time, then
		"all that the front wrote":  {sessionState{}, 1, &frontNote{count: 1}, true},
		"nobody knows":              {sessionState{}, 7, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.st.reckon(r.h, store.ResumePoint{Count: near}, r.note); (err == nil) != r.ok {
				t.Errorf("error: %v", err)
			}
		})
	}
}

func TestParseNote(t *testing.T) {
	n, err := parseNote([]byte("4294967295\x001,0,@3,+4,~5,=6,!7"))
	if err != nil || n.count != 1<<32-1 || !slices.Equal(n.tail, []notation{{seq: 1, claims: true}, {}, {seq: 3}, {seq: 4, had: true}, {seq: 5, copied: true}, {seq: 6, had: true, copied: true}, {seq: 7, apart: true}}) {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := parseNote([]byte("0\x00")); err != nil || n.count != 0 || n.tail != nil {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := parseNote([]byte("5000\x00" + strings.Repeat("7,", noteTail-1) + "7")); err != nil || len(n.tail) != noteTail {
		t.Errorf("of much, %d are read: %v", len(n.tail), err)
	}
	for _, bad := range []string{"", "1", "x\x001", "4294967296\x001", "1\x00x", "1\x00-1", "5000\x00" + strings.Repeat("7,", noteTail) + "7"} {
		if _, err := parseNote([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// Who had connected before a session was resumed has waited, unless that is said to be yet to come.
func TestIsBefore(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		age   int64 // ms
		taken time.Time
		want  bool
	}{
		{5000, now.Add(-time.Second), true},
		{5000, now.Add(-10 * time.Second), false},
		{5000, time.Time{}, false},
		{5000, now.Add(time.Hour), false},
		{0, now.Add(-time.Second), false}, // an earlier front does not say
		{1, now.Add(-time.Second), false},
	} {
		s := &session{started: now, client: facts{age: tt.age}}
		if got := s.isBefore(tt.taken); got != tt.want {
			t.Errorf("connected for %d ms, resumed %v ago: %v", tt.age, now.Sub(tt.taken), got)
		}
	}
}
