package attest

import (
	"net/netip"
	"slices"
)

// specialBlocks are the address blocks that no host of the internet has (RFC
// 6890 and the IANA special-purpose registries), or that lead to another address
// inside them: none may be reached through an address that arrived as data.
func specialBlocks() []netip.Prefix {
	return prefixes(
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23",
		"2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
	)
}

// privateBlocks are those a provider of the operator's own may live in: this
// machine, RFC 1918, RFC 6598 and unique local addresses. Link-local ones are
// not among them: that is where clouds keep their metadata.
func privateBlocks() []netip.Prefix {
	return prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "::1/128", "fc00::/7")
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, text := range list {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}

// special reports whether a is in one of specialBlocks. An IPv4 address inside
// an IPv6 one (::ffff:0:0/96) is special in that spelling: unmap it first.
func special(a netip.Addr) bool { return !a.IsValid() || within(a, specialBlocks()) }

func private(a netip.Addr) bool { return within(a, privateBlocks()) }

// within compares bits, because [netip.Prefix.Contains] holds no IPv4-mapped
// address to be inside ::ffff:0:0/96.
func within(a netip.Addr, blocks []netip.Prefix) bool {
	return slices.ContainsFunc(blocks, func(p netip.Prefix) bool {
		if a.BitLen() != p.Addr().BitLen() {
			return false
		}
		masked, err := a.Prefix(p.Bits())
		return err == nil && masked.Addr() == p.Masked().Addr()
	})
}
