#!/usr/bin/env bash
# Finds or installs what the tests need beside Go: a PostgreSQL server, Node.js
# with npm, the npm packages of test/peers and test/browser, Chromium, OpenSSH's
# client programs, and the Go peers of test/peers-go. What is missing afterwards
# is a failure with CI=true and a named skip of those tests elsewhere.
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
# npm_install FOLDER WHAT: what its lock file says, once.
npm_install() {
	have node && have npm || { missing+=("Node.js and npm: $2"); return; }
	cmp -s "$1/package-lock.json" "$1/node_modules/.installed-lock" 2>/dev/null && return
	echo "installing the npm packages of $1"
	if npm ci --prefix "$1" --no-audit --no-fund --ignore-scripts --loglevel=error; then
		cp "$1/package-lock.json" "$1/node_modules/.installed-lock"
	else
		missing+=("npm packages of $1: $2")
	fi
}
npm_install test/peers "the tests with a real OpenID provider, a real MCP server and Cedar in Rust"
npm_install test/browser "the tests of the console in a real browser"
{ have chromium || have google-chrome; } || apt chromium fonts-dejavu-core || true
{ have chromium || have google-chrome; } || missing+=("Chromium: the tests of the console in a real browser")

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
