#!/bin/sh
# users-groups.sh GROUPS USERS: create the groups and accounts that the files
# list and the host lacks. GROUPS has name:gid:members, USERS has
# name:uid:group:description:home:shell:normal:create:password, an empty number
# meaning any free one. What exists is kept, but for memberships, which grow.
set -eu
groups=$1 users=$2

has() { # FILE NAME
	cut -d: -f1 "$1" | grep -qxF -- "$2"
}
free() { # FILE FROM STEP: the first free number
	n=$2
	while cut -d: -f3 "$1" | grep -qx "$n"; do n=$((n + $3)); done
	echo "$n"
}
touch /etc/passwd /etc/group

while IFS=: read -r name gid members; do
	has /etc/group "$name" ||
		printf '%s:x:%s:\n' "$name" "${gid:-$(free /etc/group 999 -1)}" >> /etc/group
	[ -n "$members" ] || continue
	while IFS=: read -r group password number present; do
		if [ "$group" = "$name" ]; then
			for member in $(echo "$members" | tr , ' '); do
				case ,$present, in
				*",$member,"*) ;;
				*) present=$present${present:+,}$member ;;
				esac
			done
		fi
		echo "$group:$password:$number:$present"
	done < /etc/group > /etc/group.tmp
	cmp -s /etc/group.tmp /etc/group || cat /etc/group.tmp > /etc/group
	rm /etc/group.tmp
done < "$groups"

while IFS=: read -r name uid group description home shell normal create password; do
	if ! has /etc/passwd "$name"; then
		if [ "$normal" = true ]; then set -- 1000 1; else set -- 998 -1; fi
		gid=$(grep "^$group:" /etc/group | cut -d: -f3)
		printf '%s:x:%s:%s:%s:%s:%s\n' "$name" "${uid:-$(free /etc/passwd "$1" "$2")}" \
			"$gid" "$description" "$home" "$shell" >> /etc/passwd
		# "*" is no password at all; "!" would lock the account, and an sshd
		# without PAM refuses locked accounts even by key.
		if [ -f /etc/shadow ]; then
			printf '%s:%s:1::::::\n' "$name" "${password:-*}" >> /etc/shadow
		fi
	fi
	if [ "$create" = true ] && [ ! -d "$home" ]; then
		mkdir -p "$home"
		chown "$name:$group" "$home"
		chmod 700 "$home"
	fi
done < "$users"
