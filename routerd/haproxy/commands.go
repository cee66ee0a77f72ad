package haproxy

import (
	"context"
	"strings"
)

// Op is a command together with what HAProxy says when it has succeeded. Ops go together through Do.
type Op struct {
	command Command
	ok      func(Answer) bool
}

// String returns the command without its payload.
func (o Op) String() string { return o.command.String() }

// silent is how commands succeed that have nothing to say.
func silent(a Answer) bool { return a.text == "" }

// saying returns what is true of answers that hold one of the texts. What HAProxy says of one command may begin with
// what it said of earlier ones: so the severity counts, and not only the texts.
func saying(texts ...string) func(Answer) bool {
	return func(a Answer) bool {
		if a.severity >= 0 && a.severity <= 3 {
			return false
		}
		for _, t := range texts {
			if strings.Contains(a.text, t) {
				return true
			}
		}
		return false
	}
}

// Do executes operations in order. The error is a *RefusedError for the first that HAProxy refused; those
// after it were executed all the same. When one of them cannot be written as a command, none was executed.
func (r *Runtime) Do(ctx context.Context, ops ...Op) error {
	refused, err := r.Try(ctx, ops...)
	if err == nil && len(refused) > 0 {
		err = refused[0]
	}
	return err
}

// Try is Do, and returns all refusals.
func (r *Runtime) Try(ctx context.Context, ops ...Op) ([]*RefusedError, error) {
	commands := make([]Command, len(ops))
	for i, o := range ops {
		commands[i] = o.command
	}
	answers, err := r.Exec(ctx, commands...)
	if err != nil {
		return nil, err
	}
	var refused []*RefusedError
	for i, a := range answers {
		if !ops[i].ok(a) {
			refused = append(refused,
				&RefusedError{Command: ops[i].String(), Answer: a.text, File: ops[i].command.file})
		}
	}
	return refused, nil
}

// ask executes one command whose answer is data.
func (r *Runtime) ask(ctx context.Context, c Command) (string, error) {
	texts, err := r.askAll(ctx, []Command{c})
	if err != nil {
		return "", err
	}
	return texts[0], nil
}

// askAll executes commands whose answers are data.
func (r *Runtime) askAll(ctx context.Context, commands []Command) ([]string, error) {
	answers, err := r.Exec(ctx, commands...)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(answers))
	for i, a := range answers {
		if a.severity >= 0 && strings.Contains(a.text, lockedAnswer) {
			return nil, ErrLocked
		}
		if a.severity >= 0 {
			return nil, &RefusedError{Command: commands[i].String(), Answer: a.text}
		}
		texts[i] = a.text
	}
	return texts, nil
}

// Info asks the worker about itself.
func (r *Runtime) Info(ctx context.Context) (Info, error) {
	text, err := r.ask(ctx, Cmd("show", "info"))
	if err != nil {
		return Info{}, err
	}
	return parseInfo(text)
}
