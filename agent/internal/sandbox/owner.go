package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// dynamicUser is the name of the user who exists only while a job runs.
const dynamicUser = "lockstep-job"

// user is whom the job runs as, "" for whom the agent runs as.
func (j Job) user() (name string, dynamic bool) {
	switch {
	case j.App != nil:
		return j.App.User, j.App.Dynamic
	case j.User == Dynamic:
		return dynamicUser, true
	}
	return j.User, false
}

// as is the job of another user, who exists.
func (j Job) as(name string) Job {
	j.User = name
	if j.App != nil {
		app := *j.App
		app.User, app.Group, app.Groups, app.Dynamic = name, "", nil, false
		j.App = &app
	}
	return j
}

// owner is whom a job's files belong to while it runs.
type owner struct {
	job      Job
	uid, gid int
	groups   []uint32 // besides gid, of a job without systemd
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
	name, dynamic := j.user()
	if name == "" || o.uid != 0 {
		return o, nil
	}
	if dynamic {
		o.switched = true
		return o, nil
	}
	uid, gid, groups, err := j.ids(name)
	if err != nil {
		return nil, err
	}
	if uid == o.uid {
		return o, nil
	}
	o.switched, o.uid, o.gid, o.groups = true, uid, gid, groups
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

// ids are the numbers of a user who exists, given by name or number, and the
// groups of one whom the app runs as.
func (j Job) ids(name string) (uid, gid int, groups []uint32, err error) {
	u, err := user.Lookup(name)
	if err != nil && j.App != nil {
		if byID, err := user.LookupId(name); err == nil {
			u = byID
		} else {
			return 0, 0, nil, fmt.Errorf("cannot run it as the app: %w; make the user that its unit names (User=)", err)
		}
	} else if err != nil {
		return 0, 0, nil, fmt.Errorf("%w; %s", err, makeUser)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil || j.App == nil {
		return uid, gid, nil, err
	}
	own, err := u.GroupIds()
	if err != nil {
		return 0, 0, nil, err
	}
	for i, g := range append([]string{j.App.Group}, slices.Concat(j.App.Groups, own)...) {
		if g == "" {
			continue
		}
		id := g
		if found, err := user.LookupGroup(g); err == nil {
			id = found.Gid
		}
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return 0, 0, nil, fmt.Errorf("cannot run it as the app: there is no group %s; make the one that its unit names (Group=, SupplementaryGroups=)", g)
		}
		if i == 0 {
			gid = int(n)
		} else {
			groups = append(groups, uint32(n))
		}
	}
	return uid, gid, groups, nil
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
	return &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid), Groups: o.groups}
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
