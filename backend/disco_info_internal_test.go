package backend

import "testing"

// The examples of XEP-0115 §5.2 and §5.3.
func TestVerificationString(t *testing.T) {
	features := []string{
		"http://jabber.org/protocol/muc", "http://jabber.org/protocol/disco#items", "http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/caps",
	}
	for _, tt := range []struct {
		info discoInfo
		want string
	}{
		{discoInfo{identities: []discoIdentity{{"client", "pc", "", "Exodus 0.9.1"}}, features: features}, "QgayPKawpkPSDYmwT/WM94uAlu0="},
		{discoInfo{
			identities: []discoIdentity{{"client", "pc", "en", "Psi 0.11"}, {"client", "pc", "el", "Ψ 0.11"}},
			features:   features,
			forms: []discoForm{{"urn:xmpp:dataforms:softwareinfo", []discoField{
				{"ip_version", "text-multi", []string{"ipv6", "ipv4"}}, {"os", "", []string{"Mac"}}, {"os_version", "", []string{"10.5.1"}},
				{"software", "", []string{"Psi"}}, {"software_version", "", []string{"0.11"}},
			}}},
		}, "q07IKJEyjvHSyhy//CH0CxmKi8w="},
	} {
		if got := tt.info.ver(); got != tt.want {
			t.Errorf("got %s for %q, want %s", got, tt.info.verInput(), tt.want)
		}
	}
}

// The simple example of XEP-0390 §4.5.1.
func TestCapabilityHash(t *testing.T) {
	info := discoInfo{
		identities: []discoIdentity{{"client", "mobile", "", "BombusMod"}},
		features: []string{
			"http://jabber.org/protocol/si", "http://jabber.org/protocol/bytestreams", "http://jabber.org/protocol/chatstates",
			"http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items", "urn:xmpp:ping", "jabber:iq:time",
			"jabber:iq:privacy", "jabber:iq:version", "http://jabber.org/protocol/rosterx", "urn:xmpp:time", "jabber:x:oob",
			"http://jabber.org/protocol/ibb", "http://jabber.org/protocol/si/profile/file-transfer", "urn:xmpp:receipts",
			"jabber:iq:roster", "jabber:iq:last",
		},
	}
	if got, want := info.capsHash(), "kzBZbkqJ3ADrj7v08reD1qcWUwNGHaidNUgD7nHpiw8="; got != want {
		t.Errorf("got %s for %q, want %s", got, info.capsInput(), want)
	}
}

// The form of the complex example of XEP-0390 §4.5.2.
func TestCapabilityHashOfForm(t *testing.T) {
	info := discoInfo{forms: []discoForm{{"urn:xmpp:dataforms:softwareinfo", []discoField{
		{"software", "", []string{"Tkabber"}}, {"software_version", "", []string{"0.11.1-svn-20111216-mod (Tcl/Tk 8.6b2)"}},
		{"os", "", []string{"Windows"}}, {"os_version", "", []string{"XP"}},
	}}}}
	want := "\x1c\x1cFORM_TYPE\x1furn:xmpp:dataforms:softwareinfo\x1f\x1eos\x1fWindows\x1f\x1eos_version\x1fXP\x1f\x1e" +
		"software\x1fTkabber\x1f\x1esoftware_version\x1f0.11.1-svn-20111216-mod (Tcl/Tk 8.6b2)\x1f\x1e\x1d\x1c"
	if got := info.capsInput(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
