package storetest

import (
	"fmt"
	"slices"
	"sync"

	"imlb/backend/store"
)

func blocklistTests() []test {
	return []test{
		{"Update", on(blocklistUpdate)},
		{"SameIsNoChange", on(blocklistSame)},
		{"SlicesAreCopied", on(blocklistSlices)},
		{"MissingOwner", on(blocklistMissingOwner)},
		{"ManyAtOnce", on(blocklistManyAtOnce)},
		{"GoesWithTheAccount", on(blocklistDeleted)},
	}
}

// block adds addresses to a list.
func block(addresses ...string) func([]string) []string {
	return func(list []string) []string { return append(list, addresses...) }
}

func blocklistUpdate(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	list, err := s.Blocklist(t.Context(), a.Owner)
	t.check(err)
	t.equal("a new list", list, store.Blocklist{})

	want := store.Blocklist{Addresses: []string{"B@x", "a@x", "c@x/🙂\"'"}, Version: 1}
	list, err = s.UpdateBlocklist(t.Context(), a.Owner, block("c@x/🙂\"'", "a@x", "B@x", "a@x"))
	t.check(err)
	t.equal("after the change", list, want)
	list, err = s.Blocklist(t.Context(), a.Owner)
	t.check(err)
	t.equal("read", list, want)

	list, err = s.UpdateBlocklist(t.Context(), a.Owner, func(list []string) []string {
		t.equal("before the change", list, want.Addresses)
		return slices.DeleteFunc(list, func(address string) bool { return address != "a@x" })
	})
	t.check(err)
	t.equal("after the removal", list, store.Blocklist{Addresses: []string{"a@x"}, Version: 2})
	_, err = s.UpdateBlocklist(t.Context(), a.Owner, func([]string) []string { return nil })
	t.check(err)
	list, err = s.Blocklist(t.Context(), a.Owner)
	t.check(err)
	t.equal("emptied", len(list.Addresses), 0)
	t.equal("its version", list.Version, uint64(3))
	list, err = s.Blocklist(t.Context(), b.Owner)
	t.check(err)
	t.equal("bob's", list, store.Blocklist{})
}

func blocklistSame(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	nothing := func([]string) []string { return []string{} }
	list, err := s.UpdateBlocklist(t.Context(), a.Owner, nothing)
	t.check(err)
	t.equal("version of nothing", list.Version, uint64(0))
	for range 2 {
		list, err = s.UpdateBlocklist(t.Context(), a.Owner, block("a@x"))
		t.check(err)
	}
	t.equal("list", list, store.Blocklist{Addresses: []string{"a@x"}, Version: 1})
}

func blocklistSlices(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	given := []string{"a@x", "b@x"}
	list, err := s.UpdateBlocklist(t.Context(), a.Owner, func([]string) []string { return given })
	t.check(err)
	given[0], list.Addresses[1] = "x", "x"
	list, err = s.UpdateBlocklist(t.Context(), a.Owner, func(list []string) []string {
		list[0] = "x"
		return []string{"a@x", "b@x"}
	})
	t.check(err)
	t.equal("list", list, store.Blocklist{Addresses: []string{"a@x", "b@x"}, Version: 1})
}

func blocklistMissingOwner(t suite, s store.Store) {
	list, err := s.Blocklist(t.Context(), 12345)
	t.check(err)
	t.equal("list", list, store.Blocklist{})
	_, err = s.UpdateBlocklist(t.Context(), 12345, block("a@x"))
	t.wantErr(err, store.ErrNotFound)
}

func blocklistManyAtOnce(t suite, s store.Store) {
	const many = 10
	a := t.newAccount(s, "alice@example.com")
	var group sync.WaitGroup
	for i := range many {
		group.Go(func() {
			if _, err := s.UpdateBlocklist(t.Context(), a.Owner, block(fmt.Sprintf("%d@x", i))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	list, err := s.Blocklist(t.Context(), a.Owner)
	t.check(err)
	t.equal("addresses", len(list.Addresses), many)
	t.equal("version", list.Version, uint64(many))
}

func blocklistDeleted(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	_, err := s.UpdateBlocklist(t.Context(), a.Owner, block("a@x"))
	t.check(err)
	t.check(s.DeleteAccount(t.Context(), a.User))
	list, err := s.Blocklist(t.Context(), a.Owner)
	t.check(err)
	t.equal("list", list, store.Blocklist{})
}

func personalTests() []test {
	return []test{
		{"PrivateXML", on(privateXML)},
		{"PrivateXMLIsAllOrNone", on(privateXMLQuota)},
		{"VCard", on(vCard)},
		{"SlicesAreCopied", on(personalSlices)},
		{"MissingOwner", on(personalMissingOwner)},
		{"GoesWithTheAccount", on(personalDeleted)},
	}
}

func doc(space, xml string) store.PrivateXML { return store.PrivateXML{Space: space, XML: []byte(xml)} }

// wantPrivate checks all that an owner keeps.
func (t suite) wantPrivate(s store.Store, owner store.OwnerID, want ...store.PrivateXML) {
	t.Helper()
	docs, err := s.PrivateXML(t.Context(), owner)
	t.check(err)
	t.equal("private XML", docs, want)
	for _, d := range want {
		one, err := s.PrivateXMLIn(t.Context(), owner, d.Space)
		t.check(err)
		t.equal("one of it", one, d)
	}
}

func privateXML(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	t.wantPrivate(s, a.Owner)
	_, err := s.PrivateXMLIn(t.Context(), a.Owner, "urn:a")
	t.wantErr(err, store.ErrNotFound)

	t.check(s.SetPrivateXML(t.Context(), a.Owner, []store.PrivateXML{doc("urn:b", "<b/>"), doc("urn:B", "<B>🙂\x00</B>"), doc("", "<none/>")}, store.Quota{}))
	t.wantPrivate(s, a.Owner, doc("", "<none/>"), doc("urn:B", "<B>🙂\x00</B>"), doc("urn:b", "<b/>"))
	t.check(s.SetPrivateXML(t.Context(), a.Owner, []store.PrivateXML{doc("urn:b", "<new/>"), doc("", ""), doc("urn:x", "")}, store.Quota{}))
	t.wantPrivate(s, a.Owner, doc("urn:B", "<B>🙂\x00</B>"), doc("urn:b", "<new/>"))
	t.wantPrivate(s, b.Owner)
}

func privateXMLQuota(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	set := func(quota store.Quota, docs ...store.PrivateXML) error {
		return s.SetPrivateXML(t.Context(), a.Owner, docs, quota)
	}
	t.check(set(store.Quota{Items: 2, Bytes: 8}, doc("urn:a", "<a/>"), doc("urn:b", "<é")))
	t.wantErr(set(store.Quota{Items: 2}, doc("urn:a", "<a>new</a>"), doc("urn:c", "<c/>")), store.ErrFull)
	t.wantErr(set(store.Quota{Bytes: 7}, doc("urn:b", "<é>")), store.ErrFull) // 8 bytes, 7 letters
	t.wantPrivate(s, a.Owner, doc("urn:a", "<a/>"), doc("urn:b", "<é"))
	t.check(set(store.Quota{Items: 2, Bytes: 8}, doc("urn:a", ""), doc("urn:c", "<c/>")))
	t.wantPrivate(s, a.Owner, doc("urn:b", "<é"), doc("urn:c", "<c/>"))
}

func vCard(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	_, err := s.VCard(t.Context(), a.Owner)
	t.wantErr(err, store.ErrNotFound)
	for _, card := range []string{"<vCard xmlns='vcard-temp'/>", "<vCard>🙂\x00</vCard>"} {
		t.check(s.SetVCard(t.Context(), a.Owner, []byte(card)))
		got, err := s.VCard(t.Context(), a.Owner)
		t.check(err)
		t.equal("vCard", string(got), card)
	}
	_, err = s.VCard(t.Context(), b.Owner)
	t.wantErr(err, store.ErrNotFound)
	for range 2 {
		t.check(s.SetVCard(t.Context(), a.Owner, nil))
		_, err = s.VCard(t.Context(), a.Owner)
		t.wantErr(err, store.ErrNotFound)
	}
}

func personalSlices(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	xml, card := []byte("<a/>"), []byte("<v/>")
	t.check(s.SetPrivateXML(t.Context(), a.Owner, []store.PrivateXML{{Space: "urn:a", XML: xml}}, store.Quota{}))
	t.check(s.SetVCard(t.Context(), a.Owner, card))
	xml[0], card[0] = 'x', 'x'
	for range 2 {
		docs, err := s.PrivateXML(t.Context(), a.Owner)
		t.check(err)
		one, err := s.PrivateXMLIn(t.Context(), a.Owner, "urn:a")
		t.check(err)
		got, err := s.VCard(t.Context(), a.Owner)
		t.check(err)
		t.equal("what was stored", string(docs[0].XML)+string(one.XML)+string(got), "<a/><a/><v/>")
		docs[0].XML[0], one.XML[0], got[0] = 'x', 'x', 'x'
	}
}

func personalMissingOwner(t suite, s store.Store) {
	t.wantPrivate(s, 12345)
	_, err := s.PrivateXMLIn(t.Context(), 12345, "urn:a")
	t.wantErr(err, store.ErrNotFound)
	t.wantErr(s.SetPrivateXML(t.Context(), 12345, []store.PrivateXML{doc("urn:a", "<a/>")}, store.Quota{}), store.ErrNotFound)
	_, err = s.VCard(t.Context(), 12345)
	t.wantErr(err, store.ErrNotFound)
	t.wantErr(s.SetVCard(t.Context(), 12345, []byte("<v/>")), store.ErrNotFound)
}

func personalDeleted(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.check(s.SetPrivateXML(t.Context(), a.Owner, []store.PrivateXML{doc("urn:a", "<a/>")}, store.Quota{}))
	t.check(s.SetVCard(t.Context(), a.Owner, []byte("<v/>")))
	t.check(s.DeleteAccount(t.Context(), a.User))
	t.wantPrivate(s, a.Owner)
	_, err := s.VCard(t.Context(), a.Owner)
	t.wantErr(err, store.ErrNotFound)
}
