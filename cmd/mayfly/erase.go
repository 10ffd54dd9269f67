package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// eraseCmd is mayfly erase.
type eraseCmd struct {
	Human string `required:"" placeholder:"ID" help:"Who is to be erased."`
	Yes   bool   `short:"y" help:"Do not ask."`
}

// Help is the long help.
func (eraseCmd) Help() string {
	return `Destroys the key under which everything recorded about a human is sealed: nobody
can read it any more, and where their name stood, a pseudonym does. It cannot be
taken back. The log, its proofs and every certificate verify as before.

Every task for them must be retired: mayfly revoke --human ID ends what is live.
What left this store before, such as backups, exports and certificates, stays as
it is, and so does their name where they acted in somebody else's task.`
}

// Run erases.
func (c eraseCmd) Run(ctx context.Context, t *terminal) error {
	if in, ok := t.Stdin.(*os.File); ok && !c.Yes && term.IsTerminal(int(in.Fd())) {
		fmt.Fprintf(t.Stderr, "What is recorded about %s can be read by nobody after this. Type their id to go on: ", clean(c.Human))
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil || strings.TrimSpace(line) != c.Human {
			return usageError("nothing was erased")
		}
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	e, err := api.Erase(ctx, c.Human)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(e)
		return nil
	}
	fmt.Fprintf(t.Stdout, "%s is erased; records about them are about %s, and can be read by nobody\n", clean(c.Human), e.Person)
	for _, id := range e.Standing {
		fmt.Fprintf(t.Stdout, "the revocation %s still names them, because it still refuses them; mayfly revoke --lift %s ends that\n", id, id)
	}
	if !e.Scrubbed {
		fmt.Fprintln(t.Stdout, "what was there before is not gone from the disk yet: the database drops it when it next tidies up")
	}
	return nil
}
