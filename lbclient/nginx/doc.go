// Package nginx drains and rejoins a target of open source nginx by marking its
// server line in an upstream file "down" and reloading.
//
// nginx says nothing about itself: it has no health of its own to tell and
// counts nothing. What is on disk is therefore read from the file, and what
// runs from the processes: a reload replaces every worker, so the change is in
// force once all workers that take connections were born after it was written,
// and the target is idle once the workers that were born before are gone. That
// is idleness of the whole nginx, since an old worker may hold anybody's
// request; until then a drain is busy with an unknown number.
//
// Only the target's own line is edited, under a lock, by an atomic replacement
// of the file; all else in it is kept byte for byte. A comment at the end of
// the line says that it is ours and when it was written, so that a new process
// can finish what another began, and what another hand marked down is left
// alone.
//
// The file and the processes are looked at directly: the provider must run on
// nginx's own machine.
package nginx
