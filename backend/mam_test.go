package backend_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imlb/backend/store"
)

const mamForm = "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>"

// mam asks for a page and returns the ids of its messages, and its <fin/>.
func (cl *client) mam(fields, page string) (ids []string, fin string) {
	cl.t.Helper()
	form := ""
	if fields != "" {
		form = "<x xmlns='jabber:x:data' type='submit'>" + mamForm + fields + "</x>"
	}
	cl.write("<iq type='set' id='mam'><query xmlns='urn:xmpp:mam:2' queryid='q1'>" + form + page + "</query></iq>")
	result := regexp.MustCompile("^<message from='[^'/]*' to='" + regexp.QuoteMeta(cl.jid) + "'>" +
		"<result xmlns='urn:xmpp:mam:2' queryid='q1' id='([0-9]+)'><forwarded xmlns='urn:xmpp:forward:0'>" +
		"<delay xmlns='urn:xmpp:delay' stamp='[^']*Z'/><message xmlns='jabber:client'.*</message></forwarded></result></message>$")
	for {
		got := cl.next()
		if m := result.FindStringSubmatch(got); m != nil {
			ids = append(ids, m[1])
			continue
		}
		if !strings.HasPrefix(got, "<iq ") {
			cl.t.Fatalf("%s: got %s", cl.jid, got)
		}
		return ids, got
	}
}

func field(name string, values ...string) string {
	f := "<field var='" + name + "'>"
	for _, v := range values {
		f += "<value>" + v + "</value>"
	}
	return f + "</field>"
}

func rsm(inside string) string {
	return "<set xmlns='http://jabber.org/protocol/rsm'>" + inside + "</set>"
}

// archiveOfNine gives alice a timeline of nine: 1 to 4 with bob, 5 from bob, 6 to 9
// with carol.
func archiveOfNine(c *cluster) (alice *client, middle time.Time) {
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	for i := range 4 {
		alice.write(fmt.Sprintf("<message to='bob@example.com' type='chat' id='m%d'><body>%d</body></message>", i, i))
		bob.expect("^<message ")
	}
	bob.write("<message to='" + alice.jid + "' type='chat'><body>5</body></message>")
	alice.expect("<body>5</body>")
	middle = time.Now()
	c.eventually("the clock moves", func() bool { return time.Since(middle) > 5*time.Millisecond })
	for i := range 4 {
		alice.write(fmt.Sprintf("<message to='carol@example.com/pad' type='chat'><body>%d</body></message>", i))
	}
	alice.sync()
	return alice, middle
}

func TestArchiveQueries(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, middle := archiveOfNine(c)
	stamp := middle.UTC().Format(time.RFC3339Nano)
	for _, tt := range []struct {
		name, fields, page string
		want               string
		fin                string
	}{
		{name: "all", want: "1 2 3 4 5 6 7 8 9", fin: "complete='true'><set [^>]*><first index='0'>1</first><last>9</last><count>9</count></set></fin>"},
		{name: "first page", page: rsm("<max>4</max>"), want: "1 2 3 4", fin: "mam:2'><set [^>]*><first index='0'>1</first><last>4</last><count>9</count>"},
		{name: "next page", page: rsm("<max>4</max><after>4</after>"), want: "5 6 7 8", fin: "mam:2'><set [^>]*><first index='4'>5</first><last>8</last><count>9</count>"},
		{name: "rest", page: rsm("<max>4</max><after>8</after>"), want: "9", fin: "complete='true'"},
		{name: "after the end", page: rsm("<after>9</after>"), fin: "complete='true'><set [^>]*><count>9</count></set>"},
		{name: "exactly the rest", page: rsm("<max>3</max><after>6</after>"), want: "7 8 9", fin: "complete='true'"},
		{name: "last page", page: rsm("<max>3</max><before/>"), want: "7 8 9", fin: "mam:2'><set [^>]*><first>7</first><last>9</last>"},
		{name: "page before", page: rsm("<max>3</max><before>4</before>"), want: "1 2 3", fin: "complete='true'"},
		{name: "before the beginning", page: rsm("<before>1</before>"), fin: "complete='true'"},
		{name: "flipped", page: rsm("<max>3</max><before/>") + "<flip-page/>", want: "9 8 7", fin: "<first>7</first><last>9</last>"},
		{name: "flipped, forwards", page: rsm("<max>3</max><after>2</after>") + "<flip-page/>", want: "5 4 3", fin: "<first index='2'>3</first><last>5</last>"},
		{name: "by index", page: rsm("<max>3</max><index>5</index>"), want: "6 7 8", fin: "mam:2'><set [^>]*><first index='5'>6</first><last>8</last><count>9</count>"},
		{name: "by index, to the end", page: rsm("<max>3</max><index>7</index>"), want: "8 9", fin: "complete='true'"},
		{name: "by index, beyond the end", page: rsm("<max>3</max><index>99</index>"), fin: "complete='true'><set [^>]*><count>9</count></set>"},
		{name: "by index, in a part", fields: field("after-id", "4"), page: rsm("<max>1</max><index>1</index>"), want: "6", fin: "<first index='1'>6</first><last>6</last><count>5</count>"},
		{name: "count", page: rsm("<max>0</max>"), fin: "mam:2'><set [^>]*><count>9</count></set>"},
		{name: "with", fields: field("with", "bob@example.com"), want: "1 2 3 4 5", fin: "complete='true'"},
		{name: "count with", fields: field("with", "bob@example.com"), page: rsm("<max>0</max>"), fin: "mam:2'><set [^>]*><count>5</count></set>"},
		{name: "count with, after the end", fields: field("with", "bob@example.com"), page: rsm("<max>0</max><after>5</after>"), fin: "complete='true'><set [^>]*><count>5</count></set>"},
		{name: "count with a resource", fields: field("with", "bob@example.com/desk"), page: rsm("<max>0</max>"), fin: "mam:2'><set [^>]*></set>"},
		{name: "count with nobody", fields: field("with", "x@example.com"), page: rsm("<max>0</max>"), fin: "complete='true'><set [^>]*><count>0</count></set>"},
		{name: "with oneself", fields: field("with", "alice@example.com"), fin: "complete='true'"},
		{name: "with, forwards", fields: field("with", "bob@example.com"), page: rsm("<max>2</max><after>3</after>"), want: "4 5", fin: "complete='true'"},
		{name: "with, paged", fields: field("with", "bob@example.com"), page: rsm("<max>2</max><before/>"), want: "4 5", fin: "mam:2'><set [^>]*><first>4</first><last>5</last></set>"},
		{name: "with a resource", fields: field("with", "bob@example.com/desk"), want: "5", fin: "complete='true'"},
		{name: "with a resource, sent", fields: field("with", "carol@example.com/pad"), page: rsm("<max>2</max>"), want: "6 7", fin: "mam:2'><set"},
		{name: "with nobody", fields: field("with", "nobody@example.net"), fin: "complete='true'><set [^>]*><count>0</count></set>"},
		{name: "start", fields: field("start", stamp), want: "6 7 8 9", fin: "complete='true'"},
		{name: "end", fields: field("end", stamp), want: "1 2 3 4 5", fin: "complete='true'"},
		{name: "start and end", fields: field("start", "2000-01-01T00:00:00Z") + field("end", "2000-01-02T00:00:00+02:00"), fin: "complete='true'"},
		{name: "after-id", fields: field("after-id", "7"), want: "8 9", fin: "complete='true'"},
		{name: "between ids", fields: field("after-id", "3") + field("before-id", "7"), page: rsm("<max>2</max><before/>"), want: "5 6", fin: "mam:2'><set"},
		{name: "ids", fields: field("ids", "8", "2", "5", "2"), want: "2 5 8", fin: "complete='true'><set [^>]*><first index='0'>2</first><last>8</last><count>3</count>"},
		{name: "ids, first page", fields: field("ids", "8", "2", "5"), page: rsm("<max>2</max>"), want: "2 5", fin: "mam:2'><set [^>]*><first index='0'>2</first><last>5</last><count>3</count>"},
		{name: "ids, next page", fields: field("ids", "8", "2", "5"), page: rsm("<max>2</max><after>5</after>"), want: "8", fin: "complete='true'><set [^>]*><first index='2'>8</first>"},
		{name: "ids, last page", fields: field("ids", "8", "2", "5"), page: rsm("<max>2</max><before/>"), want: "5 8", fin: "mam:2'><set [^>]*><first>5</first>"},
		{name: "ids of a contact", fields: field("ids", "8", "2", "5") + field("with", "bob@example.com/desk"), want: "5", fin: "complete='true'"},
		{name: "group chat", fields: field("include-groupchat", "false") + field("with", "bob@example.com/desk"), want: "5", fin: "complete='true'"},
		{name: "empty fields", fields: field("with") + field("start"), page: rsm("<max>1</max>"), want: "1", fin: "mam:2'><set"},
	} {
		ids, fin := alice.mam(tt.fields, tt.page)
		if got := strings.Join(ids, " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if !strings.HasPrefix(fin, "<iq type='result' id='mam'") || !regexp.MustCompile(tt.fin).MatchString(fin) {
			t.Errorf("%s: got %s, want %s", tt.name, fin, tt.fin)
		}
	}
}

func TestArchiveErrors(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, _ := archiveOfNine(c)
	for _, tt := range []struct{ name, fields, page, condition string }{
		{"no such id", "", rsm("<after>17</after>"), "item-not-found"},
		{"no number", "", rsm("<before>x</before>"), "item-not-found"},
		{"another spelling", field("after-id", "007"), "", "item-not-found"},
		{"one of the ids", field("ids", "3", "10"), "", "item-not-found"},
		{"an index with a contact", field("with", "bob@example.com"), rsm("<index>3</index>"), "feature-not-implemented"},
		{"a bad index", "", rsm("<index>x</index>"), "bad-request"},
		{"no boolean", field("include-groupchat", "maybe"), "", "bad-request"},
		{"max", "", rsm("<max>-1</max>"), "bad-request"},
		{"no address", field("with", "@@"), "", "jid-malformed"},
		{"no time", field("start", "yesterday"), "", "bad-request"},
		{"two times", field("start", "2000-01-01T00:00:00Z", "2000-01-01T00:00:00Z"), "", "bad-request"},
		{"unknown field", field("withtext", "x"), "", "feature-not-implemented"},
		{"another form", "", "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>x</value></field></x>", "bad-request"},
	} {
		ids, fin := alice.mam(tt.fields, tt.page)
		if len(ids) > 0 || !strings.Contains(fin, "type='error'") || !strings.Contains(fin, "<"+tt.condition+" ") {
			t.Errorf("%s: got %v, %s, want %s", tt.name, ids, fin, tt.condition)
		}
	}
	for to, condition := range map[string]string{
		"bob@example.com": "forbidden", "nobody@example.com": "forbidden", "example.com": "service-unavailable",
	} {
		alice.write("<iq type='set' id='x' to='" + to + "'><query xmlns='urn:xmpp:mam:2'/></iq>")
		alice.expect("type='error'.*<" + condition + " ")
	}
	alice.write("<iq type='set' id='n'><query xmlns='urn:xmpp:mam:2' node='x'/></iq>")
	alice.expect("type='error'.*<item-not-found ")
	alice.write("<iq type='get' id='u'><unknown xmlns='urn:xmpp:mam:2'/></iq>")
	alice.expect("type='error'.*<feature-not-implemented ")
}

func TestArchiveFormAndMetadata(t *testing.T) {
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	bob.write("<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>")
	bob.expect("<metadata xmlns='urn:xmpp:mam:2'/></iq>")
	if ids, fin := bob.mam("", rsm("<before/>")); len(ids) > 0 || !strings.Contains(fin, "complete='true'") {
		t.Errorf("an empty archive has %v, %s", ids, fin)
	}
	bob.close()
	alice, _ := archiveOfNine(c)
	alice.write("<iq type='get' id='f' to='alice@example.com'><query xmlns='urn:xmpp:mam:2'/></iq>")
	alice.expect("from='alice@example.com'.*<field type='jid-single' var='with'/>.*var='before-id'.*var='ids'")
	alice.write("<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>")
	alice.expect("<metadata xmlns='urn:xmpp:mam:2'><start id='1' timestamp='[^']*Z'/><end id='9' timestamp='[^']*Z'/></metadata></iq>")
	alice.write("<iq type='get' id='d' to='alice@example.com'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
	alice.expect("<feature var='urn:xmpp:mam:2'/><feature var='urn:xmpp:mam:2#extended'/><feature var='urn:xmpp:mam:2#groupchat-field'/>.*<feature var='urn:xmpp:sid:0'/>")
}

// What may only be kept until it is delivered is not in the archive, and a message to
// oneself is there once.
func TestArchiveLeavesOut(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.write("<message to='bob@example.com' type='chat'><body>1</body></message>" +
		"<message to='bob@example.com' type='chat'><body>2</body><no-permanent-store xmlns='urn:xmpp:hints'/></message>" +
		"<message to='alice@example.com' type='chat'><body>3</body></message>")
	alice.expect("<body>3</body>")
	alice.sync()
	if ids, fin := alice.mam("", ""); strings.Join(ids, " ") != "1 3" || !strings.Contains(fin, "complete='true'") || !strings.Contains(fin, "<count>2</count>") {
		t.Errorf("got %v, %s", ids, fin)
	}
	if ids, _ := alice.mam(field("with", "alice@example.com"), ""); strings.Join(ids, " ") != "3" {
		t.Errorf("with oneself: %v", ids)
	}
	if ids, fin := alice.mam(field("ids", "2"), ""); len(ids) > 0 || !strings.Contains(fin, "<item-not-found ") {
		t.Errorf("got %v, %s", ids, fin)
	}
}

// A page of large messages ends early rather than flood anybody, and the client
// goes on from there.
func TestArchiveOfLargeMessages(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	body := strings.Repeat("x", 200_000)
	const many = 12
	for range many {
		alice.write("<message to='bob@example.com' type='chat'><body>" + body + "</body></message>")
	}
	alice.sync()
	var all []string
	page := ""
	for range many {
		ids, fin := alice.mam("", rsm(page))
		all = append(all, ids...)
		if strings.Contains(fin, "complete='true'") {
			break
		}
		page = "<after>" + between(fin, "<last>", "</last>") + "</after>"
	}
	if got := strings.Join(all, " "); got != "1 2 3 4 5 6 7 8 9 10 11 12" {
		t.Errorf("got %s", got)
	}
}

// longArchive gives alice's phone a timeline of 45,000 messages from bob's desk, one in
// the middle from his phone and one from carol.
func longArchive(c *cluster) *client {
	alice := c.online(0, "alice", "phone")
	a, err := c.store.Account(c.t.Context(), "alice@example.com")
	if err != nil {
		c.t.Fatal(err)
	}
	var batch []store.Append
	for i := range 45_000 {
		d := store.Draft{Owner: a.Owner, Peer: "bob@example.com", Stanza: []byte("<message from='bob@example.com/desk'></message>")}
		switch i {
		case 22_000:
			d.Stanza = []byte("<message from='bob@example.com/phone'></message>")
		case 22_001:
			d.Peer = "carol@example.com"
		}
		batch = append(batch, store.Append{Drafts: []store.Draft{d}})
	}
	if _, err := c.store.AppendBatch(c.t.Context(), batch); err != nil {
		c.t.Fatal(err)
	}
	return alice
}

// The few messages with a contact are one page, whatever lies between.
func TestArchiveOfOneContact(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := longArchive(c)
	for _, page := range []string{"<max>5</max>", "<max>5</max><before/>", "<max>5</max><after>3</after>"} {
		ids, fin := alice.mam(field("with", "carol@example.com"), rsm(page))
		if len(ids) != 1 || ids[0] != "22002" || !strings.Contains(fin, "complete='true'") {
			t.Errorf("%s: got %v, %s", page, ids, fin)
		}
	}
	if _, fin := alice.mam(field("with", "bob@example.com"), rsm("<max>0</max>")); strings.Contains(fin, "<count") {
		t.Errorf("so many are counted: %s", fin)
	}
}

// A query that would read too much ends its page early, in both directions, and
// gets there in the end.
func TestArchiveScanIsBounded(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := longArchive(c)
	for _, way := range []struct{ page, from, to string }{{"after", "<last>", "</last>"}, {"before", "<first>", "</first>"}} {
		var all []string
		inside, pages := "<"+way.page+"/>", 0
		for fin := ""; !strings.Contains(fin, "complete='true'"); pages++ {
			var ids []string
			ids, fin = alice.mam(field("with", "bob@example.com/phone"), rsm(inside))
			all = append(all, ids...)
			inside = "<" + way.page + ">" + between(fin, way.from, way.to) + "</" + way.page + ">"
		}
		if len(all) != 1 || all[0] != "22001" || pages < 3 || pages > 5 {
			t.Errorf("%s: got %v on %d pages", way.page, all, pages)
		}
	}
}

// Count and index are those of the messages that are in the archive, on every page. Where
// counting would take long they are marked as approximations.
func TestArchiveCountsWhatIsThere(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	alice := c.login(0, "alice", "phone")
	add := func(hidden bool, n int) {
		account, err := c.store.Account(t.Context(), "alice@example.com")
		if err != nil {
			t.Fatal(err)
		}
		draft := store.Draft{Owner: account.Owner, Peer: "bob@example.com", Stanza: []byte("<message from='bob@example.com/desk'></message>"), Hidden: hidden}
		batch := slices.Repeat([]store.Append{{Drafts: []store.Draft{draft}}}, n)
		if _, err := c.store.AppendBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	check := func(page, want, set string) {
		t.Helper()
		ids, fin := alice.mam("", rsm(page))
		if got := strings.Join(ids, " "); got != want || !strings.Contains(fin, "<set xmlns='http://jabber.org/protocol/rsm'>"+set+"</set>") {
			t.Errorf("%s: got %q, %s, want %q, %s", page, got, fin, want, set)
		}
	}
	add(true, 5)
	add(false, 2)
	add(true, 1)
	add(false, 1)
	const three = "<count>3</count>"
	check("", "6 7 9", "<first index='0'>6</first><last>9</last>"+three)
	check("<max>0</max>", "", three)
	check("<max>2</max>", "6 7", "<first index='0'>6</first><last>7</last>"+three)
	check("<max>2</max><after>7</after>", "9", "<first index='2'>9</first><last>9</last>"+three)
	check("<max>2</max><before/>", "7 9", "<first>7</first><last>9</last>"+three)
	check("<max>1</max><index>1</index>", "7", "<first index='1'>7</first><last>7</last>"+three)
	check("<max>2</max><index>2</index><before/>", "9", "<first index='2'>9</first><last>9</last>"+three)
	check("<max>2</max><index>3</index>", "", three)

	add(true, 1000)
	add(false, 2)
	check("<max>0</max>", "", "<count>5</count>")
	check("<max>2</max>", "6 7", "<first index='5'>6</first><last>7</last><count>1011</count>")
	check("<max>2</max><index>1009</index>", "1010 1011", "<first index='1009'>1010</first><last>1011</last><count>1011</count>")
	check("<max>9</max>", "6 7 9 1010 1011", "<first index='0'>6</first><last>1011</last><count>5</count>")
}

// What an archive sends is for who has asked only: no copy goes to other clients, and
// nothing of it is on the timeline.
func TestArchiveResultsAreNotCopied(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, _ := archiveOfNine(c)
	pad := c.online(0, "alice", "pad")
	alice.skipTo("from='alice@example.com/pad'")
	pad.skipTo("from='alice@example.com/phone'")
	pad.write("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
	pad.skipTo("^<iq type='result' id='c'")
	before, _ := c.head("alice")
	if ids, _ := alice.mam("", ""); len(ids) != 9 {
		t.Errorf("got %v", ids)
	}
	pad.sync()
	if after, _ := c.head("alice"); after != before {
		t.Errorf("the timeline went from %d to %d", before, after)
	}
}
