#!/bin/sh
# setup-etc.sh ETC: make /etc/static a link to ETC, and everything in it appear
# in /etc; remove from /etc what an earlier generation had put there.
set -eu
etc=$1

link() { # SOURCE TARGET: atomically
	ln -sfn -- "$1" "$2.tmp"
	mv -fT -- "$2.tmp" "$2"
}
link "$etc" /etc/static

# Links that this generation does not have any more.
find /etc -path /etc/nixos -prune -o -type l -lname '/etc/static/*' -print | while read -r file; do
	if [ ! -L "/etc/static/${file#/etc/}" ]; then
		echo "removing obsolete symlink ‘$file’..." >&2
		rm -f -- "$file"
	fi
done

# Copied files are listed in /etc/.clean.
touch /etc/.clean
: > /etc/.clean.tmp
(cd "$etc" && find . -type l) | sed 's,^\./,,' | sort | while read -r file; do
	target=/etc/$file
	mkdir -p "$(dirname "$target")"
	mode=symlink
	if [ -e "$etc/$file.mode" ]; then mode=$(cat "$etc/$file.mode"); fi
	case $mode in
	symlink) link "/etc/static/$file" "$target" ;;
	direct-symlink) link "$(readlink "$etc/$file")" "$target" ;;
	*)
		cp -- "/etc/static/$file" "$target.tmp"
		chown -- "$(cat "$etc/$file.uid"):$(cat "$etc/$file.gid")" "$target.tmp"
		chmod -- "$mode" "$target.tmp"
		mv -fT -- "$target.tmp" "$target"
		;;
	esac
	if [ "$mode" != symlink ]; then echo "$file" >> /etc/.clean.tmp; fi
done

# Copies that were made before and are not wanted now.
while read -r file; do
	if [ ! -L "$etc/$file" ] && [ -e "/etc/$file" ]; then
		echo "removing obsolete file ‘/etc/$file’..." >&2
		rm -f -- "/etc/$file"
	fi
done < /etc/.clean
mv -f /etc/.clean.tmp /etc/.clean
