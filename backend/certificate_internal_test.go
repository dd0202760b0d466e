package backend

import (
	"bytes"
	"testing"
)

// What is read of names is what was written, up to a bound.
func FuzzCertNames(f *testing.F) {
	f.Add([]byte("xalice@example.com\x00eBob@example.net\x00cCarol\x00"))
	f.Add([]byte("\x00x\x00\x00xa"))
	f.Add(bytes.Repeat([]byte("xa\x00"), 100))
	f.Fuzz(func(t *testing.T, list []byte) {
		names := parseCertNames(list)
		if len(names) > maxCertNames {
			t.Errorf("%d names", len(names))
		}
		var written []byte
		for _, n := range names {
			written = append(append(append(written, n.kind), n.name...), 0)
		}
		again := parseCertNames(written)
		if len(again) != len(names) {
			t.Errorf("%q reads as %q, and then as %q", list, names, again)
		}
		users := (&facts{verified: true, names: names}).users("example.com")
		for _, u := range users {
			if u.Domain() != "example.com" || u.Local() == "" || u.Resource() != "" {
				t.Errorf("%q names %v", list, u)
			}
		}
	})
}
