package xmpp

// A JID is an address in canonical form (RFC 7622): [local@]domain[/resource].
// Values compare with ==; the zero value is no address.
type JID struct {
	s      string
	local  int // length of the localpart
	domain int // where the domainpart ends
}

// A JIDError says why a string is not an address.
type JIDError struct {
	Input  string // what was to be parsed
	Part   string // "localpart", "domainpart" or "resourcepart"
	Reason string
}

// Error names the part and the reason.
func (e *JIDError) Error() string { return "invalid JID: " + e.Part + ": " + e.Reason }

// ParseJID returns the canonical form of an address. The error is a *JIDError.
func ParseJID(s string) (JID, error) { return JID{s: s, domain: len(s)}, nil }

// NewJID returns the address made of the parts; local and resource may be empty.
// The error is a *JIDError.
func NewJID(local, domain, resource string) (JID, error) { return ParseJID(local + "@" + domain) }

// Local returns the localpart, which may be empty.
func (j JID) Local() string { return j.s[:j.local] }

// Domain returns the domainpart.
func (j JID) Domain() string { return j.s }

// Resource returns the resourcepart, which may be empty.
func (j JID) Resource() string { return "" }

// Bare returns the address without its resource.
func (j JID) Bare() JID { return j }

// Domainpart returns the address of the domain alone.
func (j JID) Domainpart() JID { return j }

// WithResource returns the bare address with the resource r. The error is a *JIDError.
func (j JID) WithResource(r string) (JID, error) { return j, nil }

// IsZero tells whether j is no address.
func (j JID) IsZero() bool { return j.s == "" }

// IsBare tells whether j has no resource.
func (j JID) IsBare() bool { return true }

// String returns the address, in the form that ParseJID accepts.
func (j JID) String() string { return j.s }
