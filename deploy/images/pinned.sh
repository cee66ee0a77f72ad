#!/bin/sh
# Fails if an image is named by something other than its digest: a tag, or a name without one, is whatever its registry
# says today.
#
#   pinned.sh <manifests                of every image that the manifests run
#   pinned.sh VERSION IMAGE...          of the images that a release is built on; what is no release may have tags
#
# It runs in builders too, so it wants no more than sh, sed and sort.
set -eu

# pinned tells whether an image is named by its digest, in the one form that every engine understands.
pinned() {
	case ${1##*@} in
	sha256:*[!0-9a-f]*) false ;;
	sha256:*) [ "${1#*@sha256:}" != "$1" ] && [ "$(printf %s "${1##*@sha256:}" | wc -c)" -eq 64 ] ;;
	*) false ;;
	esac
}

status=0
refuse() {
	printf '%s\n' "$1" >&2
	status=1
}

if [ $# -eq 0 ]; then
	images=$(sed -nE "s/^[[:space:]]*(- )?image:[[:space:]]*['\"]?([^'\"[:space:]]+).*/\2/p" | sort -u)
	[ -n "$images" ] || refuse 'there is no image in what was read: want the output of kubectl kustomize'
	for image in $images; do
		case $image in
		tsuji.invalid/*) refuse "$image: no such image exists: say under images: which one of yours it is (docs/install.md)" ;;
		*) pinned "$image" || refuse "$image: a tag can be moved: set digest: instead of newTag: (docs/install.md)" ;;
		esac
	done
	exit $status
fi

version=$1
shift
case $version in
# git describe, at a commit that no tag names, or with changes
*-[0-9]*-g[0-9a-f]* | *-dirty) exit ;;
v[0-9]*) ;;
*) exit ;;
esac
for image; do
	pinned "$image" || refuse "$version is a release, and its base $image is named by a tag, which can be moved: \
give NAME@sha256:DIGEST with --build-arg; docker buildx imagetools inspect $image tells it"
done
exit $status
