#!/bin/sh
# Drains a server of one HAProxy backend through its admin socket, to show what a
# program for Lockstep's exec balancer looks like. It needs socat and awk.
#
#   command: ["/etc/lockstep/haproxy.sh", "/run/haproxy/admin.sock", "web"]
#
# Lockstep adds the stage as the last argument.
set -eu
socket=$1 backend=$2 stage=$3

ask() { printf '%s\n' "$1" | socat -t 5 -T 5 - "UNIX-CONNECT:$socket"; }

# fail CLASS TEXT: TEXT must need no quoting in JSON.
fail() {
	printf '{"class":"%s","error":"%s"}\n' "$1" "$2"
	exit 1
}

# tell COMMAND: HAProxy answers an empty line when it obeys.
tell() {
	said=$(ask "$1")
	case $said in
	'') ;;
	*'Permission denied'*) echo "the socket is not of level admin" >&2 && exit 77 ;;
	*'No such server'* | *'No such backend'*) fail not_found "no such server or backend" ;;
	*) echo "HAProxy said: $said" >&2 && exit 1 ;;
	esac
}

# look asks HAProxy and sets
#   epoch: the process, for another one may have forgotten what it was told
#   members: one line for each server, with name, phase, requests in flight,
#     weight, drained (0 or 1), and HAProxy's words
# Each answer is waited for on its own: in a pipe its failure would be lost.
look() {
	info=$(ask "show info")
	states=$(ask "show servers state $backend")
	stats=$(ask "show stat $backend 4 -1")
	epoch=$(printf '%s\n' "$info" | awk '/^Pid:/ { print $2 }')
	members=$(printf '%s\n#stat\n%s\n' "$states" "$stats" | awk '
		/^#stat/ { stat = 1; next }
		!stat && $1 == "#" { for (i = 2; i <= NF; i++) at[$i] = i - 1; next }
		!stat && NF > 6 { name = $at["srv_name"]; admin[name] = $at["srv_admin_state"]; op[name] = $at["srv_op_state"]; weight[name] = $at["srv_uweight"]; next }
		stat && !head { sub(/^# /, ""); n = split($0, f, ","); for (i = 1; i <= n; i++) col[f[i]] = i; head = 1; next }
		stat && NF {
			split($0, f, ","); name = f[col["svname"]]; words = f[col["status"]] " " f[col["check_status"]]
			a = admin[name]; drained = int(a / 8) % 4 > 0; maint = a % 8 > 0 || int(a / 32) % 4 > 0
			check = f[col["check_status"]]; sub(/^\* /, "", check)
			phase = "unknown"
			if (maint || weight[name] == 0) phase = "foreign_out"
			else if (drained) phase = "draining"
			else if (f[col["status"]] ~ /^DOWN/) phase = "unhealthy"
			else if (f[col["status"]] == "no check") phase = "serving"
			else if (f[col["status"]] == "UP" && op[name] == 2 && check ~ /OK$/) phase = "serving"
			else if (f[col["status"]] ~ /^UP/) phase = "pending"
			print name "\t" phase "\t" f[col["scur"]] + f[col["qcur"]] "\t" weight[name] "\t" drained "\t" words
		}')
}

# pick looks, and sets member to the target's line.
pick() {
	look
	member=$(printf '%s\n' "$members" | awk -F '\t' -v name="$LB_TARGET" '$1 == name')
	[ -n "$member" ] || fail not_found "backend $backend has no such server"
}

case $stage in
preflight)
	level=$(ask 'show cli level')
	[ "$level" = admin ] || { echo "write \"level admin\" on the stats socket line of haproxy.cfg" >&2 && exit 77; }
	;;
observe)
	look
	printf '%s\n' "$members" | awk -F '\t' -v epoch="$epoch" '
		BEGIN { printf "{\"epoch\":\"%s\",\"members\":[", epoch }
		NF { printf "%s{\"name\":\"%s\",\"phase\":\"%s\",\"in_flight\":%d,\"detail\":\"%s\"}", (n++ ? "," : ""), $1, $2, $3, $6 }
		END { print "]}" }'
	;;
snapshot)
	pick
	printf '{"data":{"weight":%d}}\n' "$(printf '%s\n' "$member" | cut -f 4)"
	;;
drain)
	tell "set server $backend/$LB_TARGET state drain"
	;;
drain-status)
	pick
	printf '%s\n' "$member" | awk -F '\t' -v epoch="$epoch" '{
		stage = !$5 ? "not_asked" : $3 > 0 ? "busy" : "idle"
		printf "{\"stage\":\"%s\",\"in_flight\":%d,\"epoch\":\"%s\",\"evidence\":\"%s (%s), %d in flight\"}\n", stage, $3, epoch, $2, $6, $3
	}'
	;;
force)
	tell "shutdown sessions server $backend/$LB_TARGET"
	;;
rejoin)
	weight=$(sed -n 's/.*"weight":\([0-9]*\).*/\1/p' "$LB_RESTORE_FILE")
	[ -z "$weight" ] || tell "set server $backend/$LB_TARGET weight $weight"
	tell "set server $backend/$LB_TARGET state ready"
	;;
rejoin-status)
	pick
	printf '%s\n' "$member" | awk -F '\t' '{
		stage = $2 == "serving" || $2 == "unhealthy" ? $2 : $2 == "draining" || $2 == "foreign_out" ? "not_asked" : "pending"
		printf "{\"stage\":\"%s\",\"evidence\":\"%s (%s)\"}\n", stage, $2, $6
	}'
	;;
*) exit 69 ;;
esac
