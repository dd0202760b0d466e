package identify

import (
	"fmt"
	"slices"
	"strings"
)

// A Match says which TLS connections a route is for.
type Match struct {
	// ServerNames are names, or *.example.com for the names with one label more than
	// example.com. None means any, and also no name at all.
	ServerNames []string
	// ALPN are protocols of which the client must offer one. None means any.
	ALPN []string
}

// Check returns an error when m could not match what it seems to.
func (m Match) Check() error {
	for _, name := range m.ServerNames {
		if bare := strings.TrimPrefix(name, "*."); bare == "" || !isHostName([]byte(bare)) {
			return fmt.Errorf("server name %q: want a host name, or *. and a host name", name)
		}
	}
	for _, protocol := range m.ALPN {
		if protocol == "" || len(protocol) > 255 {
			return fmt.Errorf("ALPN protocol %q: want 1 to 255 bytes", protocol)
		}
	}
	return nil
}

// How well names match, worst to best.
const (
	matchNone = iota
	matchAny
	matchWildcard
	matchExact
)

// Rank says how well m matches h: 0 not at all, else more is better. An exact server
// name beats a wildcard, which beats any; between equals a protocol that is named
// beats any.
func (m Match) Rank(h Hello) int {
	name := m.rankName(hostName(h.ServerName))
	if name == matchNone {
		return 0
	}
	if len(m.ALPN) == 0 {
		return 2 * name
	}
	for _, protocol := range h.ALPN {
		if slices.Contains(m.ALPN, protocol) {
			return 2*name + 1
		}
	}
	return 0
}

func (m Match) rankName(name string) int {
	if len(m.ServerNames) == 0 {
		return matchAny
	}
	best := matchNone
	for _, pattern := range m.ServerNames {
		best = max(best, rankPattern(strings.TrimSuffix(pattern, "."), name))
	}
	return best
}

func rankPattern(pattern, name string) int {
	if suffix, wild := strings.CutPrefix(pattern, "*."); wild {
		label, parent, _ := strings.Cut(name, ".")
		if label != "" && parent != "" && strings.EqualFold(parent, suffix) {
			return matchWildcard
		}
		return matchNone
	}
	if strings.EqualFold(pattern, name) {
		return matchExact
	}
	return matchNone
}

// Route returns the index of the match with the highest rank, the first of equals; -1
// when none matches.
func Route(matches []Match, h Hello) int {
	best, rank := -1, 0
	for i, m := range matches {
		if r := m.Rank(h); r > rank {
			best, rank = i, r
		}
	}
	return best
}
