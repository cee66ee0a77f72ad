#!/usr/bin/env bash
# Checks the Dockerfiles without a container engine: that they keep the rules below, that what they copy exists, and that
# their own steps work here, with the files that the builder would be sent and no others. What it cannot tell is what is in
# the base images.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly version=v0.0.0-1-g0000000
work=$(mktemp -d)
readonly work
trap 'rm -rf "$work"' EXIT

die() { printf '%s: %s\n' "$file" "$*" >&2; exit 1; }

# instructions prints a Dockerfile with an instruction per line: without comments and continuations.
instructions() { sed -E '/^[[:space:]]*(#|$)/d' "$1" | sed -E ':a; /\\$/ { N; s/[[:space:]]*\\\n[[:space:]]*/ /; ta }'; }

# expand replaces build arguments by their defaults.
expand() {
	local text=$1 name
	for name in "${!defaults[@]}"; do text=${text//\$\{$name\}/${defaults[$name]}}; done
	[[ $text != *'${'* ]] || die "an argument without a default: $text"
	printf '%s' "$text"
}

# send copies what the builder is sent into a folder, by the rules of the .dockerignore file.
send() {
	local pattern seen=
	mkdir -p "$1"
	while read -r pattern; do
		case $pattern in
		'' | '#'*) ;;
		'*') seen=1 ;;
		'!'*) [[ -n $seen ]] || die ".dockerignore: $pattern before *"
			[[ -e ${pattern#!} ]] || die ".dockerignore: there is no ${pattern#!}"
			cp -r --parents "${pattern#!}" "$1/" ;;
		'**/'*) find "$1" -depth -name "${pattern#'**/'}" -exec rm -rf {} + ;;
		*) die ".dockerignore: $pattern is not understood here" ;;
		esac
	done <"$file.dockerignore"
	[[ -n $seen ]] || die '.dockerignore does not begin with *'
}

# pinned sees that this step refuses a release on any base that has no digest, and takes one where all have.
pinned() {
	local -A defaults=([VERSION]=v1.2.3)
	local digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef name loose
	for loose in none "${bases[@]}"; do
		for name in "${bases[@]}"; do defaults[$name]=example/base@$digest; done
		[[ $loose == none ]] || defaults[$loose]=example/base:1
		if (cd "$stage/src" && bash -euo pipefail -c "$(expand "$1")") >"$work/log" 2>&1; then
			[[ $loose == none ]] || die "a release is built on a base that $loose names by a tag"
		else
			[[ $loose != none ]] || { cat "$work/log" >&2; die "a release on bases with digests is refused"; }
		fi
	done
	guarded=1
}

# run runs a step of a stage. The stage's folder stands for its root.
run() {
	local step
	step=$(expand "$1")
	[[ $step != *sudo* && $step != *'apt-get install'* && $step != *curl* ]] || die "a step that fetches what is not pinned: $step"
	case $step in
	'go mod download') return ;; # the modules are this machine's
	*'go build'*) step=${step//'/out/'/$stage/out/} ;;
	deploy/images/pinned.sh*) pinned "$1" ;;
	*) die "a step that cannot be tried: $step" ;;
	esac
	mkdir -p "$stage/out"
	(cd "$stage/src" && bash -euo pipefail -c "$step") >"$work/log" 2>&1 || { cat "$work/log" >&2; die "this step fails: $1"; }
}

check() {
	file=$1 stage='' user='' entry='' guarded='' names=() bases=()
	declare -A defaults=([VERSION]=$version) stages=() copied=()
	local instruction rest image alias from to ports=()
	while read -r instruction rest; do
		case $instruction in
		ARG)
			# Within a stage an argument of before the stages is named again, without a default.
			[[ $rest == *=* || -n ${defaults[$rest]:-} ]] || die "ARG $rest has no default"
			[[ $rest != *_IMAGE=* ]] || bases+=("${rest%%=*}")
			[[ $rest != *=* || ${rest%%=*} == VERSION ]] || defaults[${rest%%=*}]=${rest#*=} ;;
		FROM)
			[[ $rest == 'scratch'* || $rest == '${'*'_IMAGE}'* ]] || die "FROM $rest: a release could not give its digest"
			image=$(expand "${rest%% *}") alias=${rest##* }
			[[ $image != */*.*/* && $image != *.*/* ]] || die "$image names a registry"
			[[ $image == scratch || $image == *:* && $image != *:latest ]] || die "$image is of no version"
			stage=$work/stage-$((${#stages[@]} + 1)) stages[$alias]=$stage user='' entry=''
			mkdir -p "$stage/src"
			names+=("$alias") ;;
		WORKDIR) [[ $rest == /src ]] || die "WORKDIR $rest: this script knows /src" ;;
		COPY)
			read -r from to <<<"${rest#--from=* }"
			if [[ $rest == --from=* ]]; then
				alias=${rest#--from=} alias=${alias%% *}
				[[ -n ${stages[$alias]:-} ]] || die "COPY from $alias, which is no stage before"
				[[ -f ${stages[$alias]}$from ]] || die "COPY $from: stage $alias does not make it"
				copied[$to]=${stages[$alias]}$from
			elif [[ $rest == '. .' ]]; then
				send "$stage/src"
			else
				for from in ${rest% *}; do [[ -f $from ]] || die "COPY $from: there is no such file"; done
			fi ;;
		RUN) run "$rest" ;;
		USER) user=$rest ;;
		EXPOSE) read -ra ports <<<"$rest" ;;
		ENTRYPOINT) entry=$rest ;;
		ENV | LABEL) ;;
		STOPSIGNAL) [[ $rest == SIGTERM ]] || die "STOPSIGNAL $rest: the programs stop gracefully at SIGTERM" ;;
		*) die "$instruction is not wanted" ;;
		esac
	done < <(instructions "$file")

	[[ -n $guarded ]] || die "a release is built on whatever its bases' tags mean: there is no step pinned.sh"
	[[ $user =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] || die "USER '$user': want numbers, and not root's, as the kubelet cannot tell of a name"
	[[ $entry =~ ^\[\"([^\"]+)\"\]$ ]] || die "ENTRYPOINT '$entry': want one program, in brackets, as a shell would not pass signals on"
	local program=${copied[${BASH_REMATCH[1]}]:-}
	[[ -n $program ]] || die "ENTRYPOINT ${BASH_REMATCH[1]} is not what was copied"
	[[ $("$program" --version) == *"$version"* ]] || die "the program does not know its version"
	go version -m "$program" | grep -q 'build[[:space:]]CGO_ENABLED=0' || die 'the program may need libraries, of which the image has none'

	# What the image says that it listens on is what its Deployment says.
	local name want
	name=$(basename "$file" .Dockerfile)
	want=$(awk -v image="tsuji.invalid/$name:unset" '$1 == "image:" { on = $2 == image } on' "deploy/kustomize/base/$name/deployment.yaml" |
		sed -nE 's/.*containerPort: ([0-9]+).*/\1/p' | sort -n | tr '\n' ' ')
	[[ $(printf '%s\n' "${ports[@]}" | sort -n | tr '\n' ' ') == "$want" ]] || die "EXPOSE ${ports[*]}, and the Deployment has $want"
	grep -qE "image: tsuji.invalid/$name:unset\$" "deploy/kustomize/base/$name/deployment.yaml" || die "the Deployment has another image"
	echo "$file: ${#names[@]} stages, $(basename "$program") $(du -h "$program" | cut -f1)"
}

for f in deploy/images/*.Dockerfile; do check "$f"; done
