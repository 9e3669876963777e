# keeper.sh DIR CGROUP OWNED: runs a systemd user manager in DIR until standard
# input ends, then ends it, all its units, and their control group. It runs in a
# mount namespace of its own, so what it mounts is gone with it. DIR is removed
# when OWNED is "yes".
#
# It is the parent, not the child, of the manager: whatever happens to the
# program that started it, even SIGKILL, closes the pipe that it reads from.
set -eu
dir=$1 name=$2 owned=$3

# systemd refuses to run where no systemd seems to be the init process, and has
# to have a version 2 control group hierarchy.
mkdir -p /run/systemd
mount -t tmpfs -o mode=755 tmpfs /run/systemd
mkdir /run/systemd/system
inside=$(sed -n 's/^0:://p' /proc/self/cgroup)
mount -t cgroup2 none /sys/fs/cgroup
group=/sys/fs/cgroup$inside/$name
mkdir "$group"

(
	echo 0 >"$group/cgroup.procs"
	exec env -i PATH="$PATH" HOME="$dir/home" LANG=C.UTF-8 \
		XDG_RUNTIME_DIR="$dir" \
		SYSTEMD_UNIT_PATH="$dir/units:$dir/base" \
		SYSTEMD_GENERATOR_PATH="$dir/none" \
		SYSTEMD_ENVIRONMENT_GENERATOR_PATH="$dir/none" \
		SYSTEMD_LOG_TARGET=null \
		"$SYSTEMD" --user
) </dev/null >/dev/null &
manager=$!
echo "$manager"
exec >/dev/null

while read -r _; do :; done

# Nobody may be left to read what goes wrong now.
trap '' PIPE
# The manager stops its units and exits. Its units get no time to stop; that it
# outlives them lets it reap their processes.
set +e
kill -CONT "$manager"
kill -TERM "$manager"
for _ in $(seq 100); do
	[ -z "$(find "$group" -name cgroup.procs -exec cat {} +)" ] && break
	find "$group" -name cgroup.procs ! -path '*/init.scope/*' -exec cat {} + | xargs -r kill -KILL
	sleep 0.02
done
echo 1 >"$group/cgroup.kill"
wait "$manager"
for _ in $(seq 100); do
	find "$group" -depth -type d -exec rmdir {} + && break
	find "$group" -name cgroup.procs -exec cat {} + | xargs -r kill -KILL
	sleep 0.02
done
[ "$owned" = yes ] && rm -rf --one-file-system "$dir"
[ ! -d "$group" ]
