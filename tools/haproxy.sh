#!/usr/bin/env bash
# Puts HAProxy 3.4, 3.0 and 2.6 under .tools/haproxy-SERIES/. The first is linked as .tools/bin/haproxy, the
# others, which tests of older releases run, as .tools/bin/haproxy-SERIES. Of 3.0 one can do without.
#
# Stable Debian ships an older HAProxy than the one this project is built for. This script takes each
# series, with the libraries that it was linked against, from the Debian suite that has it, through an apt
# configuration of its own: it installs nothing, needs no root, and the machine's packages, lists and
# caches stay as they are. apt checks the signatures.
#
# With HAPROXY=/path/to/haproxy in the environment nothing is fetched; that binary is only checked.
set -euo pipefail

readonly wanted=3.4 # the oldest release that will do where no older one is asked for

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly root
readonly bin=$root/.tools/bin

say() { printf 'haproxy: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# version_of prints what a binary calls itself ("3.4.7-1"), or fails if it does not run.
version_of() { "$1" -v 2>/dev/null | sed -nE '1s/^HA-?Proxy version ([^ ]+) .*/\1/p' | grep .; }
# new_enough says whether a version ($1) belongs to a series ($2) or a later one.
new_enough() { dpkg --compare-versions "$1" ge "$2"; }

# fetch SERIES TESTED LINK SUITE... puts the newest package of the series, of which TESTED is the one that this
# project was last tested with, where the comment at the top says. 3.4 may be followed by a later one. It runs in
# a subshell: what it dies of is its caller's to judge.
fetch() (
	set -euo pipefail
	series=$1 tested=$2 link=$3
	home=$root/.tools/haproxy-$series
	work=$home.new

	# VERSION is written last, so where it is, the rest is. The binary holds absolute paths: one that was
	# moved here with a tree from elsewhere does not count as ours.
	if [[ -s $home/VERSION ]] && grep -qxF "path $home" "$home/VERSION" && version_of "$bin/$link" >/dev/null; then
		exit
	fi

	say "fetching $series from Debian's packages (about half a minute)"
	rm -rf "$work"
	mkdir -p "$work"/{apt/lists/partial,apt/cache/archives/partial,debs,root}
	trap 'rm -rf "$work"' EXIT

	# The mirror that this machine already uses, as apt itself reads its sources.
	uris=$(apt-get --print-uris update | sed -nE "s|^'(.*)/dists/.*/InRelease' .*|\1|p")
	mirror=$(grep -E '/debian/?$' <<<"$uris" | head -n1 || true)
	mirror=${mirror:-$(head -n1 <<<"$uris")}
	[[ -n $mirror ]] || die "no Debian mirror in this machine's apt sources; name a binary with HAPROXY=/path"

	for suite in "${@:4}"; do
		printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$suite"
	done >"$work/apt/sources.list"
	: >"$work/apt/status" # as if nothing were installed: the answer does not depend on the machine
	# Read after the machine's own settings, so its proxies stay and its hooks do not run.
	cat >"$work/apt/apt.conf" <<-CONF
		Dir::Etc::SourceList "$work/apt/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::Etc::Preferences "/dev/null";
		Dir::Etc::PreferencesParts "/dev/null";
		Dir::State::Lists "$work/apt/lists";
		Dir::State::status "$work/apt/status";
		Dir::State::extended_states "$work/apt/extended_states";
		Dir::Cache "$work/apt/cache";
		APT::Sandbox::User "root";
		Acquire::Languages "none";
		Acquire::Retries "3";
		#clear Acquire::IndexTargets::deb::DEP-11;
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
	CONF
	apt() { "apt-$1" -c "$work/apt/apt.conf" -q "${@:2}"; }

	apt get update >"$work/apt/log" 2>&1 || { cat "$work/apt/log" >&2; die "apt-get update failed"; }

	# The newest package of the series if a suite still has one, else, for the newest series, the oldest
	# after it.
	package=
	while read -r candidate; do
		new_enough "$candidate" "$series" || continue
		if [[ $candidate == "$series".* || -z $package && $link == haproxy ]]; then package=$candidate; fi
	done < <(apt cache madison haproxy | awk '{ print $3 }' | sort -uV)
	[[ -n $package ]] || die "Debian's ${*:4} has no HAProxy $series; name one with HAPROXY=/path"
	[[ $package == "$tested" ]] || say "warning: taking $package; this project was last tested with $tested"

	# The shared libraries that it depends on, by the packages' own word, however many steps away.
	depends() { apt cache depends --no-{recommends,suggests,conflicts,breaks,replaces,enhances} "$@"; }
	direct=$(depends "haproxy=$package" | sed -nE 's/^ *Depends: (z?lib[^ ]+)$/\1/p' | sort -u)
	# shellcheck disable=SC2086 # a list of package names, one word each
	libraries=$(depends --recurse $direct | grep -E '^z?lib' | sort -u)
	# shellcheck disable=SC2086
	(cd "$work/debs" && apt get download "haproxy=$package" patchelf $libraries) >"$work/apt/log" 2>&1 ||
		{ cat "$work/apt/log" >&2; die "apt-get download failed"; }
	for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done

	# The binary's loader and libraries become those beside it. patchelf, which is as new as they are,
	# runs with the same. The path is forced (RPATH, not RUNPATH) because it must hold for libraries of
	# libraries too. Before Debian 13 some libraries are in /lib and some in /usr/lib.
	loader=$(find "$work/root" -name 'ld-linux*.so.*' -not -type l | head -n1)
	loader=${loader:-$(readlink -f "$(find "$work/root" -name 'ld-linux*.so.*' | head -n1)")}
	[[ $loader == "$work"/* ]] || die "no dynamic loader in Debian's libc6 package"
	libs=$(find "$work/root" -name 'lib*.so.*' -path '*-linux-gnu/*' -printf '%h\n' | grep -E 'linux-gnu$' | sort -u)
	[[ -n $libs ]] || die "no libraries in Debian's packages"
	path=$(paste -sd: <<<"$libs")
	cp "$work/root/usr/sbin/haproxy" "$work/haproxy"
	"$loader" --library-path "$path" "$work/root/usr/bin/patchelf" --force-rpath \
		--set-rpath "${path//"$work"/"$home"}" --set-interpreter "$home${loader#"$work"}" "$work/haproxy"

	deb_sum=$(sha256sum "$work"/debs/haproxy_*.deb | cut -d' ' -f1)
	rm -rf "$work/apt" "$work/debs" "$home"
	mv "$work" "$home"
	ln -sfn "../haproxy-$series/haproxy" "$bin/$link"
	version=$(version_of "$bin/$link") ||
		{ "$bin/$link" -vv >&2 || true; die "the package was fetched but does not run here"; }
	{
		printf 'version %s\n' "$package"
		printf 'package-sha256 %s\n' "$deb_sum"
		printf 'binary-sha256 %s\n' "$(sha256sum "$home/haproxy" | cut -d' ' -f1)"
		printf 'path %s\n' "$home"
	} >"$home/VERSION"
	say "$version is in .tools/bin/$link"
)

# A function, because bash reads a script as it goes, and this one may change while it runs.
main() {
	if [[ -n ${HAPROXY:-} && $HAPROXY != "$bin/haproxy" ]]; then
		local version
		version=$(version_of "$HAPROXY") || die "HAPROXY=$HAPROXY is not a HAProxy that runs here"
		new_enough "$version" "$wanted" || say "warning: $HAPROXY is $version; the tests expect $wanted or newer"
		say "$version, from HAPROXY=$HAPROXY"
		return
	fi

	# One at a time: two makes in one tree must not fill the same folder.
	mkdir -p "$bin"
	exec 9>"$root/.tools/.haproxy.lock"
	flock 9

	fetch 3.4 3.4.7-1 haproxy sid experimental
	fetch 2.6 2.6.12-1+deb12u3 haproxy-2.6 bookworm
	fetch 3.0 3.0.11-1+deb13u3 haproxy-3.0 trixie & # behind ||, `set -e` would not hold in it
	wait "$!" || say "warning: tests go without 3.0"
}

main; exit
