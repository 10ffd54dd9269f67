package attest

import (
	"errors"
	"io/fs"
	"os/user"
	"strconv"

	"github.com/mayfly-id/mayfly"
)

// Peer is the process at the other end of a Unix socket, as the kernel knew it
// when it connected. Its user and group are as seen from this process.
type Peer struct{ UID, GID, PID int }

// Peer is the local user behind p as the unix source says it: a service, to
// delegate, or a workload, to be an agent. No user of a machine is a human here.
// The id is the user's name, or uid:<n> for one without; the claims are user,
// uid, gid and sub.
//
// The error is of kind Invalid with code invalid_request where there is no unix
// source or it refuses this user, and Unavailable where the user's name cannot
// be read.
func (s *Sources) Peer(p Peer, as mayfly.SubjectKind) (Caller, error) {
	refused := func(format string, args ...any) (Caller, error) {
		return Caller{}, mayfly.Coded(mayfly.Invalid, "invalid_request", format, args...)
	}
	switch {
	case s.unix == nil:
		return refused("no source of kind unix is configured; configure one, or bring a token")
	case as != mayfly.Service && as != mayfly.Workload:
		return refused("a local user is a service or a workload, never a %s; bring a token", as)
	}
	uid := strconv.Itoa(p.UID)
	id := "uid:" + uid
	claims := map[string]string{"uid": uid, "gid": strconv.Itoa(p.GID)}
	// A user whose name could not be read for a moment must not become another
	// subject, whom a revocation would not meet.
	u, err := user.LookupId(uid)
	if _, unknown := errors.AsType[user.UnknownUserIdError](err); err == nil && readable(u.Username) == nil {
		id = u.Username
		claims["user"] = id
	} else if err != nil && !unknown && !errors.Is(err, fs.ErrNotExist) { // a container may have no list of users
		return Caller{}, mayfly.Errorf(mayfly.Unavailable, "the name of the calling user cannot be read now; try again").Because(err)
	}
	claims["sub"] = id
	subject := mayfly.Subject{Kind: as, Source: s.unix.Name, Claims: claims}
	if subject.ID, err = subjectID(as, s.unix.Name, id); err != nil {
		return refused("%s", err)
	}
	if !(&mayfly.SourceRule{Source: s.unix.Name, Match: s.unix.Match}).Accepts(subject) {
		return refused("the unix source is limited to other users than %s (match)", id)
	}
	return Caller{verified{subject: subject}}, nil
}
