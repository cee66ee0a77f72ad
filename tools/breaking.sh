#!/usr/bin/env bash
# Fails if the protos under proto/ would break a peer built from what has already landed: a control
# plane and its routers are upgraded one after the other and must understand each other meanwhile.
#
# What has landed is the commit where this work left main, or on main itself the commit before.
# BASE=commit in the environment names another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

landed() {
	local head fork main
	head=$(git rev-parse --verify --quiet HEAD) || return
	for main in origin/main main; do
		fork=$(git merge-base HEAD "$main" 2>/dev/null) || continue
		if [[ $fork != "$head" ]]; then
			echo "$fork"
			return
		fi
	done
	git rev-parse --verify --quiet HEAD~
}

base=${BASE:-$(landed || true)}
if [[ -z $base ]]; then
	echo 'protos: nothing to compare with, this checkout holds no earlier commit'
elif ! git cat-file -e "$base:proto" 2>/dev/null || ! git cat-file -e "$base:buf.yaml" 2>/dev/null; then
	echo "protos: nothing to compare with, $(git rev-parse --short "$base") has none"
else
	git archive "$base" buf.yaml proto | .tools/bin/buf breaking --against '-#format=tar'
	echo "protos: compatible with $(git rev-parse --short "$base")"
fi
