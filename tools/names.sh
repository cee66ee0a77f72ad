#!/usr/bin/env bash
# Fails if a file of the repository names what belongs to the machine that it was written on: the
# checkout's own path, or a host that packages are fetched from. Where packages come from is each
# machine's own affair, so the hosts to look for are asked of this machine's Go and apt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=$(
	pwd -P
	{
		go env GOPROXY GOSUMDB | tr ',|' '\n'
		apt-get --print-uris update 2>/dev/null | grep -oE "https?://[^/']+" | sort -u || true
	} | sed -E 's|^https?://||; s|[/+].*||' | grep -F . || true
)
if git grep -nIFf <(sort -u <<<"$names"); then
	echo 'these lines name a path or a package host of this machine' >&2
	exit 1
fi
