package mayfly

import "time"

// SignIn is a human who is signed in to the console: known to their identity
// provider, for hours, and no agent has any of it.
type SignIn struct {
	ID    string
	Human Subject
	// At is when the identity provider last asked them to show who they are; zero
	// where it does not say.
	At       time.Time
	OpenedAt time.Time
	SeenAt   time.Time // of their last request, to the minute
	EndsAt   time.Time // at the latest
}

// How long a sign-in is good for.
const (
	SignInIdle = 30 * time.Minute // without a request
	SignInMost = 8 * time.Hour
	// SignInFresh is for how long after At it is enough for what is asked for
	// again: to approve, and to end a whole tree of tasks.
	SignInFresh = 5 * time.Minute
)

// Over reports whether the sign-in is over at now.
func (s *SignIn) Over(now time.Time) bool {
	return !now.Before(s.EndsAt) || now.Sub(s.SeenAt) >= SignInIdle
}

// Fresh reports whether the human showed who they are a short time before now.
func (s *SignIn) Fresh(now time.Time) bool {
	return !s.At.IsZero() && now.Sub(s.At) < SignInFresh
}
