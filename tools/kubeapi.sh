#!/usr/bin/env bash
# Builds kube-apiserver, etcd and kubectl, as test/kubeapi/go.mod pins them, into .tools/bin.
#
# Cold this takes minutes, so it happens again only when the pins, the Go release or this script have
# changed. KUBE_APISERVER, ETCD and KUBECTL in the environment name binaries to use instead; with all
# three nothing is built.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly root
readonly bin=$root/.tools/bin
readonly new=$root/.tools/kubeapi.new

say() { printf 'kubeapi: %s\n' "$*" >&2; }

# given says whether a variable names a binary that is not the one this script makes.
given() { [[ -n ${!1:-} && ${!1} != "$bin/$2" ]]; }
if given KUBE_APISERVER kube-apiserver && given ETCD etcd && given KUBECTL kubectl; then
	exit
fi

# One at a time: two makes in one tree must not build the same twice.
mkdir -p "$bin" "$root/.tools/built"
exec 9>"$root/.tools/.kubeapi.lock"
flock 9

key=$({ go env GOVERSION; cat "$root"/test/kubeapi/go.{mod,sum} "${BASH_SOURCE[0]}"; } | cksum)
readonly stamp=$root/.tools/built/kubeapi-${key%% *}
if [[ -e $stamp && -x $bin/kube-apiserver && -x $bin/etcd && -x $bin/kubectl ]]; then
	exit
fi

cd "$root/test/kubeapi"
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
say "building kube-apiserver and kubectl $version and etcd $(go list -m -f '{{.Version}}' go.etcd.io/etcd/server/v3) (the first time: minutes)"
IFS=. read -r major minor _ <<<"${version#v}"
# Unless told its version the API server calls itself v0.0.0, and clients that ask refuse it.
readonly package=k8s.io/component-base/version
rm -rf "$new"
mkdir "$new"
trap 'rm -rf "$new"' EXIT
SECONDS=0
CGO_ENABLED=0 go build -trimpath -o "$new/" \
	-ldflags "-s -w -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor" tool
mv "$new/server" "$new/etcd" # go build names a binary after its package's folder
mv "$new"/* "$bin/"
rm -f "$root"/.tools/built/kubeapi-*
touch "$stamp"
say "built in $SECONDS s"
