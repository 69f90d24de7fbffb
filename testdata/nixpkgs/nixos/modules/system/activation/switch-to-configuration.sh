#!/bin/sh
# switch-to-configuration ACTION: make the system that this is part of the boot
# default, the running system, or both.
#
# In order, messages and exit statuses this is the program of NixOS 26.11
# (pkgs/by-name/sw/switch-to-configuration-ng): 0 done; 1 refused before
# anything was changed; 2 the activation script failed; 4 a unit failed; 100 a
# reboot is needed. 3, systemd could not reload its units or tmpfiles, is of its
# predecessor in Perl. It dies as they do, with the number of the last system
# error: 11 when another switch holds the lock, 2 where there is no NixOS.
# Without a running systemd it does not speak of units.
set -u
out='@out@'
action=${1-}

say() { printf '%s\n' "$*" >&2; }

case $action in
check | switch | boot | test | dry-activate) ;;
*)
	cat >&2 <<-USAGE
		Usage: $0 [check|switch|boot|test|dry-activate]
		check:        run pre-switch checks and exit
		switch:       make the configuration the boot default and activate now
		boot:         make the configuration the boot default
		test:         activate the configuration, but don't make it the boot default
		dry-activate: show what would be done if this configuration were activated
	USAGE
	exit 1
	;;
esac
if [ "$(id -u)" != 0 ]; then
	say "$0 must be run as the root user"
	exit 1
fi
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
export PATH NIXOS_ACTION="$action"

if [ ! -f /etc/NIXOS ] && ! grep -qxE 'ID="?@distroId@"?' /etc/os-release; then
	say 'This is not a NixOS installation!'
	exit 2
fi

# The real program makes the lock file for dry-activate and check too; here
# these two look at an existing one only, and so change nothing at all.
lock=/run/nixos/switch-to-configuration.lock
case $action in
dry-activate | check) ;;
*)
	mkdir -p /run/nixos
	chmod 755 /run/nixos
	touch $lock
	;;
esac
if [ -e $lock ]; then
	exec 9< $lock
	if ! flock -n 9; then
		say 'Could not acquire lock'
		exit 11
	fi
fi
# What is started from here on gets no descriptor of the lock: a daemon that an
# activation script leaves behind must not hold it.

if [ "${NIXOS_NO_CHECK-}" != 1 ] && ! "$out/pre-switch-checks" "$out" "$action" 9>&-; then
	say 'Pre-switch checks failed'
	exit 1
fi
if [ "$action" = check ]; then exit 0; fi

if [ "$action" = switch ] || [ "$action" = boot ]; then
	if ! @installBootLoader@ "$out" 9>&-; then
		say 'Failed to install bootloader'
		exit 1
	fi
fi
if [ "${NIXOS_NO_SYNC-}" != 1 ]; then sync -f /nix/store; fi
if [ "$action" = boot ]; then exit 0; fi

# A host that never ran NixOS has no interface that could be incompatible. (The
# real program would not get this far there: it is started only on NixOS.)
if [ -e /run/current-system ] &&
	! cmp -s /run/current-system/init-interface-version "$out/init-interface-version"; then
	cat >&2 <<-'WARNING'
		Warning: the new NixOS configuration has an ‘init’ that is
		incompatible with the current configuration.  The new configuration
		won't take effect until you reboot the system.

	WARNING
	exit 100
fi

# From here on a lost connection must not stop the switch.
trap '' HUP PIPE

# ---- Units: each list has one unit a line.
stop='' start='' restart='' reload='' skip='' hidden=''
installed=/etc/systemd/system new=$out/etc/systemd/system
lists=/run/nixos
systemd=
if [ -d /run/systemd/system ]; then systemd=1; fi

# add LIST UNIT
add() { eval "$1=\$$1\$2'
'"; }
sorted() { printf '%s\n' "$1" | grep . | sort -fu; }
# show WORDS LIST: "WORDS a.service, b.service", unless there are none
show() {
	[ -z "$2" ] || say "$1 $(sorted "$2" | sed ':a;N;$!ba;s/\n/, /g')"
}
visible() { # LIST: without the targets that every switch starts
	printf '%s' "$1" | grep -vxF -e "$hidden" || :
}
units() { systemctl list-units --plain --no-legend --no-pager --full "$@" | cut -d' ' -f1; }
active() { units --state=active,activating,reloading,deactivating; }
is() { # FILE KEY DEFAULT: whether the last KEY of the unit is yes
	v=$(sed -n "s/^$2=//p" "$1" | tail -n 1)
	case ${v:-$3} in yes | true | 1 | on) true ;; *) false ;; esac
}
ours() { # UNIT: whether an earlier generation installed it
	case $(readlink "$installed/$1") in /etc/static/*) true ;; *) false ;; esac
}

# compare: fill the lists from what runs and what the new system has
compare() {
	before=$(active)
	for unit in $before; do
		base=$unit
		case $unit in
		*@*.*) if [ ! -e "$installed/$unit" ] && [ ! -e "$new/$unit" ]; then base=${unit%%@*}@.${unit##*.}; fi ;;
		esac
		ours "$base" || continue
		file=$new/$base
		if [ ! -e "$file" ]; then
			if is "$installed/$base" X-StopOnRemoval yes; then add stop "$unit"; fi
			continue
		fi
		case $unit in
		*.target)
			if ! is "$file" RefuseManualStart no && ! is "$file" X-OnlyManualStart no; then
				add start "$unit"
				add hidden "$unit"
			fi
			continue
			;;
		esac
		[ "$(readlink -f "$installed/$base")" != "$(readlink -f "$file")" ] || continue
		case $unit in
		*.mount) add reload "$unit" ;;
		*.socket | *.path | *.slice) ;;
		*)
			if is "$file" X-ReloadIfChanged no; then
				add reload "$unit"
			elif ! is "$file" X-RestartIfChanged yes || is "$file" RefuseManualStop no || is "$file" X-OnlyManualStart no; then
				add skip "$unit"
			elif ! is "$file" X-StopIfChanged yes; then
				add restart "$unit"
			else
				add stop "$unit"
				add start "$unit"
			fi
			;;
		esac
	done
	# The host's own targets that the new system hooks units into.
	for dir in "$new"/*.wants "$new"/*.requires; do
		[ -d "$dir" ] || continue
		target=${dir##*/}
		target=${target%.*}
		case "
$before
" in *"
$target
"*)
			add start "$target"
			add hidden "$target"
			;;
		esac
	done
}

if [ -n "$systemd" ]; then
	# What an interrupted switch had still to do.
	for list in start restart reload; do
		if [ -e $lists/$list-list ]; then eval "$list=\$(cat \$lists/\$list-list)'
'"; fi
	done
	compare
fi

if [ "$action" = dry-activate ]; then
	show 'would stop the following units:' "$(visible "$stop")"
	show 'would NOT stop the following changed units:' "$skip"
	say 'would activate the configuration...'
	"$out/dry-activate" "$out" 9>&-
	show 'would reload the following units:' "$reload"
	show 'would restart the following units:' "$restart"
	show 'would start the following units:' "$(visible "$start")"
	exit 0
fi

if [ -n "$systemd" ]; then
	for list in start restart reload; do
		eval "value=\$$list"
		if [ -n "$value" ]; then sorted "$value" > $lists/$list-list; fi
	done
	show 'stopping the following units:' "$(visible "$stop")"
	# shellcheck disable=SC2046 # one unit a word
	if [ -n "$stop" ]; then systemctl stop -- $(sorted "$stop"); fi
	show 'NOT restarting the following changed units:' "$skip"
fi

status=0
say 'activating the configuration...'
if ! "$out/activate" "$out" 9>&-; then
	say 'Failed to run activate script'
	status=2
fi
if [ -z "$systemd" ]; then exit $status; fi

# Forget about previously failed services, and read the new units.
systemctl reset-failed
systemctl daemon-reload || status=3
if [ -e /etc/tmpfiles.d/00-nixos.conf ]; then
	say 'setting up tmpfiles'
	systemd-tmpfiles --create --remove --exclude-prefix=/dev 00-nixos.conf || status=3
fi

# run VERB WORDS LIST SHOWN
run() {
	show "$2" "$4"
	# shellcheck disable=SC2046 # one unit a word
	if [ -n "$3" ]; then systemctl "$1" -- $(sorted "$3") 9>&- || status=4; fi
	rm -f "$lists/$1-list"
}
run reload 'reloading the following units:' "$reload" "$reload"
run restart 'restarting the following units:' "$restart" "$restart"
run start 'starting the following units:' "$start" "$(visible "$start")"

# A unit that dies at once is seen only after a moment: until no job is left
# and, like the real program, a quarter of a second more.
while [ -n "$(systemctl list-jobs --no-legend --plain)" ]; do sleep 0.25; done
sleep 0.25

failed=$(units --state=failed)
for unit in $(units --state=auto-restart --type=service); do
	if [ "$(systemctl show --property=ExecMainStatus --value -- "$unit")" != 0 ]; then
		failed="$failed
$unit"
	fi
done
fresh=$(active | grep -v '\.scope$' | grep -vxF -e "$before" -e "$failed" || :)
show 'the following new units were started:' "$fresh"
if [ -n "$failed" ]; then
	show 'warning: the following units failed:' "$failed"
	# shellcheck disable=SC2046 # one unit a word
	systemctl status --no-pager --full -- $(sorted "$failed") >&2
	status=4
fi
exit $status
