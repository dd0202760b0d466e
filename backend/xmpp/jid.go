package xmpp

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/secure/precis"
)

// A JID is an address in canonical form (RFC 7622): [local@]domain[/resource].
// Values compare with ==; the zero value is no address.
type JID struct {
	s      string
	local  int // length of the localpart
	domain int // where the domainpart ends
}

// The parts of an address, as a JIDError names them.
const (
	localpart    = "localpart"
	domainpart   = "domainpart"
	resourcepart = "resourcepart"
)

// maxPart is the greatest length of each part, in bytes (RFC 7622 §3.2, §3.3, §3.4).
const maxPart = 1023

// A JIDError says why a string is not an address.
type JIDError struct {
	Input  string // the part, or all of what was to be parsed
	Part   string // "localpart", "domainpart" or "resourcepart"
	Reason string
}

// Error names the part and the reason.
func (e *JIDError) Error() string { return "invalid JID: " + e.Part + " " + e.Reason }

// ParseJID returns the canonical form of an address. The error is a *JIDError.
func ParseJID(s string) (JID, error) {
	bare, resource, hasResource := strings.Cut(s, "/")
	local, domain, hasLocal := strings.Cut(bare, "@")
	if !hasLocal {
		local, domain = "", bare
	}
	switch {
	case hasLocal && local == "":
		return JID{}, &JIDError{s, localpart, "is empty"}
	case hasResource && resource == "":
		return JID{}, &JIDError{s, resourcepart, "is empty"}
	}
	return NewJID(local, domain, resource)
}

// NewJID returns the address made of the parts; local and resource may be empty, which
// leaves them out. The error is a *JIDError.
func NewJID(local, domain, resource string) (JID, error) {
	domain, err := canonicalDomain(domain)
	if err != nil {
		return JID{}, err
	}
	if local != "" {
		if local, err = canonicalLocal(local); err != nil {
			return JID{}, err
		}
	}
	if resource != "" {
		if resource, err = canonicalResource(resource); err != nil {
			return JID{}, err
		}
	}
	return join(local, domain, resource), nil
}

// join puts canonical parts together.
func join(local, domain, resource string) JID {
	j := JID{local: len(local), domain: len(domain)}
	if local != "" {
		j.domain += len(local) + len("@")
	}
	switch {
	case local != "" && resource != "":
		j.s = local + "@" + domain + "/" + resource
	case local != "":
		j.s = local + "@" + domain
	case resource != "":
		j.s = domain + "/" + resource
	default:
		j.s = domain
	}
	return j
}

// Local returns the localpart, which may be empty.
func (j JID) Local() string { return j.s[:j.local] }

// Domain returns the domainpart.
func (j JID) Domain() string {
	if j.local == 0 {
		return j.s[:j.domain]
	}
	return j.s[j.local+len("@") : j.domain]
}

// Resource returns the resourcepart, which may be empty.
func (j JID) Resource() string {
	if j.IsBare() {
		return ""
	}
	return j.s[j.domain+len("/"):]
}

// Bare returns the address without its resource.
func (j JID) Bare() JID { return JID{s: j.s[:j.domain], local: j.local, domain: j.domain} }

// Domainpart returns the address of the domain alone.
func (j JID) Domainpart() JID { return join("", j.Domain(), "") }

// WithResource returns the bare address with the resource r, which must not be empty. The
// error is a *JIDError.
func (j JID) WithResource(r string) (JID, error) {
	r, err := canonicalResource(r)
	if err != nil {
		return JID{}, err
	}
	return join(j.Local(), j.Domain(), r), nil
}

// IsZero tells whether j is no address.
func (j JID) IsZero() bool { return j.s == "" }

// IsBare tells whether j has no resource.
func (j JID) IsBare() bool { return len(j.s) == j.domain }

// String returns the address, in the form that ParseJID accepts.
func (j JID) String() string { return j.s }

// canonicalLocal applies the profile UsernameCaseMapped and forbids what separates
// the parts, or would be awkward in URIs and XML (RFC 7622 §3.3.1).
func canonicalLocal(s string) (string, error) {
	out, err := enforce(precis.UsernameCaseMapped, localpart, s)
	if err != nil {
		return "", err
	}
	if strings.ContainsAny(out, "\"&'/:<>@") {
		return "", &JIDError{s, localpart, "has a forbidden character"}
	}
	return out, nil
}

// canonicalResource applies the profile OpaqueString (RFC 7622 §3.4).
func canonicalResource(s string) (string, error) {
	return enforce(precis.OpaqueString, resourcepart, s)
}

// maxEnforce is how often a profile is applied until nothing changes any more. RFC 8264 §7
// knows of strings that need more than one pass, and none that need more than three.
const maxEnforce = 4

// enforce applies a profile, without its cost where ASCII makes it plain.
func enforce(profile *precis.Profile, part, s string) (string, error) {
	if len(s) > maxPart {
		return "", &JIDError{s, part, "is too long"}
	}
	if plain(profile == precis.UsernameCaseMapped, s) {
		return s, checkLength(part, s)
	}
	if !utf8.ValidString(s) {
		return "", &JIDError{s, part, "is not UTF-8"}
	}
	out := s
	for range maxEnforce {
		next, err := profile.String(out)
		switch {
		case err != nil:
			return "", &JIDError{s, part, "is not allowed: " + err.Error()}
		case next == out:
			return out, checkLength(part, out)
		}
		out = next
	}
	return "", &JIDError{s, part, "has no canonical form"}
}

// plain tells whether s is ASCII that the profile leaves as it is: printable, and for user
// names without space and capitals.
func plain(username bool, s string) bool {
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' || username && (c == ' ' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return true
}

func checkLength(part, s string) error {
	switch {
	case s == "":
		return &JIDError{s, part, "is empty"}
	case len(s) > maxPart:
		return &JIDError{s, part, "is too long"}
	default:
		return nil
	}
}

// domains maps as RFC 5895 does and checks as IDNA2008 does; it yields U-labels.
var domains = idna.New(
	idna.MapForLookup(),
	idna.StrictDomainName(true),
	idna.CheckHyphens(true),
	idna.CheckJoiners(true),
	idna.BidiRule(),
)

// canonicalDomain returns a host name in U-labels and lower case without a final dot, or an
// IP address in its usual form, version 6 in brackets (RFC 7622 §3.2).
func canonicalDomain(s string) (string, error) {
	if len(s) > maxPart+1 {
		return "", &JIDError{s, domainpart, "is too long"}
	}
	if strings.HasPrefix(s, "[") {
		return canonicalIPv6(s)
	}
	host := strings.TrimSuffix(s, ".")
	if isHostName(host) {
		return host, checkLength(domainpart, host)
	}
	if !utf8.ValidString(host) {
		return "", &JIDError{s, domainpart, "is not UTF-8"}
	}
	out, err := domains.ToUnicode(host)
	if err != nil {
		return "", &JIDError{s, domainpart, "is no host name: " + err.Error()}
	}
	if host == s { // a final dot that IDNA has made of another one
		out = strings.TrimSuffix(out, ".")
	}
	if again, err := domains.ToUnicode(out); err != nil || again != out || !labelsOK(out) {
		return "", &JIDError{s, domainpart, "is no host name"}
	}
	return out, checkLength(domainpart, out)
}

// canonicalIPv6 returns an IPv6 address in brackets as RFC 5952 writes it.
func canonicalIPv6(s string) (string, error) {
	inside, ok := strings.CutSuffix(s[1:], "]")
	addr, err := netip.ParseAddr(inside)
	if !ok || err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", &JIDError{s, domainpart, "is no IPv6 address"}
	}
	return "[" + addr.String() + "]", nil
}

// isHostName tells whether s is a lower-case ASCII host name that IDNA leaves as it is.
func isHostName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return !strings.Contains(s, "--") && labelsOK(s)
}

// labelsOK checks what holds for the labels of every host name (RFC 1123 §2.1).
func labelsOK(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 && isASCII(label) || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
