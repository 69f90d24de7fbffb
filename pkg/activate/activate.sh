#!/bin/sh
# activate.sh VERB …: make a system the running one, the boot default, or both,
# and go back when it does not hold. It runs on the host, as root; README.md
# beside it says what is done in which order, and why.
#
#	peek KEY=VALUE…             tell whether there is anything to do
#	start ID KEY=VALUE…         look, begin a deployment, follow it
#	attach ID LINES LOG         follow it, from these lines of its journal and its log
#	                            on; ID "last" is the last one of this host
#	contact ID ROUND            say that the host was reached over a new connection
#	refuse ID ROUND WHY         say that it was, and that a check failed
#	status, generations, closures, log ID
#	                            tell what is there, and change nothing
#	supervise ID, mend ID       what start and a next deployment call, on the host
#
# stdout tells facts, one a line, a word and its value; pkg/activate reads them.
# stderr is what the programs started here print, each line behind a bar. The
# script is evaluated out of the variable nx, which start keeps in a file. Before it
# stands pkg/keys' keys.sh, whose functions begin with keys_.
set -u

profile=/nix/var/nix/profiles/system
roots=/nix/var/nix/gcroots/nx
auto=/nix/var/nix/gcroots/auto # Nix' own: links to links anywhere that are roots
run=/run/nx       # gone after a reboot
state=/var/lib/nx # stays

# ---- words

# say WORD...: one line. Not echo: that of some shells reads escapes, and \n in
# what a program printed would begin another fact.
say() { printf '%s\n' "$*"; }

# real LINK: the store path behind it; nothing when there is none.
real() { [ ! -e "$1" ] || readlink -f "$1"; }

# see: what runs, what the profile keeps and what was booted, as runs, default and
# booted; nothing when there is none. A process takes longer than all else here, so one
# answers for all.
see() {
	{ read -r runs; read -r default; read -r booted; } <<- EOF
		$(readlink -m /run/current-system $profile /run/booted-system)
	EOF
	[ -e /run/current-system ] || runs=
	[ -e $profile ] || default=
	[ -e /run/booted-system ] || booted=
}

# generation: the profile's link, such as system-42-link; nothing when there is none.
generation() { readlink $profile || :; }

# number LINK: 42 of system-42-link
number() {
	link=${1%-link}
	say "${link##*-}"
}

# uptime: seconds since the boot, which no change of the clock moves.
uptime() {
	read -r up _ < /proc/uptime
	say "${up%.*}"
}

boot_id() {
	read -r boot < /proc/sys/kernel/random/boot_id
	say "$boot"
}

systemd() { [ -d /run/systemd/system ] && command -v systemctl > /dev/null; }

# folder ID: where a deployment is kept, and what is said about it until a reboot.
folder() {
	id=$1
	if [ "$id" = last ]; then
		id=$(readlink $state/last) || id=
		id=${id##*/}
	fi
	dir=$state/deployments/$id live=$run/$id
}

# ask KEY=VALUE...: what is asked for.
ask() {
	action='' system='' root='' special='' by='' switch=300 confirm=60 settle=10 ignore='' rollback=1 reboot='' to='' keep='' keys=''
	while [ $# -gt 0 ]; do
		case $1 in
		action=*) action=${1#*=} ;;
		system=*) system=${1#*=} ;;
		root=*) root=${1#*=} ;;
		special=*) special=${1#*=} ;;
		by=*) by=${1#*=} ;;
		switch=*) switch=${1#*=} ;;
		confirm=*) confirm=${1#*=} ;;
		settle=*) settle=${1#*=} ;;
		ignore=*) ignore=${1#*=} ;;
		rollback=*) rollback=${1#*=} ;;
		reboot=*) reboot=${1#*=} ;;
		to=*) to=${1#*=} ;;
		keep=*) keep=${1#*=} ;;
		keys=*) keys=${1#*=} ;;
		esac
		shift
	done
	# What runs: the system, or its specialisation.
	new=$system
	[ -z "$special" ] || new=$(real "$system/specialisation/$special")
}

# asked: read it again.
asked() {
	set --
	while IFS= read -r line; do set -- "$@" "$line"; done < "$dir/request"
	ask "$@"
}

# told WORD: its value in the journal, where it stands first; last WORD, where last.
told() { sed -n "s/^$1 //p" "$dir/journal" | head -n 1; }
last() { sed -n "s/^$1 //p" "$dir/journal" | tail -n 1; }
# noticed: how many lines the journal has.
noticed() { if [ -e "$dir/journal" ]; then wc -l < "$dir/journal"; else say 0; fi; }
noted() { grep -q "^$1\( \|\$\)" "$dir/journal" 2> /dev/null; }

# ---- over a connection

start() {
	folder "$1"
	shift
	ask "$@"
	look || return
	if settled; then
		[ "$action" = dry-activate ] || { kept && release && confirm_keys; }
		say "generation $(number "$(generation)")"
		say unchanged
		return
	fi
	if [ -z "$new" ]; then
		say no-specialisation
		return
	fi
	if [ "$action" = dry-activate ]; then
		"$new/bin/switch-to-configuration" dry-activate >&2 < /dev/null
		say "tested $?"
		say end
		return
	fi
	if ! (staged); then
		say unstaged
		return
	fi
	[ -d $run ] || mkdir -m 700 $run
	[ -d $state ] || mkdir -m 700 $state
	if held $run/lock; then
		busy
		return
	fi
	if ! write "$@"; then # sh has said why
		say unready
		return
	fi
	launch && ready 0 # one that did not begin is withdrawn by who follows it
	follow 1 1
}

peek() {
	ask "$@"
	look && settled && say unchanged
	return 0
}

# write KEY=VALUE...: what the supervisor starts from.
write() {
	true >> $run/lock && { [ -d $state/deployments ] || mkdir $state/deployments; } && mkdir "$dir" &&
		printf '%s\n' "$@" > "$dir/request" &&
		say "${nx:?}" > "$dir/activate.sh" &&
		printf '%16384s' '' > "$dir/reserve" &&
		true > "$dir/journal" && true > "$dir/log" && sync "$dir"
}

# look: facts that need no deployment. False when there can be none.
look() {
	valid && now
}

# valid: whether the system is on the host.
valid() {
	why=$(nix-store --check-validity "$system" 2>&1) && return
	case $why in
	*' is not valid'*) say absent ;;
	*) say "$why" >&2 ;; # the store cannot be asked, as on a full disk
	esac
	return 1
}

# now: what counts of the host, as it was seen.
now() {
	say "running $runs"
	say "default $default"
	if reboot_needed; then say reboot-needed; fi
}

# kept: whether the profile keeps the system.
kept() { [ "$default" = "$system" ]; }

# settled: whether there is nothing to do. What an earlier deployment left half
# done is not, whatever the links say; nor is a boot default that nobody
# recorded, for the boot loader is not always made from the profile that is there.
settled() {
	case $action in
	switch | test | dry-activate)
		[ "$runs" = "$new" ] && [ ! -L $run/pending ] || return 1
		;;
	esac
	case $action in
	switch | boot | dry-activate)
		kept && [ "$(cat $state/default 2> /dev/null)" = "$system" ] || return 1
		;;
	esac
	(keyed) && { [ ! -e $state/last/journal ] || grep -q '^end$' $state/last/journal; }
}

# keyed: whether there is nothing to do for keys, "none" or those staged under a name;
# without one they are left alone. keys.sh has variables of its own, so what calls it
# does so in a shell of its own.
keyed() {
	case $keys in
	'') ;;
	none) [ -z "$(keys_undeclared /dev/null)" ] ;;
	*) if keys_find "$keys"; then ! keys_changed "$keys"; else keys_there "$keys"; fi ;;
	esac
}

# staged: whether the keys are here that nx-copy staged, or were before.
staged() {
	case $keys in
	'' | none) ;;
	*) keys_find "$keys" || keys_there "$keys" ;;
	esac
}

confirm_keys() { case $keys in '' | none) ;; *) ! (keys_find "$keys") || (keys_confirm "$keys") ;; esac }

# reboot_needed: whether what only a boot can change differs from what was
# booted. A container has booted nothing of this.
reboot_needed() {
	[ -e /run/booted-system/kernel ] || return 1
	[ "$(parts /run/booted-system)" != "$(parts "$new")" ] || ! cmp -s /run/booted-system/kernel-params "$new/kernel-params"
}

# parts SYSTEM: those that only a boot can change, those of them that it has.
parts() { cd "$1" && readlink -e kernel initrd kernel-modules; }

# held FILE: whether a process holds its lock.
held() {
	[ -e "$1" ] || return 1
	! flock -n -s 7 7< "$1"
}

# busy: who holds the lock of the host.
busy() {
	folder "$(cat $run/lock)"
	asked 2> /dev/null
	say "busy $id"
	say "busy-action $action"
	say "busy-system $system"
	say "busy-by ${by:-somebody}"
	say "busy-at $(began 2> /dev/null)"
}

# began: when the deployment did, in seconds since 1970.
began() { stat -c %Y "$dir/request"; }

# launch: start the supervisor, which no end of this connection reaches: no hangup,
# no end of the session's processes, no sudo that closes its terminal. Where
# systemd runs it is a unit, and started again when it is killed.
launch() {
	if systemd && command -v systemd-run > /dev/null; then
		systemd-run --quiet --collect --no-ask-password --unit="nx-activate-$id" \
			--description="nx-activate $action $new" \
			--property=Restart=on-failure --property=RestartSec=100ms --property=TimeoutStopSec=5s \
			--property=OOMScoreAdjust=-900 --setenv="PATH=$PATH" \
			/bin/sh "$dir/activate.sh" supervise "$id" < /dev/null
	else
		setsid /bin/sh "$dir/activate.sh" supervise "$id" > /dev/null 2>&1 < /dev/null &
	fi
}

# ready LINES: wait until the supervisor holds its lock, or has written more than
# these lines of the journal: it may be through already, or killed.
ready() {
	until=$(($(uptime) + 30))
	until held "$dir/alive" || [ "$(noticed)" -gt "$1" ]; do
		[ "$(uptime)" -lt $until ] || return
		sleep 0.005
	done
}

# follow LINES LOG: the journal and the log from these lines on, until the
# supervisor ends. Not its output itself: a daemon that the switch leaves behind
# would hold that open.
follow() {
	say "deployment $id"
	flock -s "$dir/alive" true &
	waiter=$!
	{ tail -n "+$2" -f -s 0.02 --pid=$waiter "$dir/log" | sed -u 's/^/|/' >&2; } &
	logs=$!
	tail -n "+$1" -f -s 0.02 --pid=$waiter "$dir/journal"
	wait $logs # and not for a supervisor that is this shell's child, but late
}

attach() {
	# A system that shuts down may let us in when its disk is gone already.
	! systemd || [ "$(systemctl is-system-running)" != stopping ] || exit 75
	folder "$1"
	if [ "$1" = last ] && [ -z "$id" ]; then
		say none
		return
	fi
	[ -d $state ] || mkdir -m 700 $state
	# Whoever makes this folder owns the deployment: one that has not begun never will.
	if mkdir -p "$dir" && mkdir "$dir/taken" 2> /dev/null; then
		say withdrawn
		return
	fi
	if [ ! -e "$dir/journal" ]; then
		say withdrawn
		return
	fi
	asked
	if ! noted end && ! held "$dir/alive"; then
		lines=$(noticed)
		launch && ready "$lines" # its supervisor died, or the host rebooted
	fi
	[ "$1" != last ] || {
		say "action $action"
		say "system $system"
	}
	follow "$2" "$3"
}

# contact ID ROUND: the first is the new system's to hear, the second anyone's.
contact() {
	folder "$1"
	asked
	if [ "$2" = 1 ]; then
		[ "$runs" = "$new" ] && [ -x "$new/bin/switch-to-configuration" ] || return
	fi
	true > "$live/contact.$2" && ring && say contact
}

refuse() {
	folder "$1"
	say "$3" > "$live/refused.$2" && ring
}

# ring: have the supervisor look, which waits at a FIFO. Opened like this it holds
# nobody up who rings when the supervisor does not wait.
ring() { [ ! -p "$live/bell" ] || say 1<> "$live/bell"; }

# ---- what is there

status() {
	now
	say "booted $booted"
	say "recorded $(cat $state/default 2> /dev/null)"
	if [ -n "$(generation)" ]; then say "generation $(number "$(generation)")"; fi
	if held $run/lock; then say "in-work $(cat $run/lock)"; fi
	if systemd; then
		systemctl list-units --failed --plain --no-legend | while read -r unit _; do say "failed-unit $unit"; done
	fi
	for dir in "$state"/deployments/*/; do
		dir=${dir%/}
		[ ! -s "$dir/journal" ] || past
	done
}

# past: a deployment in one line: how it ended, when it began, what for, who.
past() {
	asked
	ended=failed
	if ! noted end; then
		ended=unfinished
	elif noted rolling-back && ! noted kept; then
		ended='rolled-back'
	elif noted 'done'; then
		ended=activated
	fi
	say "past ${dir##*/} $ended $(began) $action $system ${by:-somebody}"
}

generations() {
	current=$(generation)
	for link in "$profile"-*-link; do
		[ -L "$link" ] || continue
		kind=past
		[ "${link##*/}" != "$current" ] || kind=current
		say "generation-is $(number "${link##*/}") $(stat -c %Y "$link" 2> /dev/null) $kind $(real "$link")"
	done
}

# closures SYSTEM: what runs and the system, path by path with its size.
closures() {
	system=$1
	valid || return 0
	for what in /run/current-system "$1"; do
		say "closure $what"
		# shellcheck disable=SC2046 # one path a word
		set -- $(nix-store --query --requisites "$what")
		nix-store --query --size "$@" | while read -r size; do
			say "path $size $1"
			shift
		done
	done
}

log() {
	folder "$1"
	[ ! -e "$dir/log" ] || cat "$dir/log"
}

# ---- the supervisor

supervise() {
	folder "$1"
	exec 8> "$dir/alive"
	flock -w 2 8 || exit 0 # whoever only looks whether it is held has it for a moment
	if ! mkdir "$dir/taken" 2> /dev/null && [ ! -s "$dir/journal" ]; then
		step end # withdrawn, or the supervisor before died with nothing begun
		exit 0
	fi
	exec >> "$dir/log" 2>&1 < /dev/null
	[ -d $run ] || mkdir -m 700 $run
	exec 9>> $run/lock
	asked
	if ! flock -w 2 9; then
		busy | while IFS= read -r line; do note "$line"; done
		step end
		exit 0
	fi
	say "$id" > $run/lock
	[ -d "$live" ] || mkdir -m 700 "$live"
	if [ -s "$dir/journal" ]; then
		step "resuming $(boot_id)"
		recover
	fi
	# This deployment's alone, whoever stages what meanwhile.
	case $keys in
	'' | none) ;;
	*) (keys_claim "$keys" "$id") || keys= ;;
	esac
	earlier
	begin
}

# mend ID: bring a deployment to its end that has lost its supervisor, for the next
# one, which holds the lock and has a deployer: so nobody is waited for.
mend() {
	folder "$1"
	[ -s "$dir/journal" ] || return
	exec >> "$dir/log" 2>&1 < /dev/null
	asked
	[ -d "$live" ] || mkdir -m 700 "$live"
	confirm=0 mending=yes
	step "resuming $(boot_id)"
	recover
}

# note WORD VALUE: write a line of the journal, which is on the disk after the next
# step. The reserve is for a disk that has become full.
note() {
	say "$*" >> "$dir/journal" || {
		rm -f "$dir/reserve"
		printf '\n%s\n' "$*" >> "$dir/journal"
	}
}

# step WORD VALUE: what is done next, or was, on the disk before anything follows from it.
step() { note "$@" && sync "$dir/journal"; }

# quiet COMMAND...: without our locks, which no daemon that it leaves may hold.
quiet() { "$@" 8>&- 9>&-; }

# earlier: what the last deployment left half done, by its own program.
earlier() {
	if [ -e $state/last/journal ] && ! grep -q '^end$' $state/last/journal; then
		before=$(readlink $state/last)
		quiet /bin/sh "$state/last/activate.sh" mend "${before##*/}"
	fi
	ln -sfn "deployments/$id" $state/last.new || unready
	mv -T $state/last.new $state/last || unready
}

# unready: what a later run must know cannot be written, so it is not begun. What
# went wrong is the log's last line.
unready() {
	step "unready $(tail -n 1 "$dir/log")"
	finish
}

begin() {
	step "supervising $(boot_id)" || unready
	see
	old=$runs
	note_default
	note "booted $booted"
	step "running $old"
	[ -d $roots ] || mkdir -p $roots
	ln -sfn "$new" "$roots/$id-new"
	[ -z "$old" ] || ln -sfn "$old" "$roots/$id-old"
	if [ "$action" = boot ]; then
		early_keys
		commit
		settle_keys
		afresh
		finish
	fi
	units > "$live/before"
	ln -sfn "$new" $run/pending || unready
	early_keys
	step "testing $switch" || unready
	limited "$switch" "$new/bin/switch-to-configuration" test
	units > "$live/switched"
	step "tested $code" || rollback "it cannot be noted on the host"
	prove
	rm -f $run/pending
	if [ "$action" != test ]; then
		commit
		settle_keys
		afresh
	else
		step 'done'
		settle_keys
	fi
	finish
}

# note_default: what the profile keeps, and as which generation.
note_default() {
	note "default $default"
	current=$(generation)
	[ -z "$current" ] || note "generation $(number "$current")"
}

# key COMMAND...: one of keys.sh, within the time that a switch may take.
key() {
	limited "$switch" /bin/sh "$dir/activate.sh" "$@"
	return "$code"
}

# early_keys: install the keys that the new system starts with, or begin nothing.
early_keys() {
	case $keys in '' | none) return ;; esac
	step keys || unready
	key keys_install "$id" "$dir" early && return
	unkeyed=$(tail -n 1 "$dir/log")
	key keys_restore "$dir"
	rm -f $run/pending
	step "unkeyed $unkeyed"
	finish
}

# use_keys: who waits for the keys, and who uses them, gets them.
use_keys() {
	[ -e "$dir/keys" ] || return 0
	if ! key keys_hand_over "$dir" early || ! key keys_act "$id" early; then
		rollback "$(tail -n 1 "$dir/log")"
	fi
}

# settle_keys: the system is confirmed: install what is to come now, and forget what
# was before. A key that cannot be installed any more is no reason to go back.
settle_keys() {
	if [ "$keys" = none ]; then
		true > "$dir/keys"
	elif [ ! -e "$dir/keys" ]; then
		return
	elif ! key keys_install "$id" "$dir" late || ! key keys_hand_over "$dir" late || ! key keys_act "$id" late; then
		step "late-keys $(tail -n 1 "$dir/log")"
	fi
	unwanted=yes
	[ "$action" != test ] || unwanted=no
	key keys_settle "${system##*/}" "$dir" $unwanted && (keys_find "$id") && rm -rf "/run/keys/.nx/$id" "/run/nx/keys/$id"
	step settled-keys
}

# restore_keys: the keys as they were.
restore_keys() { if [ -e "$dir/keys" ]; then key keys_restore "$dir"; fi; }

# afresh: reboot into the new default, if that was asked for.
afresh() {
	case $reboot in
	always) restart ;;
	if-needed) if reboot_needed; then restart; fi ;;
	esac
}

# limited SECONDS COMMAND...: run it, and end all that it started when it takes
# longer: a switch that hangs holds the lock that the way back needs. Sets code to its exit
# status, 124 when it was ended. Who waits for it waits for a lock, which no daemon
# that it leaves behind has.
limited() {
	longest=$1
	shift
	{
		flock 7
		# a session of its own, so that all of it can be found
		# shellcheck disable=SC2016
		setsid /bin/sh -c '"$@" 7>&-; echo $? > "$0"' "$live/code" "$@" 8>&- 9>&- &
		session=$!
	} 7> "$live/busy"
	code=124
	if quiet flock -w "$longest" 7 7> "$live/busy"; then
		wait "$session" && read -r code < "$live/code" && return
		code=137 # its shell was killed, and what that started may go on
	fi
	end_all
}

# configure SYSTEM VERB: its switch-to-configuration, again while another one, such as
# that of nixos-rebuild, has the lock: what was begun is not given up for that.
configure() {
	until=$(($(uptime) + switch))
	while
		limited "$switch" "$1/bin/switch-to-configuration" "$2"
		locked && [ "$(uptime)" -lt $until ]
	do quiet sleep 1; done
}

# locked: whether another one had the lock. It exits with an errno then, which NixOS does
# not promise; this is what it says.
locked() {
	[ "$code" != 0 ] && case $(tail -n 1 "$dir/log") in 'Could not acquire lock'*) ;; *) return 1 ;; esac
}

# refused: whether switch-to-configuration ended before it did anything. 1 is also
# what it exits with when it cannot ask systemd any more, with units stopped.
refused() {
	case $code in 1 | 100) ;; *) locked || return ;; esac
	see
	[ "$runs" = "$old" ] && ! grep -q -e '^stopping the following units:' -e '^activating the configuration' "$dir/log"
}

# end_all: kill what the switch started: all of our unit's control group but us,
# or all of its session.
end_all() {
	group=$(sed -n -e 's/^0:://p' -e 's/^[0-9]*:name=systemd://p' /proc/self/cgroup | grep "/nx-activate-$id\.service\$" | head -n 1)
	for procs in "/sys/fs/cgroup$group/cgroup.procs" "/sys/fs/cgroup/unified$group/cgroup.procs" "/sys/fs/cgroup/systemd$group/cgroup.procs"; do
		if [ -z "$group" ] || [ ! -e "$procs" ]; then continue; fi
		others=yes enough=$(($(uptime) + 10))
		while [ -n "$others" ] && [ "$(uptime)" -lt $enough ]; do
			others=
			while read -r pid; do
				if [ "$pid" != $$ ] && kill -KILL "$pid" 2> /dev/null; then others=yes; fi
			done < "$procs"
		done
	done
	if [ -z "$group" ]; then
		pkill -KILL -s "$session"
		wait "$session"
	fi
}

# prove: the new system holds, or we go back. Returns only when it holds.
prove() {
	[ "$code" = 0 ] || step "said $(sed -e '/^Failed to run activate script/d' "$dir/log" | tail -n 1)"
	if [ "$code$action" = 100switch ] && [ -n "$reboot" ]; then
		rm -f $run/pending
		commit
		restart
	fi
	case $code in
	0 | 4) ;;
	124) rollback "switch-to-configuration took longer than $switch s" ;;
	*)
		if refused; then
			restore_keys
			rm -f $run/pending
			finish
		fi
		rollback "switch-to-configuration: exit status $code"
		;;
	esac
	switched=$code
	use_keys
	if systemd; then
		sleep "$settle" 8>&- 9>&- &
		calm=$!
	fi
	reach 1 || rollback "$why"
	if [ "$switched" = 4 ] && ! systemd && [ "$ignore" != true ]; then
		rollback 'units failed' # and there is nobody to ask which
	fi
	if systemd; then
		wait "$calm"
		units > "$live/settled" || rollback 'systemd does not answer'
		bad=$(worse)
		for unit in $bad; do note "failed-unit $unit"; done
		# shellcheck disable=SC2086 # one unit a word
		[ -z "$bad" ] || rollback units failed: $bad
	fi
	step settled || rollback 'it cannot be noted on the host'
}

# reach ROUND: whether somebody reaches the host over a new connection in time.
reach() {
	[ "$confirm" != 0 ] || return 0
	limit=$(($(uptime) + confirm + 1)) # the seconds are whole ones
	rm -f "$live/contact.$1" "$live/refused.$1"
	step "confirming $1"
	[ -p "$live/bell" ] || mkfifo "$live/bell"
	until [ -e "$live/contact.$1" ]; do
		if [ -s "$live/refused.$1" ]; then
			why=$(head -n 1 "$live/refused.$1")
			return 1
		fi
		left=$((limit - $(uptime)))
		if [ $left -le 0 ]; then
			why="nobody reached the host over a new connection within $confirm s"
			return 1
		fi
		quiet timeout $left head -c 1 <&7 > /dev/null
	done 7<> "$live/bell"
	step "contact $1"
}

# units: those that have failed, "UNIT failed", also when they wait for their next
# start; and how often services were started again by themselves, "UNIT N".
units() {
	systemd || return 0
	timeout 30 systemctl show --property=Id,ActiveState,SubState,Result,NRestarts '*' > "$live/units" &&
		awk -F = '
			$1 == "Id" { id = $2 }
			$1 == "ActiveState" { active = $2 }
			$1 == "SubState" { sub_ = $2 }
			$1 == "Result" { result = $2 }
			$1 == "NRestarts" { restarts = $2 }
			function flush() {
				if (active == "failed" || sub_ == "auto-restart" && result != "success") print id, "failed"
				else if (restarts > 0) print id, restarts
				id = active = sub_ = result = restarts = ""
			}
			$0 == "" { flush() }
			END { flush() }' "$live/units"
}

# worse: the units that failed since, or were started again more than once since the
# switch: one that crashes after a while runs whenever one looks.
worse() {
	[ "$ignore" != true ] || return 0
	awk -v ignore=",$ignore," '
		FILENAME ~ /before$/ { if ($2 == "failed") was[$1] = 1; next }
		FILENAME ~ /switched$/ { restarts[$1] = $2 + 0; next }
		index(ignore, "," $1 ",") || $1 in was { next }
		$2 == "failed" || $2 - restarts[$1] > 1 { print $1 }' "$live/before" "$live/switched" "$live/settled" | sort
}

# commit: the only moment at which the boot default changes. The loader's menu
# is made from the profile, so that goes first; it goes back when the loader
# cannot be installed.
commit() {
	from=$(generation)
	step "committing $from" || rollback 'it cannot be noted on the host'
	set_profile
	step "profile $code"
	if [ "$code" = 0 ]; then
		configure "$system" boot
		step "boot $code"
	fi
	if [ "$code" = 0 ]; then
		recorded "$system"
		prune
		step 'done'
		return
	fi
	why=$(sed -e '/^Failed to install bootloader/d' "$dir/log" | tail -n 1) # before more is said
	back
	[ "$action" != boot ] || {
		restore_keys
		step "uncommitted $why"
		finish
	}
	rollback "set the boot default: $why"
}

# prune: delete generations that nobody wants kept any more, and have the boot
# loader forget them. It is no failure when they stay.
prune() {
	[ -n "$keep" ] || return 0
	generations_before=$(generations)
	limited "$switch" nix-env -p $profile --delete-generations "$keep"
	[ "$(generations)" = "$generations_before" ] || configure "$system" boot
}

# set_profile: set the profile, to the generation that is asked for or to one of the system.
set_profile() {
	if [ -n "$to" ]; then
		limited "$switch" nix-env -p $profile --switch-generation "$to"
	else
		limited "$switch" nix-env -p $profile --set "$system"
	fi
}

# recorded SYSTEM: the boot default that profile and loader agree on.
recorded() { say "$1" > $state/default.new && sync $state/default.new && mv $state/default.new $state/default; }

# back: profile and loader as they were when from was the generation.
back() {
	current=$(generation)
	before=
	[ -z "$from" ] || before=$(real "${profile%/*}/$from")
	back=0
	if [ -n "$from" ] && [ -z "$before" ]; then
		before=$(real $profile) # what was there before was collected
	elif [ "$current" != "$from" ]; then
		if [ -n "$from" ]; then
			quiet nix-env -p $profile --switch-generation "$(number "$from")" || back=$?
		else
			rm -f $profile || back=$?
		fi
		if [ $back = 0 ] && [ -z "$to" ]; then
			quiet nix-env -p $profile --delete-generations "$(number "$current")" || back=$?
		fi
	fi
	if [ $back = 0 ] && [ -n "$before" ]; then
		configure "$before" boot
		back=$code
		[ "$back" != 0 ] || recorded "$before"
	fi
	step "back $back"
}

# rollback WHY: what ran before runs again, and can be reached, or the host reboots
# into its boot default, which is what it was.
rollback() {
	step "rolling-back $*"
	if [ "$rollback" != 1 ] || [ -z "${old-}" ]; then
		if [ -e "$dir/keys" ]; then key keys_settle "${system##*/}" "$dir" no; fi
		step kept
		finish
	fi
	restore_keys
	configure "$old" test
	rolled=$code
	if [ -e "$dir/keys" ]; then key keys_act "$id" early; fi
	step "rolled-back $rolled"
	case $rolled in
	0 | 3 | 4) # 3 and 4 may be for what was not well before either
		if reach 2; then
			rm -f $run/pending
			finish
		fi
		;;
	esac
	restart
}

# restart: reboot the host. The next contact finds what came up.
restart() {
	step "rebooting $(boot_id)"
	sync
	if systemd; then
		quiet systemctl --no-block reboot && sleep 90
		quiet systemctl --force --force reboot && sleep 30
	elif quiet reboot || quiet reboot -f -f; then
		sleep 30
	fi
	step unrebooted
	finish
}

# recover: after the supervisor's death, or the host's. What was being committed is
# completed where it runs and undone where it does not; everything before that is
# undone by the boot, or by a rollback.
recover() {
	see
	old=$(told running)
	rebooted=
	[ "$(last supervising)" = "$(boot_id)" ] || rebooted=yes
	if noted committing && ! noted 'done' && ! noted back; then
		from=$(last committing)
		if [ "$runs" = "$new" ]; then
			again
			noted back || {
				settle_keys
				finish
			}
			rollback 'set the boot default'
		fi
		back
	fi
	[ -z "$rebooted" ] || step "rebooted $runs"
	# nothing is left to undo, or nothing was left to do
	if noted 'done'; then
		noted settled-keys || settle_keys
		finish
	fi
	if [ -n "$rebooted" ] || ! noted testing; then
		restore_keys
		rm -f $run/pending
		finish
	fi
	rollback "its supervisor was killed$(noted rolling-back && say " after: $(told rolling-back)")"
}

# again: the commit that was broken off of a system that runs.
again() {
	set_profile
	[ "$code" != 0 ] || configure "$system" boot
	if [ "$code" != 0 ]; then
		back
		return
	fi
	step 'profile 0'
	step 'boot 0'
	recorded "$system"
	rm -f $run/pending
	step 'done'
}

finish() {
	see
	note "running $runs"
	note_default
	if reboot_needed; then note reboot-needed; fi
	if kept; then release; fi
	[ -n "${mending-}" ] || (keys_claim "$id" "${system##*/}") # for who tries again
	rm -rf "$roots/$id-new" "$roots/$id-old" "$dir/reserve" "$live"
	forget
	step end
	exit 0
}

# forget: all but the last hundred deployments. Their names begin with the time.
forget() {
	set -- $state/deployments/*/
	while [ $# -gt 100 ]; do
		[ "$1" = "$dir/" ] || rm -rf "$1"
		shift
	done
}

# release: remove the root that nx-copy left, and those that nobody came for
# within a day, of systems that failed or were overtaken.
release() {
	[ -z "$root" ] || rm -f "$root"
	# Users who may not write there have theirs in their homes, where names may lie: what
	# is removed is a link to a store path that has this path's name, and no other file.
	find $roots $auto -type l \( -path "$roots/*" -mtime +0 -exec rm -f {} + -o \
		-path "$auto/*" -lname '*/nx/roots/*' -print \) 2> /dev/null | while IFS= read -r link; do
		link=$(readlink "$link")
		[ "$(readlink "$link")" = "/nix/store/${link##*/}" ] || continue
		if [ "${link##*/}" = "${system##*/}" ] || [ -n "$(find "$link" -prune -mtime +0)" ]; then rm -f "$link"; fi
	done
}

umask 022
case ${1-} in
supervise | mend) ;; # its starter's
*)
	PATH=$PATH:/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/sbin:/usr/bin:/sbin:/bin
	see
	PATH=$runs/sw/bin:$PATH
	if [ "$(id -u)" != 0 ]; then
		say "user $(id -un)"
		exit 0
	fi
	;;
esac
HOME=${HOME:-/root}
export PATH HOME
"$@"
