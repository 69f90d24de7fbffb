# renew.sh: give this machine an ssh host key of its own.
#
#   make INJECTED   make a key beside the one in force, which is INJECTED, and say it;
#                   where another one is in force already, say that
#   use KEY         put the key that was made in force, if it is not
#
# It is run on the machine with its arguments set. Each step may be done again.
set -eu
key=/etc/ssh/ssh_host_ed25519_key
next=$key.nx

# What is called a public key is that of the private one, whatever lies beside it.
public() {
	line=$(ssh-keygen -y -f "$1" </dev/null) || return
	printf '%s\n' "$line" | cut -d ' ' -f 1,2
}

case $1 in
make)
	if [ "$(public $key)" = "$2" ]; then
		if ! public $next >/dev/null 2>&1; then
			rm -f $next $next.pub
			ssh-keygen -q -t ed25519 -N '' -C "root@$(uname -n)" -f $next >&2
			sync
		fi
		made=$(public $next)
	else
		made=$(public $key)
	fi
	ID='' VERSION_ID=''
	# shellcheck source=/dev/null
	[ ! -r /etc/os-release ] || . /etc/os-release
	case $ID$VERSION_ID in
	*[!A-Za-z0-9._-]*) ID='' VERSION_ID='' ;;
	esac
	printf '{"key":"%s","os":"%s","version":"%s"}\n' "$made" "$ID" "$VERSION_ID"
	;;
use)
	if [ "$(public $key)" != "$2" ]; then
		[ "$(public $next)" = "$2" ]
		mv $next $key
		mv $next.pub $key.pub
		sync
	fi
	# Debian and NixOS name the unit differently; behind a socket there may be none, and
	# each connection reads the key. Without systemd the server has its pid there, or is a
	# container's first process.
	if [ -d /run/systemd/system ]; then
		systemctl try-reload-or-restart ssh.service 2>/dev/null ||
			systemctl try-reload-or-restart sshd.service 2>/dev/null ||
			systemctl is-active --quiet ssh.socket || systemctl is-active --quiet sshd.socket
	elif [ -r /run/sshd.pid ]; then
		kill -HUP "$(cat /run/sshd.pid)"
	else
		grep -q sshd /proc/1/comm
		kill -HUP 1
	fi
	;;
esac
