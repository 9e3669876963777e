package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// owner is whom a job's files belong to while it runs.
type owner struct {
	job      Job
	uid, gid int
	// switched: the job runs as another user than the agent.
	switched bool
}

// hand makes the job's directories its user's, and the cache if it is missing.
// Only root can have a job run as somebody else, and for [Dynamic] the directories
// are handed over by systemd as it makes the user.
func hand(j Job) (*owner, error) {
	o := &owner{job: j, uid: os.Getuid(), gid: os.Getgid()}
	if err := makeCache(j.Cache); err != nil {
		return nil, err
	}
	if j.User == "" || o.uid != 0 {
		return o, nil
	}
	if j.User == Dynamic {
		o.switched = true
		return o, nil
	}
	u, err := user.Lookup(j.User)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, makeUser)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if uid == o.uid {
		return o, nil
	}
	o.switched, o.uid, o.gid = true, uid, gid
	dirs := j.Writable
	if j.Cache != "" {
		// What is in it is the work of earlier jobs; nothing there is changed but when
		// the user is another one now.
		var st unix.Stat_t
		if err := unix.Lstat(j.Cache, &st); err != nil || int(st.Uid) != o.uid {
			dirs = append([]string{j.Cache}, dirs...)
		}
	}
	for _, dir := range dirs {
		if err := chownTree(dir, o.uid, o.gid, false); err != nil {
			return nil, errors.Join(err, o.takeBack())
		}
	}
	return o, nil
}

// makeCache makes the cache. The way there must be open to the user of the job,
// though nothing else of it: the agent's state is above.
func makeCache(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// dirs are all directories that the job may write to.
func (o *owner) dirs() []string {
	if o.job.Cache == "" {
		return o.job.Writable
	}
	return append([]string{o.job.Cache}, o.job.Writable...)
}

func (o *owner) credential() *syscall.Credential {
	if !o.switched {
		return nil
	}
	return &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
}

// takeBack makes the directories the agent's again, save for the cache: from then
// on the user of the job cannot change what it built. No process of the job may
// be left.
func (o *owner) takeBack() error {
	if !o.switched {
		return nil
	}
	var all error
	for _, dir := range o.job.Writable {
		all = errors.Join(all, chownTree(dir, os.Getuid(), os.Getgid(), true))
	}
	return all
}

// chownTree gives dir and what is in it to a user. Links are not followed; nobody
// who runs as another user than root can have mounted anything there. With shut, nobody but the new owner may write
// to it any more, and no file lends its owner's rights to who executes it.
func chownTree(dir string, uid, gid int, shut bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if int(st.Uid) != uid || int(st.Gid) != gid {
			if err := os.Lchown(path, uid, gid); err != nil {
				return err
			}
		}
		const others = unix.S_IWGRP | unix.S_IWOTH | unix.S_ISUID | unix.S_ISGID
		if shut && st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&others != 0 {
			return unix.Fchmodat(unix.AT_FDCWD, path, st.Mode&0o7777&^others, 0)
		}
		return nil
	})
}
