package authority

import (
	"context"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Erased is what became of a person.
type Erased struct {
	Person string `json:"person"` // the pseudonym, which leads to nobody any more
	// Standing are the ids of revocations that go on naming them, because they go
	// on refusing them.
	Standing []string `json:"standing,omitempty"`
	// Scrubbed says that what was there before is gone from the disk too. Where it
	// is not, the database drops it when it next tidies up by itself.
	Scrubbed bool `json:"scrubbed"`
}

// Erase destroys a person's key: nobody reads any more what is recorded about them,
// the log and its proofs hold as before, and where their name stood, a pseudonym
// does. It cannot be taken back. Only the operator may, and only once nothing is
// live for them.
func (a *Authority) Erase(ctx context.Context, p Presented, human string) (Erased, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return Erased{}, err
	}
	if !w.operator {
		return Erased{}, a.refuse(ctx, w.refused("erase"), notYours(), w.burn(a))
	}
	refused := func(err *mayfly.Error) error { return a.refuse(ctx, w.refused("erase"), err, nil) }
	id, err := a.db.Pseudonym(ctx, human)
	if err != nil {
		return Erased{}, err
	}
	if id == "" {
		return Erased{}, refused(mayfly.Errorf(mayfly.NotFound, "no record is about a person with this id"))
	}
	standing, err := a.db.ActiveRevocations(ctx)
	if err != nil {
		return Erased{}, err
	}
	e := Erased{Person: id, Scrubbed: true}
	for _, r := range standing {
		if r.Kind == string(mayfly.Human) && r.Value == human {
			e.Standing = append(e.Standing, r.ID)
		}
	}
	now := a.clock.now()
	err = a.record(ctx, mayfly.PersonErased{Person: id, By: w.name()}, func(tx *store.Tx) {
		tx.Erase(id, human, now)
		tx.Advance(epochPerson, id, now)
	})
	switch refusedBy(err) {
	case "live":
		return Erased{}, refused(mayfly.Errorf(mayfly.Conflict,
			"a task for this person is live, or still to be retired; end it with mayfly revoke --human, and erase them once mayfly ps --all says retired"))
	case "erased":
		return Erased{}, refused(mayfly.Errorf(mayfly.Conflict, "they were erased before"))
	}
	if err != nil {
		return Erased{}, err
	}
	a.db.Forget(id)
	if err := a.db.Scrub(ctx); err != nil {
		a.logger.Warn("an erased person's rows are not scrubbed from the disk yet", "person", id, "error", err)
		e.Scrubbed = false
	}
	return e, a.advanced(ctx)
}
