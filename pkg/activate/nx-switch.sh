#!/bin/sh
# nx-switch.sh KEYS PROGRAM PROTOCOL VERB …: the door by which users who are not root
# activate systems. sudo lets them start it as root; of what they ask for it lets
# through to PROGRAM, which is activate.sh, only what cannot make them root: a system
# that one of the KEYS has signed, and words that mean no more than they should. KEYS
# are public keys as Nix writes them, separated by spaces. nx-switch.nix starts it, in
# an environment of its own.
#
# It says facts as activate.sh does: "protocol N" when it speaks another one than the
# deployer, "refused WHY", or what activate.sh says.
set -u
keys=$1 program=$2
shift 2
protocol=1
LC_ALL=C # what is looked at is bytes
export LC_ALL
umask 022
cd / && exec 3<&0 < /dev/null || exit

refuse() {
	printf 'refused %s\n' "$*"
	exit 0
}

# is_number, is_id, is_name, is_path VALUE: whether it is one, and no longer than it may be: what
# is calculated with, is part of a path, or is read back from a file, is nothing else.
is_number() { case $1 in '' | *[!0-9]* | ??????????*) refuse "$what" ;; esac; }
is_id() { case $1 in [!0-9]* | '' | *[!0-9a-f-]*) refuse "$what" ;; esac; }
is_name() { case $1 in .* | -* | *[!A-Za-z0-9+._?=-]*) refuse "$what" ;; esac; }
is_path() {
	base=${1#/nix/store/}
	hash=${base%%-*}
	case $1:$hash in /nix/store/*-*:*[!0-9a-df-np-sv-z]*) refuse "$what" ;; /nix/store/*-*) ;; *) refuse "$what" ;; esac
	if [ ${#hash} != 32 ] || [ ${#base} -gt 211 ]; then refuse "$what"; fi
	is_name "${base#*-}"
}

if [ "${1-}" != $protocol ]; then
	echo protocol $protocol
	exit 0
fi
shift
# A line is a fact, or one thing that is asked for, and must not become two.
for word; do
	case $word in *[[:cntrl:]]*) refuse 'a word with a control character' ;; esac
	[ ${#word} -le 4096 ] || refuse 'a word that is too long'
done

verb=${1-} system='' special='' action='' keys_for=''
what="$verb with these words"
case $verb:$# in
status:1 | generations:1) ;;
closures:2) is_path "$2" ;;
stage:2 | install:2)
	is_path "$2"
	system=$2
	;;
log:2) [ "$2" = last ] || is_id "$2" ;;
attach:4)
	[ "$2" = last ] || is_id "$2"
	is_number "$3"
	is_number "$4"
	;;
contact:3 | refuse:4)
	[ "$2" = last ] || is_id "$2"
	case $3 in 1 | 2) ;; *) refuse "$what" ;; esac
	;;
peek:* | start:*)
	shift
	left=$#
	if [ "$verb" = start ] && [ $left -gt 0 ]; then
		is_id "$1"
		set -- "$@" "$1"
		shift
		left=$((left - 1))
	fi
	# Each word goes to the end when it was looked at.
	while [ $left -gt 0 ]; do
		word=$1 what="the word $1" value=${1#*=}
		shift
		left=$((left - 1))
		case $word in
		action=switch | action=boot | action=test | action=dry-activate) action=$value ;;
		system=*)
			is_path "$value"
			system=$value
			;;
		special=*)
			is_name "$value"
			special=$value
			;;
		switch=* | confirm=* | settle=* | to=*) is_number "$value" ;;
		rollback=0 | rollback=1 | reboot= | reboot=always | reboot=if-needed | by=*) ;;
		ignore=*) case $value in *[!A-Za-z0-9:_.@\\,-]*) refuse "$what" ;; esac ;;
		keep=+*) is_number "${value#+}" ;;
		keep=*d) is_number "${value%d}" ;;
		root=*) continue ;; # it follows from the system
		keys=*) keys_for=$value ;;
		*) refuse "$what" ;;
		esac
		set -- "$@" "$word"
	done
	if [ -z "$system" ] || [ -z "$action" ]; then refuse 'what names no system or no action'; fi
	case $keys_for in '' | none | "${system##*/}") ;; *) refuse "the keys of another system" ;; esac
	set -- "$verb" "$@" "root=/nix/var/nix/gcroots/nx/${system##*/}"
	;;
*) refuse "the verb $verb" ;;
esac

# genuine: whether one of the keys vouches for the system. Nix by itself takes it for
# enough that a path was built here, or that this machine signs what it builds, and
# takes one that is named by its content for signed: whoever may use Nix can have
# such a system here. What the system refers to is named in what is signed, and has
# come by Nix' own rules.
genuine() {
	about=$(nix --extra-experimental-features nix-command path-info --json "$system" 2> /dev/null) || return
	case $about in *'"ca":"'* | *'"ca":{'*) return 1 ;; esac
	nix --extra-experimental-features nix-command store verify --no-contents --sigs-needed 1 \
		--option trusted-public-keys "$keys" --option secret-key-files '' "$system" > /dev/null 2>&1
}

# inside TOPLEVEL: whether what will be run of it is in the store. A signed path may
# be a link to anywhere.
inside() {
	case $(readlink -f "$1/bin/switch-to-configuration") in /nix/store/*) ;; *) return 1 ;; esac
}

# vouched: whether the system may be used; why says what is wrong.
vouched() {
	# From here on nobody can collect it, and have another one in its place.
	root=/nix/var/nix/gcroots/nx/${system##*/}
	mkdir -p "${root%/*}" && ln -sfn "$system" "$root" || exit
	why=
	if ! nix-store --check-validity "$system" 2> /dev/null; then
		why=absent
	elif ! genuine; then
		why="refused $system: it is signed by no key of nx.switch.keys"
	elif ! inside "$system" || { [ -n "$special" ] && [ -e "$system/specialisation/$special" ] && ! inside "$system/specialisation/$special"; }; then
		why="refused $system: it is no system"
	elif [ "$keys_for" = none ] && [ -s "$system/etc/nx/keys" ]; then
		why="refused $system: it declares keys"
	fi
	[ -n "$why" ] || return 0
	rm -f "$root"
	printf '%s\n' "$why"
	exit 0
}

nx=$(cat "$program") || exit
case $verb in
start) vouched ;;
stage | install)
	vouched
	# What it declares is in what was signed, or in what that refers to.
	allowed=$(readlink -f "$system/etc/nx/keys") || refuse "$system: it declares no keys"
	case $allowed in /nix/store/*) ;; *) refuse "$system: it declares no keys" ;; esac
	exec <&3
	if [ "$verb" = stage ]; then
		set -- keys_receive "${system##*/}" "$allowed"
	else
		set -- keys_receive_now "now-$$" "$allowed"
	fi
	;;
esac
exec 3<&-
eval "$nx"
