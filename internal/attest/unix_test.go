package attest

import (
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
)

func TestTheKernelSaysWhoIsAtTheOtherEnd(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got, err := PeerOf(conn.(*net.UnixConn))
	if want := (Peer{os.Getuid(), os.Getgid(), os.Getpid()}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	conn.Close()
	if _, err := PeerOf(conn.(*net.UnixConn)); err == nil {
		t.Error("somebody is at the other end of a closed socket")
	}
}

func TestALocalUserIsAServiceOrAWorkload(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	const nobody = 4000000001 // no system gives this one out
	unix := Source{Name: "local", Kind: "unix"}
	only := func(match map[string]string) []Source {
		return []Source{{Name: "local", Kind: "unix", Match: match}}
	}
	for _, tt := range []struct {
		name    string
		sources []Source
		peer    Peer
		as      mayfly.SubjectKind
		want    string // "" is refused
	}{
		{"to delegate", []Source{unix}, Peer{UID: uid, GID: gid}, mayfly.Service, "service:local/" + me.Username},
		{"to be an agent", []Source{unix}, Peer{UID: uid, GID: gid}, mayfly.Workload, me.Username},
		{"without a name", []Source{unix}, Peer{UID: nobody, GID: 7}, mayfly.Service, "service:local/uid:4000000001"},
		{"one of those let in", only(map[string]string{"uid": strconv.Itoa(uid)}), Peer{UID: uid}, mayfly.Service, "service:local/" + me.Username},
		{"by name", only(map[string]string{"user": me.Username}), Peer{UID: uid}, mayfly.Service, "service:local/" + me.Username},
		{"never a human", []Source{unix}, Peer{UID: uid}, mayfly.Human, ""},
		{"never a task", []Source{unix}, Peer{UID: uid}, mayfly.Agent, ""},
		{"nothing in particular", []Source{unix}, Peer{UID: uid}, "", ""},
		{"not one of those let in", only(map[string]string{"uid": strconv.Itoa(uid)}), Peer{UID: nobody}, mayfly.Service, ""},
		{"without a name, where one is asked for", only(map[string]string{"user": "*"}), Peer{UID: nobody}, mayfly.Workload, ""},
		{"where no kernel is asked", nil, Peer{UID: uid}, mayfly.Service, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSources(t, &clock{}, tt.sources...)
			got, err := s.Peer(tt.peer, tt.as)
			who := got.Subject()
			if tt.want == "" {
				if e := mayfly.AsError(err); err == nil || e.Kind != mayfly.Invalid || e.Code != "invalid_request" || who.ID != "" {
					t.Errorf("got %+v, %v", who, err)
				}
				return
			}
			if err != nil || who.ID != tt.want || who.Kind != tt.as || who.Source != "local" || who.Claims["uid"] != strconv.Itoa(tt.peer.UID) ||
				who.Claims["gid"] != strconv.Itoa(tt.peer.GID) || !strings.HasSuffix(tt.want, who.Claims["sub"]) {
				t.Errorf("got %+v, %v; want %q", who, err, tt.want)
			}
			if !got.ExpiresAt().IsZero() || got.Issuer() != "" || got.Operator() {
				t.Errorf("got %+v", got)
			}
		})
	}
}
