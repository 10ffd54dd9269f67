#!/usr/bin/env bash
# Runs every fuzz target for a time each: test/fuzz.sh 30s
set -euo pipefail
cd "$(dirname "$0")/.."
length=${1:-30s}
for package in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$package" 2>/dev/null | grep '^Fuzz' || true); do
		echo "$package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$length" -fuzzminimizetime 1x "$package"
	done
done
