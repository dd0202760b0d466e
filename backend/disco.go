package backend

import (
	"slices"

	"imlb/backend/xmpp"
)

// What service discovery (XEP-0030) says of the server and of a user. Only what is
// there is named.
var (
	serverFeatures = []string{ //nolint:gochecknoglobals // A constant list.
		xmpp.NSDiscoInfo, xmpp.NSDiscoItems, xmpp.NSPing, xmpp.NSRoster, xmpp.NSCarbons,
		xmpp.NSVersion, xmpp.NSTime, xmpp.NSLast, "msgoffline", // XEP-0160
	}
	//nolint:gochecknoglobals // A constant list.
	userFeatures = []string{
		xmpp.NSDiscoInfo, xmpp.NSDiscoItems, xmpp.NSPing, xmpp.NSLast,
		xmpp.NSMAM, xmpp.NSMAM + "#extended", xmpp.NSStanzaID,
	}
)

const (
	serverIdentity = "<identity category='server' type='im' name='imlb'/>"
	userIdentity   = "<identity category='account' type='registered'/>"
)

// discoInfo answers what the server, or the user, is and can.
func (s *session) discoInfo(q request) error {
	if node, ok := q.payload.Attr("node"); ok && node != "" {
		return xmpp.NewStanzaError(xmpp.ItemNotFound, "")
	}
	identity, features := serverIdentity, serverFeatures
	if q.to.Local() != "" {
		identity, features = userIdentity, userFeatures
	}
	result := []byte("<query xmlns='" + xmpp.NSDiscoInfo + "'>" + identity)
	for _, f := range slices.Sorted(slices.Values(features)) {
		result = append(result, "<feature var='"+f+"'/>"...)
	}
	q.reply(append(result, "</query>"...))
	return nil
}

// discoItems answers what else is there: nothing.
func (s *session) discoItems(q request) error {
	if node, ok := q.payload.Attr("node"); ok && node != "" {
		return xmpp.NewStanzaError(xmpp.ItemNotFound, "")
	}
	q.reply([]byte("<query xmlns='" + xmpp.NSDiscoItems + "'/>"))
	return nil
}
