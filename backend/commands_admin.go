package backend

import (
	"context"
	"slices"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Service administration (XEP-0133) by users with the role admin.

// setRoleNode is the node of a command of our own; so are the names of the fields that
// XEP-0133 does not have.
const (
	setRoleNode = "urn:imlb:admin:0#set-role"
	fieldReason = "{urn:imlb:admin:0}reason"
	fieldUntil  = "{urn:imlb:admin:0}until"
	fieldRole   = "{urn:imlb:admin:0}role"
)

// commands are all that there are, in the order in which they are listed.
var commands = adminCommands() //nolint:gochecknoglobals // A constant list.

func adminCommands() []*command {
	admin := func(node, name string, do func(context.Context, *commandRun) (outcome, error), stages ...stage) *command {
		return &command{node: xmpp.NSAdmin + "#" + node, name: name, do: do, stages: stages}
	}
	all := []*command{
		admin("add-user", "Add a user", addUser, asks("Who is it?", oneAccount(), password("password", "Password"), password("password-verify", "Password again"))),
		admin("delete-user", "Delete users", deleteUsers, asks("All that they have is deleted.", manyAccounts())),
		admin("disable-user", "Suspend users", disableUsers, asks("They cannot log in. What they have stays.", manyAccounts(),
			xmpp.FormField{Var: fieldReason, Type: "text-single", Label: "What they are told"},
			xmpp.FormField{Var: fieldUntil, Type: "text-single", Label: "Until when, like 2027-01-31T12:00:00Z; empty: until they are enabled again"})),
		admin("reenable-user", "Enable suspended users", enableUsers, asks("They can log in again.", manyAccounts())),
		admin("end-user-session", "End sessions", endSessions, asks("Of users, all of their sessions end; of full addresses, that one.", manyAccounts())),
		admin("change-user-password", "Change a password", changeUserPassword, asks("", oneAccount(), password("password", "Password"))),
		admin("get-user-lastlogin", "Get the time of the last login", lastLogins, asks("", manyAccounts())),
		admin("user-stats", "Get what a user has", userStats, asks("", oneAccount())),
		admin("announce", "Announce something to all who are online", announce, asks("", xmpp.FormField{
			Var: "announcement", Type: "text-multi", Label: "Announcement", Required: true,
		})),
		{node: setRoleNode, name: "Set the role of a user", do: setRole, stages: []stage{asks("", oneAccount()), askRole}},
	}
	for _, l := range []struct {
		which            store.AccountFilter
		word, name, list string
	}{
		{store.EveryAccount, "registered", "registered users", "registereduserjids"},
		{store.SuspendedAccounts, "disabled", "suspended users", "disableduserjids"},
		{store.OnlineAccounts, "online", "users who are online", "onlineuserjids"},
	} {
		all = append(all,
			admin("get-"+l.word+"-users-num", "Get the number of "+l.name, countUsers(l.which, l.word+"usersnum")),
			admin("get-"+l.word+"-users-list", "Get a list of "+l.name, listUsers(l.which, l.list), asks("", xmpp.FormField{
				Var: "max_items", Type: "list-single", Label: "How many at most", Options: []string{"25", "50", "75", "100", "150", "200", "none"},
			})))
	}
	return all
}

func findCommand(node string) *command {
	if i := slices.IndexFunc(commands, func(c *command) bool { return c.node == node }); i >= 0 {
		return commands[i]
	}
	return nil
}

func oneAccount() xmpp.FormField {
	return xmpp.FormField{Var: "accountjid", Type: "jid-single", Label: "Address of the user", Required: true}
}

func manyAccounts() xmpp.FormField {
	return xmpp.FormField{Var: "accountjids", Type: "jid-multi", Label: "Addresses", Required: true}
}

func password(name, label string) xmpp.FormField {
	return xmpp.FormField{Var: name, Type: "text-private", Label: label, Required: true}
}

// adminForm makes a form of XEP-0133 §8.2.
func adminForm(kind, title, instructions string, fields ...xmpp.FormField) xmpp.Form {
	all := []xmpp.FormField{{Var: xmpp.FormType, Type: "hidden", Values: []string{xmpp.NSAdmin}}}
	return xmpp.Form{Type: kind, Title: title, Instructions: instructions, Fields: append(all, fields...)}
}

// asks makes a stage whose form is always the same.
func asks(instructions string, fields ...xmpp.FormField) stage {
	return func(_ context.Context, r *commandRun) (xmpp.Form, error) {
		return adminForm("form", r.command.name, instructions, fields...), nil
	}
}
