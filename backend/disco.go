package backend

import (
	"context"
	"slices"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// What service discovery (XEP-0030) says of the server and of a user. Only what is
// there is named.
var (
	serverFeatures = []string{ //nolint:gochecknoglobals // A constant list.
		xmpp.NSDiscoInfo, xmpp.NSDiscoItems, xmpp.NSPing, xmpp.NSRoster, xmpp.NSCarbons,
		xmpp.NSBlocking, xmpp.NSReporting, xmpp.NSPrivate, xmpp.NSVCard, xmpp.NSCaps, xmpp.NSCaps + "#optimize", xmpp.NSCaps2, xmpp.NSCaps2 + ":optimize",
		xmpp.NSCommands, xmpp.NSVersion, xmpp.NSTime, xmpp.NSLast, "msgoffline", // XEP-0160
	}
	//nolint:gochecknoglobals // A constant list.
	userFeatures = []string{
		xmpp.NSDiscoInfo, xmpp.NSDiscoItems, xmpp.NSPing, xmpp.NSLast,
		xmpp.NSPrivate, xmpp.NSVCard, xmpp.NSMAM, xmpp.NSMAM + "#extended", xmpp.NSMAM + "#groupchat-field", xmpp.NSRSM, xmpp.NSStanzaID,
	}
)

// serverInfo is what the server is and can.
func serverInfo(o Options) discoInfo {
	info := discoInfo{
		// The language is that of the stream, which counts for the hashes.
		identities: []discoIdentity{{category: "server", kind: "im", lang: "en", name: "imlb"}},
		features:   serverFeatures,
	}
	if o.Registration.any() {
		info.features = append(slices.Clone(info.features), xmpp.NSRegister)
	}
	if form, ok := o.Contacts.form(); ok {
		info.forms = append(info.forms, form)
	}
	return info
}

//nolint:gochecknoglobals // Constants.
var (
	userInfo = discoInfo{
		identities: []discoIdentity{{category: "account", kind: "registered"}},
		features:   userFeatures,
	}
	// contactInfo is what an account is to those who may see it.
	contactInfo = discoInfo{
		identities: userInfo.identities,
		features:   []string{xmpp.NSDiscoInfo, xmpp.NSDiscoItems, xmpp.NSLast, xmpp.NSVCard},
	}
)

// discoInfo answers what the server, or the user, is and can. The server has nodes
// beside itself: the names of its capabilities, and commands.
func (s *session) discoInfo(ctx context.Context, q request) error {
	if q.to.Local() != "" {
		return s.replyInfo(q, userInfo)
	}
	node, _ := q.payload.Attr("node")
	if !slices.Contains(s.node.caps.nodes, node) {
		if known, err := s.discoCommands(ctx, q, node); known || err != nil {
			return err
		}
		return xmpp.NewStanzaError(xmpp.ItemNotFound, "")
	}
	q.reply(s.node.caps.info.append(nil, node))
	return nil
}

// replyInfo answers for an entity without nodes.
func (s *session) replyInfo(q request, info discoInfo) error {
	if node, _ := q.payload.Attr("node"); node != "" {
		return xmpp.NewStanzaError(xmpp.ItemNotFound, "")
	}
	q.reply(info.append(nil, ""))
	return nil
}

// discoItems answers what else is there: nothing but commands (XEP-0050 §2.2).
func (s *session) discoItems(ctx context.Context, q request) error {
	if node, ok := q.payload.Attr("node"); ok && node != "" {
		if node == xmpp.NSCommands && q.to.Local() == "" {
			return s.listCommands(ctx, q)
		}
		return xmpp.NewStanzaError(xmpp.ItemNotFound, "")
	}
	q.reply([]byte("<query xmlns='" + xmpp.NSDiscoItems + "'/>"))
	return nil
}

// discoOther answers a contact who may see the user what it is (XEP-0030 §8).
func (s *session) discoOther(ctx context.Context, q request) error {
	if err := s.hub.loadRoster(ctx); err != nil {
		return err
	}
	condition, _, err := s.findUser(ctx, q.to)
	if err != nil {
		return err
	}
	if condition != "" || !s.hub.sees(q.to.String()) {
		return xmpp.NewStanzaError(xmpp.ServiceUnavailable, "")
	}
	if q.payload.Space() == xmpp.NSDiscoItems {
		return s.discoItems(ctx, q)
	}
	return s.replyInfo(q, contactInfo)
}

// sees tells whether the user may see the presence of a contact.
func (h *hub) sees(contact string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.roster[contact].subscription&store.SubscriptionTo != 0
}
