//go:build !linux

package attest

import (
	"errors"
	"net"
)

// PeerOf fails: of this system's kernel nobody here knows how to ask.
func PeerOf(*net.UnixConn) (Peer, error) {
	return Peer{}, errors.New("who is at the other end of a socket is only known on Linux")
}
