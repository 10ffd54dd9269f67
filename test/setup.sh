#!/usr/bin/env bash
# Finds or installs what the tests need beside Go: a PostgreSQL server, Node.js
# with npm, the npm peers of test/peers, OpenSSH's client programs, and the Go
# peers of test/peers-go. What is missing afterwards is a
# failure with CI=true and a named skip of those tests elsewhere.
set -uo pipefail
cd "$(dirname "$0")/.."

missing=()
have() { command -v "$1" >/dev/null 2>&1; }
postgres() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

# apt-get only where it can work without asking: as root, on Debian's family.
apt() {
	[ "$(id -u)" = 0 ] && have apt-get || return 1
	if [ -z "${apt_updated:-}" ]; then apt-get update -qq && apt_updated=1; fi
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

postgres || apt postgresql || true
postgres || missing+=("PostgreSQL server (initdb): the PostgreSQL half of every test")
{ have gcc || apt gcc libc6-dev; } || missing+=("gcc: the race detector needs it")
{ have node && have npm; } || apt nodejs npm || true
if have node && have npm; then
	if ! cmp -s test/peers/package-lock.json test/peers/node_modules/.installed-lock 2>/dev/null; then
		echo "installing the npm peers"
		if npm ci --prefix test/peers --no-audit --no-fund --ignore-scripts --loglevel=error; then
			cp test/peers/package-lock.json test/peers/node_modules/.installed-lock
		else
			missing+=("npm peers (test/peers): the tests with a real OpenID provider, a real MCP server and Cedar in Rust")
		fi
	fi
else
	missing+=("Node.js and npm: the tests with a real OpenID provider, a real MCP server and Cedar in Rust")
fi

{ have ssh-agent && have ssh-keygen; } || apt openssh-client || missing+=("ssh-agent and ssh-keygen: the test with a real witness keeps its key there")
# Built once, so that the test finds it in the build cache.
(cd test/peers-go && "${GO:-go}" build -o /dev/null filippo.io/torchwood/cmd/litewitness) ||
	missing+=("litewitness (test/peers-go): the test with a real witness")
for program in logcheck otlpsink; do
	(cd test/peers-go && "${GO:-go}" build -o /dev/null "./$program") ||
		missing+=("$program (test/peers-go): the tests that hold what goes out to the code of others")
done

if [ ${#missing[@]} -gt 0 ]; then
	printf 'missing: %s\n' "${missing[@]}" >&2
	[ "${CI:-}" = true ] && exit 1
	echo 'those tests are skipped by name; with CI=true this is a failure' >&2
fi
exit 0
