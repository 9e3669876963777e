// Command bench measures bringing a commit to a node against the git program
// doing the same, in one run on one repository, and how much memory it takes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/agent/internal/source"
)

func main() {
	var err error
	if len(os.Args) > 1 && os.Args[1] == "child" {
		err = child(os.Args[2:])
	} else {
		err = run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run() (err error) {
	cache := flag.String("cache", "build", "`directory` to keep the repository in")
	scratch := flag.String("scratch", "", "`directory` to work in, on the file system to be measured")
	rounds := flag.Int("rounds", 5, "how often each is measured; the median counts")
	profile := flag.String("profile", "", "`prefix` of files to write processor profiles to")
	flag.Parse()
	repo, err := repository(*cache)
	if err != nil {
		return err
	}
	if repo, err = filepath.Abs(repo); err != nil {
		return err
	}
	work, done, err := workspace(*scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	url, stop, err := serve(repo)
	if err != nil {
		return err
	}
	defer stop()
	tip, err := output(repo, "rev-parse", "main")
	if err != nil {
		return err
	}
	old, err := output(repo, "rev-parse", fmt.Sprintf("main~%d", behind))
	if err != nil {
		return err
	}

	var theirs, ours [4][]cost
	var memory []int64
	for i := range *rounds {
		dir := filepath.Join(work, fmt.Sprint(i))
		took, err := byGit(filepath.Join(dir, "git"), url, old, tip)
		if err != nil {
			return err
		}
		for j := range took {
			theirs[j] = append(theirs[j], took[j])
		}
		took, rss, err := inChild(filepath.Join(dir, "ours"), url, old, tip, *profile)
		if err != nil {
			return err
		}
		for j := range took {
			ours[j] = append(ours[j], took[j])
		}
		memory = append(memory, rss)
		if err := same(dir); err != nil {
			return err
		}
	}
	for j, what := range []string{"first fetch", "first materialise", "next fetch", "next materialise"} {
		report(what, ours[j], theirs[j])
	}
	report("first, both", sums(ours[0], ours[1]), sums(theirs[0], theirs[1]))
	report("next, both", sums(ours[2], ours[3]), sums(theirs[2], theirs[3]))
	fmt.Printf("source: peak resident memory %d MB (most of %d; goal at most 64 MB)\n", slices.Max(memory)>>20, len(memory))
	return nil
}

// cost is the time that something took on the clock and of all processors.
type cost struct{ wall, cpu time.Duration }

func report(what string, ours, theirs []cost) {
	o, t := median(ours), median(theirs)
	fmt.Printf("source: %-18s lockstep %s, git %s: %.2f x; processor time %s, %s: %.2f x\n",
		what, o.wall.Round(time.Millisecond), t.wall.Round(time.Millisecond), float64(o.wall)/float64(t.wall),
		o.cpu.Round(time.Millisecond), t.cpu.Round(time.Millisecond), float64(o.cpu)/float64(t.cpu))
}

func sums(a, b []cost) []cost {
	out := make([]cost, len(a))
	for i := range a {
		out[i] = cost{a[i].wall + b[i].wall, a[i].cpu + b[i].cpu}
	}
	return out
}

func median(all []cost) (m cost) {
	var wall, cpu []time.Duration
	for _, c := range all {
		wall, cpu = append(wall, c.wall), append(cpu, c.cpu)
	}
	slices.Sort(wall)
	slices.Sort(cpu)
	return cost{wall[len(wall)/2], cpu[len(cpu)/2]}
}

// measure measures f, of the processes who.
func measure(who int, f func() error) (c cost, err error) {
	before, begun := used(who), time.Now()
	err = f()
	return cost{time.Since(begun), used(who) - before}, err
}

func used(who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		panic(err) // who is a constant
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// byGit does what an agent does with the git program alone.
func byGit(dir, url, old, tip string) (took [4]cost, err error) {
	store := filepath.Join(dir, "store.git")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return took, err
	}
	if err := git(store, "init", "-q", "--bare"); err != nil {
		return took, err
	}
	for i, sha := range []string{old, tip} {
		took[2*i], err = measure(syscall.RUSAGE_CHILDREN, func() error {
			// Without a ref on what it has, git fetches everything again.
			return git(store, "fetch", "-q", "--no-tags", "--depth", "1", url, sha+":refs/deploy/"+sha)
		})
		if err != nil {
			return took, err
		}
		took[2*i+1], err = measure(syscall.RUSAGE_CHILDREN, func() error {
			release := filepath.Join(dir, "release-"+sha)
			if err := os.Mkdir(release, 0o755); err != nil {
				return err
			}
			if err := git(store, "read-tree", sha); err != nil {
				return err
			}
			return git(store, "--work-tree="+release, "checkout-index", "-a")
		})
		if err != nil {
			return took, err
		}
	}
	return took, nil
}

// inChild measures us in a process of its own, whose memory is counted.
func inChild(dir, url, old, tip, profile string) (took [4]cost, rss int64, err error) {
	exe, err := os.Executable()
	if err != nil {
		return took, 0, err
	}
	cmd := exec.Command(exe, "child", dir, url, old, tip, profile)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return took, 0, err
	}
	lines := strings.Fields(string(out))
	if len(lines) != len(took)+1 {
		return took, 0, fmt.Errorf("the measured process said %q", out)
	}
	for i := range took {
		if _, err := fmt.Sscanf(lines[i], "%d/%d", &took[i].wall, &took[i].cpu); err != nil {
			return took, 0, err
		}
	}
	rss, err = strconv.ParseInt(lines[len(took)], 10, 64)
	return took, rss, err
}

// peak is the most resident memory of this process, in bytes. What the kernel tells
// a parent of its child counts what the parent had when it began it.
func peak() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	var kB int64
	_, err = fmt.Sscan(after, &kB)
	return kB << 10, err
}

func child(args []string) error {
	dir, url, shas, profile := args[0], args[1], args[2:4], args[4]
	debug.SetGCPercent(50) // as the agent does
	if profile != "" {
		f, err := os.Create(profile + "cpu.pprof")
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	origin, err := source.Git(url, nil)
	if err != nil {
		return err
	}
	repo, err := source.Open(filepath.Join(dir, "store.git"), origin)
	if err != nil {
		return err
	}
	ctx := context.Background()
	for _, sha := range shas {
		for _, f := range []func() error{
			func() error { return repo.Fetch(ctx, sha, nil) },
			func() error { return repo.Write(ctx, sha, filepath.Join(dir, "release-"+sha)) },
		} {
			took, err := measure(syscall.RUSAGE_SELF, f)
			if err != nil {
				return err
			}
			fmt.Printf("%d/%d\n", took.wall, took.cpu)
		}
	}
	most, err := peak()
	if err == nil {
		fmt.Println(most)
	}
	return err
}

// same compares what both wrote.
func same(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "git", "release-*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		out, err := exec.Command("diff", "-rq", name, filepath.Join(dir, "ours", filepath.Base(name))).CombinedOutput()
		if err != nil {
			return fmt.Errorf("what was written differs: %w: %s", err, out)
		}
	}
	return nil
}

// serve serves the repository as git's own program for web servers does.
func serve(repo string) (url string, stop func(), err error) {
	path, err := output(repo, "--exec-path")
	if err != nil {
		return "", nil, err
	}
	srv := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(path, "git-http-backend"), Dir: repo, Stderr: io.Discard,
		Env:        append(gitEnv(repo), "GIT_PROJECT_ROOT="+filepath.Dir(repo), "GIT_HTTP_EXPORT_ALL=1"),
		InheritEnv: []string{"PATH"},
	})
	return srv.URL + "/" + filepath.Base(repo), srv.Close, nil
}

func output(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = dir, gitEnv(dir)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
