package backend

import (
	"crypto/sha1" //nolint:gosec // XEP-0115 wants it.
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"

	"imlb/backend/xmpp"
)

// discoInfo is what service discovery says of an entity (XEP-0030 §3).
type discoInfo struct {
	identities []discoIdentity
	features   []string
	forms      []discoForm
}

type discoIdentity struct{ category, kind, lang, name string }

// discoForm is a result form with more about the entity (XEP-0128).
type discoForm struct {
	kind   string // FORM_TYPE
	fields []discoField
}

type discoField struct {
	name   string
	kind   string
	values []string
}

// append appends a <query/>, of a node if that is not empty.
func (d discoInfo) append(dst []byte, node string) []byte {
	dst = append(dst, "<query xmlns='"+xmpp.NSDiscoInfo+"'"...)
	if node != "" {
		dst = appendAttr(dst, "node", node)
	}
	dst = append(dst, '>')
	for _, id := range d.identities {
		dst = id.append(dst)
	}
	for _, f := range slices.Sorted(slices.Values(d.features)) {
		dst = append(appendAttr(append(dst, "<feature"...), "var", f), "/>"...)
	}
	for _, form := range d.forms {
		dst = form.append(dst)
	}
	return append(dst, "</query>"...)
}

func (id discoIdentity) append(dst []byte) []byte {
	dst = appendAttr(append(dst, "<identity"...), "category", id.category)
	dst = appendAttr(dst, "type", id.kind)
	if id.lang != "" {
		dst = appendAttr(dst, "xml:lang", id.lang)
	}
	if id.name != "" {
		dst = appendAttr(dst, "name", id.name)
	}
	return append(dst, "/>"...)
}

func (f discoForm) append(dst []byte) []byte {
	dst = append(dst, "<x xmlns='"+xmpp.NSDataForm+"' type='result'>"...)
	for _, field := range f.all() {
		dst = appendAttr(append(dst, "<field"...), "type", field.kind)
		dst = append(appendAttr(dst, "var", field.name), '>')
		for _, v := range field.values {
			dst = xmpp.AppendEscaped(append(dst, "<value>"...), v)
			dst = append(dst, "</value>"...)
		}
		dst = append(dst, "</field>"...)
	}
	return append(dst, "</x>"...)
}

// all returns the fields, the one with the form's type first.
func (f discoForm) all() []discoField {
	return append([]discoField{{"FORM_TYPE", "hidden", []string{f.kind}}}, f.fields...)
}

// capsNode is the name of the software where XEP-0115 wants a URI.
const capsNode = "urn:imlb:node"

// ver is the verification string (XEP-0115 §5.1).
func (d discoInfo) ver() string {
	hash := sha1.Sum([]byte(d.verInput())) //nolint:gosec // See the import.
	return base64.StdEncoding.EncodeToString(hash[:])
}

func (d discoInfo) verInput() string {
	var b strings.Builder
	for _, id := range sorted(d.identities, func(id discoIdentity) string {
		return id.category + "/" + id.kind + "/" + id.lang + "/" + id.name
	}) {
		b.WriteString(id + "<")
	}
	for _, f := range slices.Sorted(slices.Values(d.features)) {
		b.WriteString(f + "<")
	}
	for _, form := range sorted(d.forms, discoForm.verInput) {
		b.WriteString(form)
	}
	return b.String()
}

func (f discoForm) verInput() string {
	byName := slices.SortedFunc(slices.Values(f.fields), func(a, b discoField) int { return strings.Compare(a.name, b.name) })
	text := f.kind + "<"
	for _, field := range byName {
		text += field.name + "<" + strings.Join(append(slices.Sorted(slices.Values(field.values)), ""), "<")
	}
	return text
}

// sorted returns the texts of all, sorted by their bytes.
func sorted[T any](all []T, text func(T) string) []string {
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = text(one)
	}
	slices.Sort(texts)
	return texts
}

// What separates the parts of what is hashed for XEP-0390.
const (
	capsFile   = "\x1c"
	capsGroup  = "\x1d"
	capsRecord = "\x1e"
	capsUnit   = "\x1f"
)

// capsHash is the SHA-256 hash of XEP-0390 §4.2.
func (d discoInfo) capsHash() string {
	hash := sha256.Sum256([]byte(d.capsInput()))
	return base64.StdEncoding.EncodeToString(hash[:])
}

// capsInput is what is hashed (XEP-0390 §4.1).
func (d discoInfo) capsInput() string {
	features := sorted(d.features, func(f string) string { return f + capsUnit })
	identities := sorted(d.identities, func(id discoIdentity) string {
		return id.category + capsUnit + id.kind + capsUnit + id.lang + capsUnit + id.name + capsUnit + capsRecord
	})
	forms := sorted(d.forms, func(f discoForm) string { return strings.Join(sorted(f.all(), discoField.capsInput), "") + capsGroup })
	return strings.Join(features, "") + capsFile + strings.Join(identities, "") + capsFile + strings.Join(forms, "") + capsFile
}

func (f discoField) capsInput() string {
	values := sorted(f.values, func(v string) string { return v + capsUnit })
	return f.name + capsUnit + strings.Join(values, "") + capsRecord
}

// capabilities are what the server is, and the names of just that.
type capabilities struct {
	info    discoInfo
	element string   // for the stream features: XEP-0115 §6.3, XEP-0390 §6
	nodes   []string // the nodes that stand for it
}

func newCapabilities(info discoInfo) capabilities {
	ver, hash := info.ver(), info.capsHash()
	return capabilities{
		info: info,
		element: "<c xmlns='" + xmpp.NSCaps + "' hash='sha-1' node='" + capsNode + "' ver='" + ver + "'/>" +
			"<c xmlns='" + xmpp.NSCaps2 + "'><hash xmlns='" + xmpp.NSHashes + "' algo='sha-256'>" + hash + "</hash></c>",
		nodes: []string{"", capsNode + "#" + ver, xmpp.NSCaps2 + "#sha-256." + hash},
	}
}
