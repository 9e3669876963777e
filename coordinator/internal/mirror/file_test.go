package mirror

import (
	"errors"
	"io/fs"
	"testing"
)

func TestAFileOfACommit(t *testing.T) {
	t.Parallel()
	for name, filter := range map[string]string{"the remote leaves out the rest": "true", "the remote sends all": "false"} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			o.git("config", "uploadpack.allowFilter", filter)
			blob := o.run("build: [make]\n", "--git-dir", o.dir, "hash-object", "-w", "--stdin")
			tree := o.run("100644 blob "+blob+"\tlockstep.yaml\n", "--git-dir", o.dir, "mktree")
			deep := o.run("040000 tree "+tree+"\tdeploy\n100644 blob "+blob+"\tlockstep.yaml\n120000 blob "+blob+"\tlink\n", "--git-dir", o.dir, "mktree")
			sha := o.run("", "--git-dir", o.dir, "commit-tree", deep, "-m", "Begin")
			o.point("refs/heads/main", sha)
			m := openTest(t, "file://"+o.dir)
			for _, path := range []string{"lockstep.yaml", "deploy/lockstep.yaml"} {
				if b, err := m.File(t.Context(), sha, path, 100); err != nil || string(b) != "build: [make]\n" {
					t.Errorf("%s: %q, %v", path, b, err)
				}
			}
			for _, path := range []string{"other.yaml", "other/lockstep.yaml"} {
				if _, err := m.File(t.Context(), sha, path, 100); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", path, err)
				}
			}
			for _, path := range []string{"link", "deploy"} {
				if _, err := m.File(t.Context(), sha, path, 100); !errors.Is(err, ErrNoFile) {
					t.Errorf("%s: %v", path, err)
				}
			}
			if _, err := m.File(t.Context(), sha, "lockstep.yaml", 5); !errors.Is(err, ErrNoFile) {
				t.Errorf("one that is too large: %v", err)
			}
			var remote *RemoteError
			if _, err := m.File(t.Context(), "1234567890123456789012345678901234567890", "lockstep.yaml", 100); !errors.As(err, &remote) {
				t.Errorf("an unknown commit: %v", err)
			}
		})
	}
}
