package backend

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Ad-hoc commands (XEP-0050). A command asks for what it needs with a form for each of
// its stages, and then does its work. What was answered so far is kept with the
// session, for a while: nobody else can go on with it.

// command is one of the server's commands.
type command struct {
	node, name string
	stages     []stage // none: it needs nothing
	do         func(ctx context.Context, r *commandRun) (outcome, error)
}

// stage makes the form of a stage from the answers to those before it.
type stage func(ctx context.Context, r *commandRun) (xmpp.Form, error)

// outcome is what a command that is done tells.
type outcome struct {
	note   string
	fields []xmpp.FormField
}

// commandRun is a command that is being executed.
type commandRun struct {
	session *session
	command *command
	id      string
	stage   int
	form    xmpp.Form // of the stage
	answers map[string][]string
	expires time.Time
}

const (
	// runsMax bounds the commands that one client executes at a time. The oldest one
	// has to go for another.
	runsMax = 10
	// runTime is how long a command waits for the next answer.
	runTime = 10 * time.Minute
)

// The actions of §4.1; execute is what the stage says.
const (
	actionExecute  = "execute"
	actionNext     = "next"
	actionPrev     = "prev"
	actionComplete = "complete"
	actionCancel   = "cancel"
)

// commandError is an error with a condition of this protocol's own (§4.4).
func commandError(condition, own string) error {
	e := xmpp.NewStanzaError(condition, "")
	e.App = "<" + own + " xmlns='" + xmpp.NSCommands + "'/>"
	return e
}

// isAdmin asks the store, so that who is no admin any more can do nothing.
func (s *session) isAdmin(ctx context.Context) (bool, error) {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	account, err := s.node.store.Account(query, s.account.User)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return account.Role == store.RoleAdmin, err
}

// runCommand executes a command, or goes on with it.
func (s *session) runCommand(ctx context.Context, q request) error {
	if !q.payload.Is(xmpp.NSCommands, "command") {
		return xmpp.NewStanzaError(xmpp.BadRequest, "")
	}
	node, _ := q.payload.Attr("node")
	c := findCommand(node)
	if c == nil {
		return xmpp.NewStanzaError(xmpp.ItemNotFound, "there is no such command")
	}
	switch admin, err := s.isAdmin(ctx); {
	case err != nil:
		return err
	case !admin:
		return xmpp.NewStanzaError(xmpp.Forbidden, "")
	}
	action, _ := q.payload.Attr("action")
	switch action {
	case "":
		action = actionExecute
	case actionExecute, actionNext, actionPrev, actionComplete, actionCancel:
	default:
		return commandError(xmpp.BadRequest, "malformed-action")
	}
	id, given := q.payload.Attr("sessionid")
	if !given {
		return s.beginCommand(ctx, q, c, action)
	}
	r, err := s.findRun(id, c)
	if err != nil {
		return err
	}
	return r.act(ctx, q, action)
}

// beginCommand asks for what a command needs first, or does it.
func (s *session) beginCommand(ctx context.Context, q request, c *command, action string) error {
	if action != actionExecute {
		return commandError(xmpp.BadRequest, "bad-sessionid")
	}
	r := &commandRun{session: s, command: c, id: randomID(), answers: make(map[string][]string)}
	if len(c.stages) == 0 {
		return r.finish(ctx, q)
	}
	if err := r.show(ctx, q, 0); err != nil {
		return err
	}
	s.keepRun(r)
	return nil
}

// keepRun remembers a run. Those that have expired, or the oldest one, make room.
func (s *session) keepRun(r *commandRun) {
	now := time.Now()
	s.runs = slices.DeleteFunc(s.runs, func(r *commandRun) bool { return !now.Before(r.expires) })
	if len(s.runs) >= runsMax {
		s.runs = slices.Delete(s.runs, 0, 1)
	}
	s.runs = append(s.runs, r)
}

func (s *session) dropRun(r *commandRun) {
	s.runs = slices.DeleteFunc(s.runs, func(other *commandRun) bool { return other == r })
}

func (s *session) findRun(id string, c *command) (*commandRun, error) {
	i := slices.IndexFunc(s.runs, func(r *commandRun) bool { return r.id == id && r.command == c })
	if i < 0 {
		return nil, commandError(xmpp.BadRequest, "bad-sessionid")
	}
	r := s.runs[i]
	if !time.Now().Before(r.expires) {
		s.dropRun(r)
		return nil, commandError(xmpp.NotAllowed, "session-expired")
	}
	return r, nil
}

// act does what the client wants next (§3.4).
func (r *commandRun) act(ctx context.Context, q request, action string) error {
	last := r.stage == len(r.command.stages)-1
	if action == actionExecute {
		action = actionNext
		if last {
			action = actionComplete
		}
	}
	switch {
	case action == actionCancel:
		r.session.dropRun(r)
		r.reply(q, "canceled", nil)
		return nil
	case action == actionPrev && r.stage > 0:
		return r.show(ctx, q, r.stage-1)
	case action == actionPrev, last != (action == actionComplete):
		return commandError(xmpp.BadRequest, "bad-action")
	}
	if err := r.take(q.payload); err != nil {
		return err
	}
	if !last {
		return r.show(ctx, q, r.stage+1)
	}
	return r.finish(ctx, q)
}

// take reads the answers to the form of the stage.
func (r *commandRun) take(payload xmpp.Element) error {
	x, ok := payload.Child(xmpp.NSDataForm, "x")
	if !ok {
		return commandError(xmpp.BadRequest, "bad-payload")
	}
	submitted, ok := xmpp.ParseForm(x)
	kind := submitted.Value(xmpp.FormType)
	if !ok || submitted.Type != "submit" || kind != "" && kind != xmpp.NSAdmin {
		return commandError(xmpp.BadRequest, "bad-payload")
	}
	for _, field := range r.form.Fields {
		if field.Var == xmpp.FormType {
			continue
		}
		values := slices.DeleteFunc(slices.Clone(submitted.Values(field.Var)), func(v string) bool {
			return v == "" && field.Type != "text-multi"
		})
		listed := len(field.Options) == 0 || !slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(field.Options, v) })
		if field.Required && len(values) == 0 || !listed {
			return commandError(xmpp.BadRequest, "bad-payload")
		}
		r.answers[field.Var] = values
	}
	return nil
}

// answer is the first answer to a field, or "".
func (r *commandRun) answer(name string) string {
	if values := r.answers[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// show asks the client for what a stage needs.
func (r *commandRun) show(ctx context.Context, q request, n int) error {
	form, err := r.command.stages[n](ctx, r)
	if err != nil {
		return err
	}
	r.stage, r.form, r.expires = n, form, time.Now().Add(runTime)
	r.reply(q, "executing", form.Append(r.actions()))
	return nil
}

// actions are what the client may do in the stage, beside cancelling.
func (r *commandRun) actions() []byte {
	list, otherwise := "", actionNext
	if r.stage > 0 {
		list = "<" + actionPrev + "/>"
	}
	if r.stage == len(r.command.stages)-1 {
		otherwise = actionComplete
	}
	return []byte("<actions execute='" + otherwise + "'>" + list + "<" + otherwise + "/></actions>")
}

// finish does the command. After an error the client may answer again.
func (r *commandRun) finish(ctx context.Context, q request) error {
	done, err := r.command.do(ctx, r)
	if err != nil {
		return err
	}
	r.session.dropRun(r)
	r.session.node.opts.Logger.InfoContext(ctx, "administration",
		slog.String("admin", r.session.account.User), slog.String("command", r.command.node), slog.String("outcome", done.note))
	var payload []byte
	if len(done.fields) > 0 {
		payload = adminForm("result", r.command.name, "", done.fields...).Append(nil)
	}
	if done.note != "" {
		payload = append(payload, "<note type='info'>"...)
		payload = xmpp.AppendEscaped(payload, done.note)
		payload = append(payload, "</note>"...)
	}
	r.reply(q, "completed", payload)
	return nil
}

func (r *commandRun) reply(q request, status string, payload []byte) {
	result := []byte("<command xmlns='" + xmpp.NSCommands + "'")
	result = appendAttr(result, "node", r.command.node)
	result = appendAttr(result, "sessionid", r.id)
	result = appendAttr(result, "status", status)
	result = append(append(result, '>'), payload...)
	q.reply(append(result, "</command>"...))
}
