#!/bin/sh
# keys.sh: bring keys onto this host. Functions that run there as root, each in a
# process of its own; README.md beside it says what is done when. pkg/activate's
# script has them before its own. A failure's last line of output says why.
#
# A manifest has a line for each key that the network declares, its fields parted
# by tabs, "-" where there is none:
#
#	N STATE WHEN USER GROUP MODE DIRS SUM UNITS PATH
#
# N is its number, and the name of the file that has its contents, where STATE is
# "new"; a key that is "same" was there already when nx-copy looked. WHEN is early
# or late, DIRS whether folders are made, UNITS a list with commas. SUM is the
# sha256 of the salt, which stands in a file beside, and the contents. N.action is
# what to run when the key has changed.
set -u

keys_tab=$(printf '\t')
keys_list=/var/lib/nx/keys # the keys that nx has here: a path a line, behind the system that declared them

# keys_memory: a folder in memory that is root's alone. NixOS has /run/keys in a
# file system that is never swapped out.
keys_memory() {
	case $(stat -f -c %T /run/keys 2> /dev/null) in
	ramfs) memory=/run/keys/.nx ;;
	*) memory=/run/nx/keys ;;
	esac
	[ -d /run/nx ] || mkdir -m 700 /run/nx || return
	[ -d $memory ] || mkdir -m 700 $memory || return
	case $(stat -f -c %T $memory) in
	ramfs | tmpfs) ;;
	*)
		echo "there is no folder in memory: $memory is on a disk"
		return 1
		;;
	esac
}

# keys_find NAME: where it is staged.
keys_find() {
	for staged in "/run/keys/.nx/$1" "/run/nx/keys/$1"; do
		[ ! -e "$staged/manifest" ] || return 0
	done
	return 1
}

# keys_sum FILE: the sum of salt and file.
keys_sum() {
	sum=$({ printf %s "$salt" && cat "$1"; } 2> /dev/null | sha256sum) && sum=${sum%% *}
}

# keys_each MANIFEST COMMAND...: call it for each key, whose fields it finds in
# variables, until one fails.
keys_each() {
	manifest=$1
	shift
	while IFS=$keys_tab read -r i is when user group mode dirs want units path <&7; do
		folder=${path%/*} name=${path##*/}
		kept=$folder/.$name.nx-kept
		"$@" || return
	done 7< "$manifest"
}

# keys_receive NAME [ALLOWED]: take what nx-copy sends, as what is staged under that
# name. First the salt and paths, up to an empty line; each is answered by what is
# there. Then the manifest's lines, each behind the sizes of contents and action and
# followed by these. Where the file ALLOWED is named, keys are as a line of it says:
# USER GROUP MODE DIRS UNITS PATH, and nothing is run.
keys_receive() {
	allowed=${2-}
	umask 077
	keys_memory >&2 || return
	IFS= read -r salt
	while IFS= read -r file && [ -n "$file" ]; do
		if keys_may 6 "$file" && [ -f "$file" ] && [ ! -L "$file" ] && keys_sum "$file"; then
			echo "$sum $(stat -c '%U %u %G %g %a' "$file")"
		else
			echo -
		fi
	done
	staged=$memory/$1 new=$memory/.new.$$
	mkdir $new && true > $new/manifest && printf %s "$salt" > $new/salt || return
	while IFS=$keys_tab read -r size action i is when user group mode dirs want units path; do
		if [ "$size" = end ]; then
			rm -rf "$staged" && mv -T $new "$staged" && echo staged
			# what nobody came for
			find $memory -mindepth 1 -maxdepth 1 -mtime +0 -exec rm -rf {} +
			return
		fi
		case $i in '' | *[!0-9]*) break ;; esac
		line=$user$keys_tab$group$keys_tab$mode$keys_tab$dirs$keys_tab$units$keys_tab$path
		if ! keys_may 1 "$line" || { [ -n "$allowed" ] && [ "$action" != - ]; }; then
			echo "the system does not declare $path like this" >&2
			break
		fi
		if [ "$size" != - ]; then keys_take "$size" > "$new/$i" || break; fi
		if [ "$action" != - ]; then keys_take "$action" > "$new/$i.action" || break; fi
		{ printf '%s\t' "$i" "$is" "$when" "$user" "$group" "$mode" "$dirs" "$want" "$units" && printf '%s\n' "$path"; } >> $new/manifest || break
	done
	rm -rf $new
	return 1
}

# keys_may FIELD TEXT: whether that is allowed from this field of a line on.
keys_may() { [ -z "$allowed" ] || cut -f "$1-" "$allowed" | grep -qxF -e "$2"; }

# keys_take SIZE: the next bytes, of which there is an end.
keys_take() {
	case $1 in '' | *[!0-9]* | ????????*) return 1 ;; esac
	head -c "$1"
}

# keys_changed NAME: whether there is anything to do for what is staged.
keys_changed() {
	keys_find "$1" || return
	cut -f 2 "$staged/manifest" | grep -q '^new$' || [ -n "$(keys_undeclared "$staged/manifest")" ]
}

# keys_there SYSTEM: whether what was staged for it was installed, and is there yet.
keys_there() {
	[ "$(head -n 1 $keys_list 2> /dev/null)" = "$1" ] || return
	tail -n +2 $keys_list | while IFS= read -r file; do [ -e "$file" ] || return 1; done
}

# keys_undeclared MANIFEST: the keys that nx brought here and that it does not have.
keys_undeclared() {
	[ -e $keys_list ] || return 0
	tail -n +2 $keys_list | while IFS= read -r file; do
		cut -f 10- "$1" | grep -qxF -e "$file" || printf '%s\n' "$file"
	done
}

# keys_install NAME KEEP WHEN: install those of WHEN that are new, after noting in the
# folder KEEP what takes them back.
keys_install() {
	keep=$2 now=$3
	if ! keys_find "$1"; then
		echo "what nx-copy staged is gone"
		return 1
	fi
	salt=$(cat "$staged/salt") || return
	if [ ! -e "$keep/keys" ]; then
		keys_each "$staged/manifest" keys_drop # nobody's
		cp "$staged/manifest" "$keep/keys.new" && sync "$keep/keys.new" && mv "$keep/keys.new" "$keep/keys" || return
	fi
	keys_each "$staged/manifest" keys_put
}

keys_put() {
	[ "$when" = "$now" ] || return 0
	if [ "$is" = same ]; then
		keys_sum "$path"
		[ "$sum" = "$want" ] || {
			echo "$path changed after nx-copy had looked: run nx-copy again"
			return 1
		}
		return 0
	fi
	keys_sum "$staged/$i"
	if [ "$sum" != "$want" ]; then
		echo "$path did not arrive whole: run nx-copy again"
		return 1
	fi
	if [ ! -d "$folder" ]; then
		if [ "$dirs" != yes ]; then
			echo "$path: there is no folder $folder"
			return 1
		fi
		keys_folder || return
	fi
	if [ -d "$path" ] && [ ! -L "$path" ]; then
		echo "$path is a folder"
		return 1
	fi
	next=$folder/.$name.nx-new
	(umask 077 && cat "$staged/$i" > "$next") && keys_own "$next" && sync "$next" || return
	if [ -e "$kept" ] || [ -L "$kept" ]; then
		: # by an attempt before this one
	elif [ -e "$path" ] || [ -L "$path" ]; then
		ln -PT "$path" "$kept" || cp -pPT "$path" "$kept" || return
	else
		echo "$i" >> "$keep/keys.absent" && sync "$keep/keys.absent" || return
	fi
	sync "$folder" && mv -fT "$next" "$path" && sync "$folder"
}

# keys_folder: make the key's. NixOS' one for keys is for those in the group of that name.
keys_folder() {
	mkdir -p "$folder" || return
	if [ "$folder" = /run/keys ]; then
		chmod 750 "$folder"
		! getent group keys > /dev/null || chgrp keys "$folder"
	fi
}

# keys_own FILE: give it owner and mode; it is root's alone while the owner does not exist.
keys_own() {
	if keys_known; then
		chown "$user:$group" "$1" && chmod "$mode" "$1"
	else
		chown root:root "$1" && chmod 600 "$1"
	fi
}

# keys_known: whether user and group exist.
keys_known() {
	id -u "$user" > /dev/null 2>&1 || case $user in *[!0-9]*) return 1 ;; esac
	getent group "$group" > /dev/null || case $group in *[!0-9]*) return 1 ;; esac
}

# keys_hand_over KEEP WHEN: give the keys to owners that did not exist before.
keys_hand_over() {
	now=$2
	keys_each "$1/keys" keys_owner
}

keys_owner() {
	if [ "$when" != "$now" ] || [ ! -e "$path" ]; then return 0; fi
	if ! keys_known; then
		echo "$path: there is no user $user, or no group $group"
		return 1
	fi
	keys_own "$path"
}

# keys_act NAME WHEN: tell who uses keys that have changed.
keys_act() {
	now=$2
	! keys_find "$1" || keys_each "$staged/manifest" keys_tell
}

keys_tell() {
	if [ "$is" != new ] || [ "$when" != "$now" ]; then return 0; fi
	if [ -e "$staged/$i.action" ] && ! /bin/sh "$staged/$i.action" < /dev/null; then
		echo "$path: its action failed"
		return 1
	fi
	if [ "$units" != - ] && [ -d /run/systemd/system ]; then
		# shellcheck disable=SC2086 # a unit a word
		(IFS=, && systemctl try-restart -- $units < /dev/null) || {
			echo "$path: $units could not be restarted"
			return 1
		}
	fi
}

# keys_restore KEEP: what was there before keys_install.
keys_restore() {
	[ ! -e "$1/keys" ] || keys_each "$1/keys" keys_back "$1"
}

keys_back() {
	if [ "$is" = same ]; then return 0; fi
	rm -f "$folder/.$name.nx-new"
	if [ -e "$kept" ] || [ -L "$kept" ]; then
		if [ "$(stat -c %d:%i "$kept")" = "$(stat -c %d:%i "$path" 2> /dev/null)" ]; then
			rm -f "$kept" # it was not replaced yet
		else
			mv -fT "$kept" "$path" && sync "$folder"
		fi
	elif grep -qxF "$i" "$1/keys.absent" 2> /dev/null; then
		rm -f "$path" && { [ ! -d "$folder" ] || sync "$folder"; }
	fi
}

# keys_claim NAME OTHER: what is staged is called otherwise from now on, unless
# something is called so.
keys_claim() { keys_find "$1" && [ ! -e "${staged%/*}/$2" ] && mv -T "$staged" "${staged%/*}/$2"; }

# keys_settle SYSTEM KEEP PRUNE: the host has the keys as they are now, those that
# SYSTEM needs: nothing of what was before is needed any more. With PRUNE "yes", those
# that the network no longer declares go.
keys_settle() {
	keys_each "$2/keys" keys_drop
	also=$(keys_undeclared "$2/keys")
	if [ "$3" = yes ] && [ -n "$also" ]; then
		printf '%s\n' "$also" | while IFS= read -r file; do rm -f "$file"; done
		also=
	fi
	umask 077
	mkdir -p ${keys_list%/*} && {
		printf '%s\n' "$1" && cut -f 10- "$2/keys" && { [ -z "$also" ] || printf '%s\n' "$also"; }
	} > $keys_list.new && sync $keys_list.new && mv $keys_list.new $keys_list && rm -f "$2/keys" "$2/keys.absent"
}

# keys_confirm NAME: what is staged for that system is there already.
keys_confirm() {
	keys_find "$1" && mv "$staged/manifest" "$staged/keys" && keys_settle "$1" "$staged" yes && rm -rf "$staged"
}

keys_drop() { rm -f "$kept"; }

# keys_pack NAME: what is staged, and of what a reboot loses, as keys_receive takes it.
keys_pack() {
	keys_find "$1" || return 0
	printf '%s\n\n' "$(cat "$staged/salt")"
	keys_each "$staged/manifest" keys_packed && echo end
}

keys_packed() {
	on=$folder
	until [ -d "$on" ]; do on=${on%/*} && [ -n "$on" ] || on=/; done
	case $(stat -f -c %T "$on") in
	ramfs | tmpfs) ;;
	*) return 0 ;;
	esac
	from=$path
	[ "$is" != new ] || from=$staged/$i
	printf '%s\t-\t' "$(stat -c %s "$from")"
	printf '%s\t' "$i" new "$when" "$user" "$group" "$mode" "$dirs" "$want" "$units"
	printf '%s\n' "$path"
	cat "$from"
}

# keys_unpack NAME: install what keys_pack printed, which follows a line with the word
# keys.
keys_unpack() {
	until IFS= read -r line || return; do [ "$line" != keys ] || break; done
	keys_receive "$1" >&2 && keys_at_once "$1" no
}

# keys_receive_now NAME ALLOWED: keys_receive, and install it at once.
keys_receive_now() { keys_receive "$1" "$2" && keys_at_once "$1" no >&2; }

# keys_at_once NAME PRUNE: install all that is staged, without an activation.
keys_at_once() {
	[ -d /run/nx ] || mkdir -m 700 /run/nx || return
	exec 9>> /run/nx/lock
	if ! flock -w 2 9; then
		echo "an activation is in work on the host: wait for it, or follow it with nx-activate attach"
		return 1
	fi
	if [ -e /var/lib/nx/last/journal ] && ! grep -q '^end$' /var/lib/nx/last/journal; then
		echo "an activation was left half done on the host: nx-activate attach brings it to its end"
		return 1
	fi
	keys_find "$1" || return
	keep=$staged
	for moment in early late; do
		if ! keys_install "$1" "$keep" $moment || ! keys_hand_over "$keep" $moment; then
			keys_restore "$keep" >&2
			return 1
		fi
	done
	acted=0
	for moment in early late; do (keys_act "$1" $moment 9>&-) || acted=1; done
	system=$(head -n 1 $keys_list 2> /dev/null)
	keys_settle "${system:--}" "$keep" "$2" && rm -rf "$keep" && return $acted
}
