package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// What the commands of XEP-0133 do.

// address reads an answer that is the address of a user of this server.
func (r *commandRun) address(text string) (xmpp.JID, error) {
	jid, err := xmpp.ParseJID(text)
	if err != nil {
		return jid, xmpp.NewStanzaError(xmpp.JIDMalformed, text+" is no address")
	}
	if jid.Local() == "" || jid.Domain() != r.session.node.opts.Domain {
		return jid, xmpp.NewStanzaError(xmpp.ItemNotFound, text+" is no user of "+r.session.node.opts.Domain)
	}
	return jid, nil
}

// account reads an answer that is the address of an account, which no resource belongs to: whoever
// gives one means something else.
func (r *commandRun) account(text string) (xmpp.JID, error) {
	jid, err := r.address(text)
	if err == nil && !jid.IsBare() {
		return jid, xmpp.NewStanzaError(xmpp.ItemNotFound, text+" is no account: its address would have no resource")
	}
	return jid, err
}

// target is a user that is there.
type target struct {
	jid     xmpp.JID // as it was answered
	account store.Account
}

// targets looks up the users that the answers to a field name. All have to be there, so
// that a command does nothing rather than a part.
func (r *commandRun) targets(ctx context.Context, field string) ([]target, error) {
	return r.lookUp(ctx, field, r.account)
}

// lookUp is targets, with what reads an answer.
func (r *commandRun) lookUp(ctx context.Context, field string, read func(text string) (xmpp.JID, error)) ([]target, error) {
	var all []target
	for _, text := range r.answers[field] {
		jid, err := read(text)
		if err != nil {
			return nil, err
		}
		query, cancel := r.session.node.storeContext(ctx)
		account, err := r.session.node.store.Account(query, jid.Bare().String())
		cancel()
		if errors.Is(err, store.ErrNotFound) {
			return nil, xmpp.NewStanzaError(xmpp.ItemNotFound, "there is no "+text)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, target{jid, account})
	}
	return all, nil
}

// others is targets without the admin itself: nobody shuts itself out by mistake.
func (r *commandRun) others(ctx context.Context, field string) ([]target, error) {
	all, err := r.targets(ctx, field)
	if slices.ContainsFunc(all, func(t target) bool { return t.account.Owner == r.session.account.Owner }) {
		return nil, xmpp.NewStanzaError(xmpp.NotAllowed, "this is your own account")
	}
	return all, err
}

// each does something to the others that a field names, and tells all nodes.
func (r *commandRun) each(ctx context.Context, done string, do func(ctx context.Context, t target) error) (outcome, error) {
	all, err := r.others(ctx, "accountjids")
	if err != nil {
		return outcome{}, err
	}
	var names []string
	for _, t := range all {
		if err := do(ctx, t); err != nil && !errors.Is(err, store.ErrNotFound) { // somebody else has deleted it
			return outcome{}, fmt.Errorf("%s: %w", t.account.User, err)
		}
		r.session.node.accountChanged(t.account.User)
		names = append(names, t.account.User)
	}
	return outcome{note: done + ": " + strings.Join(names, ", ")}, nil
}

func addUser(ctx context.Context, r *commandRun) (outcome, error) {
	n := r.session.node
	jid, err := r.account(r.answer("accountjid"))
	if err != nil {
		return outcome{}, err
	}
	secret := r.answer("password")
	if secret != r.answer("password-verify") {
		return outcome{}, xmpp.NewStanzaError(xmpp.NotAcceptable, "the passwords differ")
	}
	if err := n.checkPassword(secret); err != nil {
		return outcome{}, err
	}
	return outcome{note: "added: " + jid.String()}, n.createAccount(ctx, jid, secret)
}

func deleteUsers(ctx context.Context, r *commandRun) (outcome, error) {
	return r.each(ctx, "deleted", func(ctx context.Context, t target) error {
		return r.session.node.removeUser(ctx, t.jid)
	})
}

func disableUsers(ctx context.Context, r *commandRun) (outcome, error) {
	state := store.AccountState{Suspended: true, Reason: r.answer(fieldReason)}
	if until := r.answer(fieldUntil); until != "" {
		var err error
		if state.Until, err = time.Parse(time.RFC3339, until); err != nil || !state.Until.After(time.Now()) {
			return outcome{}, xmpp.NewStanzaError(xmpp.NotAcceptable, "until is a time to come, like 2027-01-31T12:00:00Z")
		}
	}
	return r.each(ctx, "suspended", r.setState(state))
}

// setState gives an account a state.
func (r *commandRun) setState(state store.AccountState) func(context.Context, target) error {
	return func(ctx context.Context, t target) error {
		query, cancel := r.session.node.storeContext(ctx)
		defer cancel()
		return r.session.node.store.SetState(query, t.account.User, state)
	}
}

func enableUsers(ctx context.Context, r *commandRun) (outcome, error) {
	return r.each(ctx, "enabled", r.setState(store.AccountState{}))
}

func endSessions(ctx context.Context, r *commandRun) (outcome, error) {
	all, err := r.lookUp(ctx, "accountjids", r.address)
	if err != nil {
		return outcome{}, err
	}
	var names []string
	for _, t := range all {
		r.session.node.publishControl(t.account.User, control{Kick: &kick{Resource: t.jid.Resource()}})
		names = append(names, t.jid.String())
	}
	return outcome{note: "ended: " + strings.Join(names, ", ")}, nil
}

func changeUserPassword(ctx context.Context, r *commandRun) (outcome, error) {
	jid, err := r.account(r.answer("accountjid"))
	if err != nil {
		return outcome{}, err
	}
	if err := r.session.node.checkPassword(r.answer("password")); err != nil {
		return outcome{}, err
	}
	return outcome{note: "changed: " + jid.String()}, r.session.node.setPassword(ctx, jid.String(), r.answer("password"))
}

func lastLogins(ctx context.Context, r *commandRun) (outcome, error) {
	all, err := r.targets(ctx, "accountjids")
	if err != nil {
		return outcome{}, err
	}
	users, times := xmpp.FormField{Var: "accountjids", Type: "jid-multi"}, xmpp.FormField{Var: "lastlogin", Type: "text-multi"}
	for _, t := range all {
		login := "never"
		if !t.account.LastLogin.IsZero() {
			login = t.account.LastLogin.Format(time.RFC3339)
		}
		users.Values, times.Values = append(users.Values, t.account.User), append(times.Values, login)
	}
	return outcome{fields: []xmpp.FormField{users, times}}, nil
}

func userStats(ctx context.Context, r *commandRun) (outcome, error) {
	all, err := r.targets(ctx, "accountjid")
	if err != nil {
		return outcome{}, err
	}
	n, account := r.session.node, all[0].account
	query, cancel := n.storeContext(ctx)
	defer cancel()
	items, _, err := n.store.Roster(query, account.Owner)
	if err != nil {
		return outcome{}, err
	}
	sessions, err := n.store.SessionsOf(query, account.Owner)
	if err != nil {
		return outcome{}, err
	}
	visible := 0
	for _, it := range items {
		if it.InRoster {
			visible++
		}
	}
	var resources []string
	for _, s := range sessions {
		resources = append(resources, s.Resource)
	}
	return outcome{fields: []xmpp.FormField{
		{Var: "rostersize", Type: "text-single", Values: []string{strconv.Itoa(visible)}},
		{Var: "onlineresources", Type: "text-multi", Values: resources},
	}}, nil
}

func countUsers(which store.AccountFilter, field string) func(context.Context, *commandRun) (outcome, error) {
	return func(ctx context.Context, r *commandRun) (outcome, error) {
		query, cancel := r.session.node.storeContext(ctx)
		defer cancel()
		count, err := r.session.node.store.CountAccounts(query, which)
		return outcome{fields: []xmpp.FormField{{Var: field, Type: "text-single", Values: []string{strconv.Itoa(count)}}}}, err
	}
}

// listMax is how many users a list has at most, whatever was asked for.
const listMax = 1000

func listUsers(which store.AccountFilter, field string) func(context.Context, *commandRun) (outcome, error) {
	return func(ctx context.Context, r *commandRun) (outcome, error) {
		most, err := strconv.Atoi(r.answer("max_items"))
		if err != nil {
			most = listMax
		}
		query, cancel := r.session.node.storeContext(ctx)
		defer cancel()
		found, err := r.session.node.store.FindAccounts(query, which, "", most+1)
		if err != nil {
			return outcome{}, err
		}
		done := outcome{}
		if len(found) > most {
			found, done.note = found[:most], "there are more"
		}
		list := xmpp.FormField{Var: field, Type: "jid-multi"}
		for _, a := range found {
			list.Values = append(list.Values, a.User)
		}
		done.fields = []xmpp.FormField{list}
		return done, nil
	}
}

// announce sends a headline to all who are online: it is of the moment.
func announce(ctx context.Context, r *commandRun) (outcome, error) {
	n := r.session.node
	message := append([]byte("<message type='headline' from='"+n.opts.Domain+"'><body>"),
		xmpp.AppendEscaped(nil, strings.Join(r.answers["announcement"], "\n"))...)
	message = append(message, "</body></message>"...)
	const page = 500
	told := 0
	for after := ""; ; {
		query, cancel := n.storeContext(ctx)
		online, err := n.store.FindAccounts(query, store.OnlineAccounts, after, page)
		cancel()
		if err != nil {
			return outcome{}, err
		}
		for _, a := range online {
			n.publish(bus.Signal{Kind: bus.Stanza, User: a.User, Data: addressed(message, a.User)})
			after = a.User
		}
		told += len(online)
		if len(online) < page {
			return outcome{note: "users who are told: " + strconv.Itoa(told)}, nil
		}
	}
}

// askRole shows the role that a user has.
func askRole(ctx context.Context, r *commandRun) (xmpp.Form, error) {
	all, err := r.others(ctx, "accountjid")
	if err != nil {
		return xmpp.Form{}, err
	}
	field := xmpp.FormField{
		Var: fieldRole, Type: "list-single", Label: "Role of " + all[0].account.User, Required: true, Values: []string{all[0].account.Role.String()},
	}
	for _, role := range store.Roles() {
		field.Options = append(field.Options, role.String())
	}
	return adminForm("form", r.command.name, "", field), nil
}

func setRole(ctx context.Context, r *commandRun) (outcome, error) {
	all, err := r.others(ctx, "accountjid")
	if err != nil {
		return outcome{}, err
	}
	role, err := store.ParseRole(r.answer(fieldRole))
	if err != nil {
		return outcome{}, xmpp.NewStanzaError(xmpp.NotAcceptable, err.Error())
	}
	query, cancel := r.session.node.storeContext(ctx)
	defer cancel()
	user := all[0].account.User
	if err := r.session.node.store.SetRole(query, user, role); err != nil {
		return outcome{}, err
	}
	r.session.node.accountChanged(user)
	return outcome{note: user + " has the role " + role.String()}, nil
}
