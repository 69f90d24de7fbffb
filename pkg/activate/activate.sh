#!/bin/sh
# activate.sh ACTION SYSTEM ROOT: make SYSTEM the running system, the boot
# default, or both. It runs on the host, as root; README.md beside it says in
# which order things are done, and why.
#
#	ACTION  switch, boot, test or dry-activate
#	SYSTEM  store path of a NixOS system, already valid on the host
#	ROOT    the garbage collector root to remove once the profile keeps SYSTEM
#
# stdout tells facts, one a line, a word and its value; pkg/activate reads them.
# stderr is what the programs started here print. It is evaluated out of the
# variable nx, which it keeps in a file to go on from, detached from the connection.
set -u

profile=/nix/var/nix/profiles/system
run=/run/nx       # gone after a reboot
state=/var/lib/nx # stays

# real LINK: the store path behind it; nothing when there is none.
real() { [ ! -e "$1" ] || readlink -f "$1"; }

# generation: the profile's link, such as system-42-link; nothing when there is none.
generation() { readlink $profile || :; }

# number LINK: 42 of system-42-link
number() {
	link=${1%-link}
	say "${link##*-}"
}

# say WORD...: one line. Not echo: that of some shells reads escapes, and \n in
# what a program printed would begin another fact.
say() { printf '%s\n' "$*"; }

main() {
	action=$1 system=$2 root=$3
	umask 022
	PATH=$(real /run/current-system/sw)/bin:$PATH:/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/sbin:/usr/bin:/sbin:/bin
	export PATH

	if [ "$(id -u)" != 0 ]; then
		say "user $(id -un)"
		return
	fi
	if ! why=$(nix-store --check-validity "$system" 2>&1); then
		case $why in
		*' is not valid'*)
			say absent
			return
			;;
		esac
		say "$why" >&2 # the store cannot be asked, as on a full disk
		return 1
	fi
	say "running $(real /run/current-system)"
	say "default $(real $profile)"
	if reboot_needed; then say reboot-needed; fi
	if settled; then
		[ "$action" != dry-activate ] && kept && release
		say "generation $(number "$(generation)")"
		say unchanged
		return
	fi
	if [ "$action" = dry-activate ]; then
		"$system/bin/switch-to-configuration" dry-activate >&2 < /dev/null
		say "test $?"
		say end
		return
	fi

	[ -d $run ] || mkdir -m 700 $run
	exec 9> $run/lock
	flock -n 9
	case $? in
	0) ;;
	1)
		say busy
		return
		;;
	*) return 1 ;; # flock says why
	esac
	: > $run/facts && say "start $(date +%s) $action $system" > $run/log &&
		say "${nx:?}" > $run/activate.sh || return 1 # sh has said why
	say begin
	# In a session of its own no end of ours reaches it: no hangup, no signal to
	# our process group, no sudo that closes its terminal. It holds the lock now.
	setsid -w /bin/sh $run/activate.sh detached "$action" "$system" "$root" >> $run/log 2>&1 < /dev/null &
	exec 9>&-
	# Not its output itself: a daemon that it leaves behind would hold that open.
	tail -n +2 -f -s 0.1 --pid=$! $run/log >&2
	wait $! # over already, unless the tail was lost
	cat $run/facts
}

# release: remove the root that nx-copy left, and those that nobody came for
# within a day, of systems that failed or were overtaken.
release() {
	rm -f "$root"
	find "${root%/*}" -type l -mtime +0 -exec rm -f {} + 2> /dev/null
}

# kept: whether the profile keeps SYSTEM.
kept() { [ "$(real $profile)" = "$system" ]; }

# settled: whether there is nothing to do. What an earlier activation left half
# done is not, whatever the links say.
settled() {
	case $action in
	switch | test | dry-activate)
		[ "$(real /run/current-system)" = "$system" ] && [ ! -e $run/pending ] || return 1
		;;
	esac
	case $action in
	switch | boot | dry-activate)
		kept && [ ! -e $state/committing ] || return 1
		;;
	esac
}

# reboot_needed: whether what only a boot can change differs from what was
# booted. A container has booted nothing of this.
reboot_needed() {
	[ -e /run/booted-system/kernel ] || return 1
	for part in kernel initrd kernel-modules; do
		[ "$(real /run/booted-system/$part)" = "$(real "$system/$part")" ] || return 0
	done
	! cmp -s /run/booted-system/kernel-params "$system/kernel-params"
}

fact() { say "$*" >> $run/facts; }

# detached: what the connection has no part in any more.
detached() {
	action=$1 system=$2 root=$3
	if [ "$action" != boot ]; then
		ln -sfn "$system" $run/pending || unready
		"$system/bin/switch-to-configuration" test 9>&-
		code=$?
		fact "test $code"
		case $code in
		0) rm -f $run/pending ;;
		4) ;; # it runs, with failed units: the boot default must agree
		*) finish ;;
		esac
	fi
	if [ "$action" != test ]; then commit; fi
	finish
}

# unready: what would tell a later run of a half-done activation cannot be
# written, so it is not begun. What went wrong is the log's last line.
unready() {
	fact "unready $(tail -n 1 $run/log)"
	finish
}

finish() {
	fact "running $(real /run/current-system)"
	fact "default $(real $profile)"
	fact "generation $(number "$(generation)")"
	fact end
	exit 0
}

# commit: the only moment at which the boot default changes. The loader's menu
# is made from the profile, so that goes first; it goes back when the loader
# cannot be installed.
commit() {
	[ -d $state ] || mkdir -m 700 $state || unready
	# What a commit that was broken off noted still holds: the profile may be its
	# own work already. An empty file never came to the disk, nor did its commit.
	if ! { [ -s $state/committing ] && [ -e "${profile%/*}/$(cat $state/committing)" ]; }; then
		say "$(generation)" > $state/committing || unready
	fi
	sync $state/committing || unready
	old=$(cat $state/committing) before=
	[ -z "$old" ] || before=$(real "${profile%/*}/$old")
	nix-env -p $profile --set "$system" 9>&-
	code=$?
	fact "profile $code"
	if [ $code = 0 ]; then
		"$system/bin/switch-to-configuration" boot 9>&-
		code=$?
		fact "boot $code"
	fi
	if [ $code = 0 ]; then
		rm -f $state/committing
		release
		return
	fi
	fact "why $(sed -e 1d -e '/^Failed to install bootloader/d' $run/log | tail -n 1)" # before more is said
	back
	fact "back $?"
}

# back: profile and loader as they were before commit.
back() {
	new=$(generation)
	if [ "$new" != "$old" ]; then
		if [ -n "$old" ]; then
			nix-env -p $profile --switch-generation "$(number "$old")" 9>&- || return
		else
			rm -f $profile || return
		fi
		nix-env -p $profile --delete-generations "$(number "$new")" 9>&- || return
	fi
	if [ -n "$before" ]; then
		"$before/bin/switch-to-configuration" boot 9>&- || return
	fi
	rm -f $state/committing
}

case ${1-} in
detached)
	shift
	detached "$@"
	;;
*) main "$@" ;;
esac
