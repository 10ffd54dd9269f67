package authority

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/store"
)

// SignInView is who is signed in.
type SignInView struct {
	Human  RootView  `json:"human"`
	Groups []string  `json:"groups,omitempty"`
	EndsAt time.Time `json:"ends_at"`
	// FreshUntil is until when what is asked for again need not be shown again:
	// to approve, and to end a root task.
	FreshUntil time.Time `json:"fresh_until"`
}

// Fresh reports whether what asks for a fresh sign-in may be done at now.
func (v SignInView) Fresh(now time.Time) bool { return now.Before(v.FreshUntil) }

// errSignIn is the one answer for a sign-in that is not there, and one that is
// over.
func errSignIn() *mayfly.Error {
	return mayfly.Coded(mayfly.Unauthenticated, "sign_in_required", "you are not signed in, or not any more; sign in")
}

// fresh refuses a human at the console who showed too long ago who they are
// (RFC 9470 names the error).
func (w who) fresh(now time.Time) error {
	if w.signIn == nil || w.signIn.Fresh(now) {
		return nil
	}
	return mayfly.Coded(mayfly.Denied, "insufficient_user_authentication",
		"show your identity provider again who you are: for this it must be less than %d minutes ago", int(mayfly.SignInFresh.Minutes()))
}

// SignInWithin is how long a human may take on their way to the identity provider
// and back.
const SignInWithin = 10 * time.Minute

// SignInWay is one human's way to their identity provider and back.
type SignInWay = attest.SignIn

// SignsIn reports whether humans sign in here at all.
func (a *Authority) SignsIn() bool { return a.Bundle().Sources.SignsIn() }

// SignInURL is where a browser goes to begin a sign-in.
func (a *Authority) SignInURL(ctx context.Context, way SignInWay) (string, error) {
	if err := a.mayAct(); err != nil {
		return "", err
	}
	return a.Bundle().Sources.SignInURL(ctx, way)
}

// SignIn ends the way: it redeems what the identity provider sent the browser back
// with, keeps the human signed in, and gives what their browser is to hold: known
// to nobody else, and of no other sign-in. Where p is signed in already, that
// ends. A way is good once.
func (a *Authority) SignIn(ctx context.Context, p Presented, code, issuer string, way SignInWay) (mayfly.Secret, error) {
	if err := a.mayIssue(); err != nil {
		return mayfly.Secret{}, err
	}
	in, err := a.Bundle().Sources.SignedIn(ctx, code, issuer, way)
	if err != nil {
		return mayfly.Secret{}, a.unauthenticated("console", &p, err)
	}
	human := in.Caller.Subject()
	now := a.clock.now()
	if err := a.refuseRevoked(ctx, human); err != nil {
		return mayfly.Secret{}, a.refuse(ctx, mayfly.RequestRefused{What: "sign in", Root: human, Source: p.Source}, err, nil)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	text := base64.RawURLEncoding.EncodeToString(secret)
	s := &mayfly.SignIn{
		ID: mayfly.NewID("sgn", now), Human: human, At: in.At, OpenedAt: now, SeenAt: now, EndsAt: now.Add(mayfly.SignInMost),
	}
	e := mayfly.PersonSignedIn{SignIn: s.ID, Human: human, At: s.At, EndsAt: s.EndsAt, Source: p.Source}
	old, err := a.signInOf(ctx, &p, now)
	if err != nil && mayfly.KindOf(err) == mayfly.Unavailable {
		return mayfly.Secret{}, err
	}
	if err == nil {
		e.Replaces = old.ID
	}
	err = a.record(ctx, e, func(tx *store.Tx) {
		tx.Once("sign-in", way.State, now.Add(SignInWithin))
		tx.NotRevoked([]store.RevocationKey{{Kind: string(human.Kind), Value: human.ID}, {Kind: "source", Value: human.Source}})
		if e.Replaces != "" {
			tx.SignOut(e.Replaces)
		}
		tx.SignIn(s, signInHash(text))
	})
	if guard := refusedBy(err); guard != "" {
		return mayfly.Secret{}, a.refuse(ctx, mayfly.RequestRefused{What: "sign in", Root: human, Source: p.Source},
			mayfly.Errorf(mayfly.Conflict, "this sign-in was used before, or overtaken; sign in again"), nil)
	}
	return mayfly.NewSecret(text), err
}

// SignedIn is who is at the console.
func (a *Authority) SignedIn(ctx context.Context, p Presented) (SignInView, error) {
	w, err := a.identifySignIn(ctx, &p)
	if err != nil {
		return SignInView{}, err
	}
	v := SignInView{Human: rootView(w.signIn.Human), Groups: w.signIn.Human.Groups, EndsAt: w.signIn.EndsAt}
	if !w.signIn.At.IsZero() {
		v.FreshUntil = w.signIn.At.Add(mayfly.SignInFresh)
	}
	return v, nil
}

// SignOut ends a sign-in. One that is over already is no error.
func (a *Authority) SignOut(ctx context.Context, p Presented) error {
	s, err := a.signInOf(ctx, &p, a.clock.now())
	if mayfly.KindOf(err) == mayfly.Unauthenticated {
		return nil
	}
	if err != nil {
		return err
	}
	err = a.record(ctx, mayfly.PersonSignedOut{SignIn: s.ID, Human: s.Human}, func(tx *store.Tx) { tx.SignOut(s.ID) })
	if refusedBy(err) != "" {
		return nil // somebody was faster
	}
	return err
}

// signInSeen is how far behind the time of the last request may be in the store.
const signInSeen = time.Minute

// identifySignIn finds out which human is at the console.
func (a *Authority) identifySignIn(ctx context.Context, p *Presented) (who, error) {
	now := a.clock.now()
	s, err := a.signInOf(ctx, p, now)
	if err != nil {
		return who{}, err
	}
	c, err := a.Bundle().Sources.Remembered(s.Human, s.EndsAt)
	if err != nil {
		return who{}, mayfly.Coded(mayfly.Unauthenticated, "sign_in_required", "%s", mayfly.AsError(err).Message).Because(err)
	}
	w, err := a.asCaller(ctx, p, c)
	if err != nil {
		return who{}, err
	}
	w.signIn = s
	if now.Sub(s.SeenAt) >= signInSeen {
		if err := a.db.Keep(ctx, func(b *store.Books) { b.SeeSignIn(s.ID, now) }); err != nil {
			return who{}, err
		}
	}
	return w, nil
}

// signInOf finds the sign-in that p holds the secret of. Whoever holds none is a
// stranger; what is over is counted as nobody's failure.
func (a *Authority) signInOf(ctx context.Context, p *Presented, now time.Time) (*mayfly.SignIn, error) {
	if err := a.mayAct(); err != nil {
		return nil, err
	}
	if p.SignIn.IsZero() {
		return nil, errSignIn()
	}
	s, err := a.db.SignIn(ctx, signInHash(p.SignIn.Reveal()))
	if mayfly.KindOf(err) == mayfly.NotFound || err == nil && s.Over(now) {
		return nil, errSignIn()
	}
	return s, err
}

func signInHash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
