package bosh

import (
	"crypto/sha1" //nolint:gosec // G505: as §15 has it
	"encoding/hex"
	"strings"
)

// keys follow a client's sequence of keys (§15). The zero value is that of a client that has
// none.
type keys struct{ last string }

// accept tells whether a request has the key that is next in the sequence, and goes on in it.
func (k *keys) accept(r *Request) bool {
	if k.last != "" {
		sum := sha1.Sum([]byte(r.Key)) //nolint:gosec // G401: see the import
		if !strings.EqualFold(hex.EncodeToString(sum[:]), k.last) {
			return false
		}
		k.last = r.Key
	}
	if r.NewKey != "" {
		k.last = r.NewKey
	}
	return true
}
