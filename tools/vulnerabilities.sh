#!/usr/bin/env bash
# Fails if code that is reachable from ours (or from the packages that are given) has a known vulnerability. Where the
# vulnerability database cannot be reached there is no answer: this says so as its last words, and fails if TSUJI_RELEASE is
# set, because nobody releases what was not looked at. VULNDB is a mirror of the database: a URL of https: or file:.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

status=0
output=$("${GOVULNCHECK:-.tools/bin/govulncheck}" ${VULNDB:+-db="$VULNDB"} "${@:-./...}" 2>&1) || status=$?
printf '%s\n' "$output"
((status == 0)) && exit
grep -qE '^(govulncheck: )?(fetching vulnerabilities|creating client): ' <<<"$output" || exit "$status"
cat >&2 <<END

  ************************************************************************
  NOT CHECKED FOR KNOWN VULNERABILITIES: the database cannot be reached.
  Everything else was checked. Name a mirror of it: VULNDB=https://...
  ************************************************************************

END
[[ -z ${TSUJI_RELEASE:-} ]]
