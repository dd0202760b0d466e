package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// DeleteUser deletes an account with all that it has, and ends the subscriptions
// between its user and others (XEP-0077 §3.2), so that nobody who takes the name later
// comes into them. Nodes end the user's sessions when they see that it is gone.
// What imports and deletions of that user that were interrupted have left goes as well.
// When it fails it can be done again. It returns what was erased.
func DeleteUser(ctx context.Context, s store.Store, user string) ([]store.Erased, error) {
	return deleteUser(ctx, s, user, func(contact store.Account, kind string) error {
		_, _, err := s.UpdateRoster(ctx, contact.Owner, user, func(it *store.RosterItem) bool {
			changed, _, _ := inboundSubscription(kind, nil, it)
			return changed
		})
		return err
	})
}

// deleteUser calls tell for what its contacts have to hear, and deletes the account.
func deleteUser(ctx context.Context, s store.Store, user string, tell func(contact store.Account, kind string) error) ([]store.Erased, error) {
	account, err := s.Account(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return eraseAll(ctx, s, user)
	}
	if err != nil {
		return nil, err
	}
	if err := endSubscriptions(ctx, s, account, tell); err != nil {
		return nil, err
	}
	return eraseAll(ctx, s, user)
}

// eraseAll erases the account of a user, and the one that was not finished.
func eraseAll(ctx context.Context, s store.Store, user string) ([]store.Erased, error) {
	erased, err := s.EraseAccount(ctx, user)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	unfinished, unfinishedErr := s.EraseAccount(ctx, store.UnfinishedName(user))
	if errors.Is(unfinishedErr, store.ErrNotFound) {
		return erased, err
	}
	return addErased(erased, unfinished), unfinishedErr
}

// addErased adds what was erased of one account to what was of another.
func addErased(to, more []store.Erased) []store.Erased {
	for _, e := range more {
		i := slices.IndexFunc(to, func(other store.Erased) bool { return other.Table == e.Table })
		if i < 0 {
			to = append(to, e)
		} else {
			to[i].Rows += e.Rows
		}
	}
	return to
}

// endSubscriptions calls tell for what the contacts of a user have to hear.
func endSubscriptions(ctx context.Context, s store.Store, account store.Account, tell func(contact store.Account, kind string) error) error {
	items, _, err := s.Roster(ctx, account.Owner)
	if err != nil {
		return err
	}
	for _, it := range items {
		contact, err := s.Account(ctx, it.Contact)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for _, kind := range subscriptionEnds(it) {
			if err := tell(contact, kind); err != nil {
				return fmt.Errorf("end the subscriptions with %s: %w", it.Contact, err)
			}
		}
	}
	return nil
}

// removeUser is DeleteUser, and tells who is online. accountChanged has to follow.
func (n *Node) removeUser(ctx context.Context, user xmpp.JID) error {
	_, err := deleteUser(ctx, n.store, user.String(), func(contact store.Account, kind string) error {
		to, err := xmpp.ParseJID(contact.User)
		if err != nil {
			return err
		}
		return n.receiveSubscription(ctx, kind, subscriptionStanza(kind, user, to), user, party{to, contact.Owner})
	})
	return err
}
