package chatload

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/xdg-go/scram"

	"imlb/backend/xmpp"
)

// mechanisms are those that the client speaks, the strongest first.
var mechanisms = []string{"SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"} //nolint:gochecknoglobals // A constant list.

func supported(mechanism string) bool { return slices.Contains(mechanisms, mechanism) }

// user is an account with the keys that were derived from its password: a client that
// logs in again and again keeps them (RFC 5802 §3), and only its first login
// costs it a PBKDF2.
type user struct {
	Account
	mu    sync.Mutex
	scram map[string]*scram.Client // by mechanism
}

// client returns the user's side of a SCRAM mechanism.
func (u *user) client(mechanism string) (*scram.Client, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c, ok := u.scram[mechanism]; ok {
		return c, nil
	}
	hash := map[string]scram.HashGeneratorFcn{"SCRAM-SHA-1": scram.SHA1, "SCRAM-SHA-256": scram.SHA256, "SCRAM-SHA-512": scram.SHA512}[mechanism]
	c, err := hash.NewClient(u.Name, u.Password, "")
	if err != nil {
		return nil, err
	}
	if u.scram == nil {
		u.scram = make(map[string]*scram.Client)
	}
	u.scram[mechanism] = c
	return c, nil
}

// choose returns the mechanism to log in with: the one that is wanted, or the
// strongest that is offered.
func choose(features xmpp.Element, want string) (string, error) {
	list, _ := features.Child(xmpp.NSSASL, "mechanisms")
	var offered []string
	for m := range list.Children() {
		offered = append(offered, m.Text())
	}
	for _, m := range mechanisms {
		if slices.Contains(offered, m) && (want == "" || want == m) {
			return m, nil
		}
	}
	return "", fmt.Errorf("mechanism %s is not among those offered: %q", want, offered)
}

// authenticate logs the user in (RFC 6120 §6.4).
func (s *stream) authenticate(mechanism string, u *user) error {
	if mechanism == "PLAIN" {
		return s.exchange(mechanism, []byte("\x00"+u.Name+"\x00"+u.Password), nil)
	}
	client, err := u.client(mechanism)
	if err != nil {
		return err
	}
	talk := client.NewConversation()
	first, err := talk.Step("")
	if err != nil {
		return err
	}
	return s.exchange(mechanism, []byte(first), talk)
}

// exchange takes SASL's steps until success. The conversation, if there is one, has to
// be content with the server too.
func (s *stream) exchange(mechanism string, first []byte, talk *scram.ClientConversation) error {
	frame := xmpp.SASLFrame{Kind: xmpp.SASLAuth, Mechanism: mechanism, Payload: first, HasPayload: true}
	for {
		if err := s.write(frame.Append(nil)); err != nil {
			return err
		}
		e, err := s.element()
		if err != nil {
			return err
		}
		answer, ok, err := xmpp.ParseSASL(e.Raw())
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("<%s/> instead of an answer to the login", e.Local())
		case answer.Kind == xmpp.SASLFailure:
			return &xmpp.SASLError{Condition: answer.Condition, Text: answer.Text}
		case answer.Kind == xmpp.SASLSuccess:
			return convince(talk, answer)
		case answer.Kind != xmpp.SASLChallenge || talk == nil:
			return fmt.Errorf("an unexpected <%s/>", answer.Kind)
		}
		said, err := talk.Step(string(answer.Payload))
		if err != nil {
			return err
		}
		frame = xmpp.SASLFrame{Kind: xmpp.SASLResponse, Payload: []byte(said), HasPayload: said != ""}
	}
}

// convince checks the server's proof that it knows the password too.
func convince(talk *scram.ClientConversation, success xmpp.SASLFrame) error {
	if talk == nil {
		return nil
	}
	if !talk.Done() {
		if _, err := talk.Step(string(success.Payload)); err != nil {
			return err
		}
	}
	if !talk.Valid() {
		return errors.New("the server does not prove that it knows the password")
	}
	return nil
}
