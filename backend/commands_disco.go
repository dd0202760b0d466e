package backend

import (
	"context"

	"imlb/backend/xmpp"
)

// discoCommands answers what the list of commands, or one of them, is (§2.1); ok is
// false for other nodes, and for who may not use them.
func (s *session) discoCommands(ctx context.Context, q request, node string) (ok bool, err error) {
	c := findCommand(node)
	if q.to.Local() != "" || c == nil && node != xmpp.NSCommands {
		return false, nil
	}
	if admin, err := s.isAdmin(ctx); err != nil || !admin {
		return false, err
	}
	identity, name := "command-list", "Commands"
	if c != nil {
		identity, name = "command-node", c.name
	}
	result := appendAttr([]byte("<query xmlns='"+xmpp.NSDiscoInfo+"'"), "node", node)
	result = appendAttr(append(result, "><identity category='automation' type='"+identity+"'"...), "name", name)
	result = append(result, "/><feature var='"+xmpp.NSCommands+"'/>"...)
	if c != nil {
		result = append(result, "<feature var='"+xmpp.NSDataForm+"'/>"...)
	}
	q.reply(append(result, "</query>"...))
	return true, nil
}

// listCommands answers which commands there are (§2.2): for who may not use them, none.
func (s *session) listCommands(ctx context.Context, q request) error {
	admin, err := s.isAdmin(ctx)
	if err != nil {
		return err
	}
	result := []byte("<query xmlns='" + xmpp.NSDiscoItems + "' node='" + xmpp.NSCommands + "'>")
	for _, c := range commands {
		if !admin {
			break
		}
		result = appendAttr(append(result, "<item"...), "jid", s.node.opts.Domain)
		result = appendAttr(result, "node", c.node)
		result = append(appendAttr(result, "name", c.name), "/>"...)
	}
	q.reply(append(result, "</query>"...))
	return nil
}
