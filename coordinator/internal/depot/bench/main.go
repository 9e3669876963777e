// Command bench measures carrying a built release from one node through the
// coordinator to another, against tar, zstd, and socat doing as much straight from
// one to the other, in one run, and how much memory each part of ours takes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/coordinator/internal/depot"
	"github.com/lockstep-deploy/lockstep/internal/archive"
)

const files, total = 13_000, 200 << 20

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	case len(os.Args) > 1 && os.Args[1] == "share":
		err = share(os.Args[2], os.Args[3])
	case len(os.Args) > 1 && os.Args[1] == "take":
		err = take(os.Args[2], os.Args[3], os.Args[4])
	default:
		err = run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run() (err error) {
	rounds := flag.Int("rounds", 3, "how often each is measured; the median counts")
	scratch := flag.String("scratch", "", "`directory` to work in, on the file system to be measured")
	flag.Parse()
	for _, p := range []string{"tar", "zstd", "socat"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%s is needed: %w", p, err)
		}
	}
	dir, err := os.MkdirTemp(*scratch, "bench-archive")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tree := filepath.Join(dir, "tree")
	if err := makeTree(tree); err != nil {
		return err
	}
	var ours, theirs []cost
	peak := map[string]int64{}
	for i := range *rounds {
		// Nothing is deleted between: a file system without a journal is slow at
		// making files for minutes after many were removed.
		work := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(work, 0o755); err != nil {
			return err
		}
		d, err := viaCoordinator(work, tree, peak)
		if err != nil {
			return err
		}
		ours = append(ours, d)
		if d, err = viaPipe(work, tree); err != nil {
			return err
		}
		theirs = append(theirs, d)
	}
	a, b := median(ours), median(theirs)
	fmt.Printf("pack, ship, and unpack %d files, %d MB: lockstep %s, tar, zstd, and socat %s (medians of %d): %.2f x their speed (goal at least 0.8)\n",
		files, total>>20, a.wall, b.wall, *rounds, float64(b.wall)/float64(a.wall))
	fmt.Printf("processor time of the same: lockstep %s, tar, zstd, and socat %s: %.2f x theirs, which neither hash nor verify\n",
		a.cpu, b.cpu, float64(a.cpu)/float64(b.cpu))
	fmt.Printf("peak resident memory: builder %d MB, coordinator's part %d MB, taker %d MB (goal at most 64)\n",
		peak["share"]>>10, peak["serve"]>>10, peak["take"]>>10)
	return nil
}

// cost is what one way took: time as it passed, and of all its processes the time
// on a processor, which means something on a busy machine as well.
type cost struct{ wall, cpu time.Duration }

func (c *cost) add(p *os.ProcessState) { c.cpu += p.UserTime() + p.SystemTime() }

func median(all []cost) cost {
	var wall, cpu []time.Duration
	for _, c := range all {
		wall, cpu = append(wall, c.wall), append(cpu, c.cpu)
	}
	middle := func(ds []time.Duration) time.Duration {
		slices.Sort(ds)
		return ds[len(ds)/2].Round(time.Millisecond)
	}
	return cost{middle(wall), middle(cpu)}
}

// makeTree makes files as projects have them: text, most of it small.
func makeTree(dir string) error {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 2000)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", r.Uint32()>>uint(r.IntN(20)))
	}
	for i := range files {
		at := filepath.Join(dir, fmt.Sprintf("d%02d/e%02d", i%40, i/40%20))
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		size := total / files / 2
		if i%50 == 0 {
			size = total / files * 25
		}
		var b strings.Builder
		for b.Len() < size {
			b.WriteString(words[r.IntN(len(words))])
		}
		if err := os.WriteFile(filepath.Join(at, fmt.Sprintf("f%d", i)), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func self(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Stderr = os.Stderr
	return c
}

func viaCoordinator(dir, tree string, peak map[string]int64) (took cost, err error) {
	to, store := filepath.Join(dir, "to"), filepath.Join(dir, "store")
	if err := os.Mkdir(to, 0o755); err != nil {
		return took, err
	}
	server := self("serve", store)
	in, err := server.StdinPipe()
	if err != nil {
		return took, err
	}
	out, err := server.StdoutPipe()
	if err != nil {
		return took, err
	}
	if err := server.Start(); err != nil {
		return took, err
	}
	var url string
	_, err = fmt.Fscanln(out, &url)
	begun := time.Now()
	step := func(name string, c *exec.Cmd) (string, error) {
		b, err := c.Output()
		if err == nil {
			took.add(c.ProcessState)
			peak[name] = max(peak[name], c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
		}
		return strings.TrimSpace(string(b)), err
	}
	var digest string
	if err == nil {
		digest, err = step("share", self("share", url, tree))
	}
	if err == nil {
		_, err = step("take", self("take", url, digest, to))
	}
	took.wall = time.Since(begun)
	in.Close()
	err = errors.Join(err, server.Wait())
	took.add(server.ProcessState)
	peak["serve"] = max(peak["serve"], server.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	return took, err
}

func viaPipe(dir, tree string) (took cost, err error) {
	to := filepath.Join(dir, "piped")
	if err := os.Mkdir(to, 0o755); err != nil {
		return took, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return took, err
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	c := exec.Command("bash", "-ceu", `
		set -o pipefail
		socat -u "TCP-LISTEN:$PORT,bind=127.0.0.1,reuseaddr" - | zstd -dcq | tar -x -C "$TO" &
		tar -c -C "$TREE" . | zstd -cq | socat -u - "TCP:127.0.0.1:$PORT,retry=100,interval=0.01"
		wait $!
		wait # for its helpers, so that their time counts`)
	c.Env = append(os.Environ(), "PORT="+strconv.Itoa(port), "TO="+to, "TREE="+tree)
	c.Stderr = os.Stderr
	begun := time.Now()
	err = c.Run()
	took.wall = time.Since(begun)
	took.add(c.ProcessState)
	return took, err
}

// serve is the coordinator's part, without its engine.
func serve(dir string) error {
	d := depot.Open(dir)
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, st api.ArchiveState, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(st)
	}
	mux.HandleFunc("GET /agent/v1/archives/{digest}/state", func(w http.ResponseWriter, r *http.Request) {
		st, err := d.State("app", r.PathValue("digest"))
		answer(w, st, err)
	})
	mux.HandleFunc("PUT /agent/v1/archives/{digest}", func(w http.ResponseWriter, r *http.Request) {
		offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
		var st api.ArchiveState
		if err == nil {
			st, err = d.Append("app", r.PathValue("digest"), offset, api.ArchivePiece, r.Body)
		}
		if err == nil && r.URL.Query().Get("last") != "" {
			st, err = d.Finish(r.Context(), "app", r.PathValue("digest"))
		}
		answer(w, st, err)
	})
	mux.HandleFunc("GET /agent/v1/archives/{digest}", func(w http.ResponseWriter, r *http.Request) {
		f, err := d.Open("app", r.PathValue("digest"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		defer f.Close()
		http.ServeContent(w, r, "", time.Time{}, f)
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		srv.Close()
	}()
	fmt.Printf("http://%s\n", ln.Addr())
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func share(url, dir string) error {
	c, err := api.NewClient(url, "token")
	if err != nil {
		return err
	}
	ctx := context.Background()
	sum, err := archive.Digest(ctx, dir, nil)
	if err != nil {
		return err
	}
	fmt.Println(sum.Digest)
	return c.ShareArchive(ctx, "app", "release", sum.Digest, func(w io.Writer) error {
		_, err := archive.Pack(ctx, dir, nil, w)
		return err
	})
}

func take(url, digest, dir string) error {
	c, err := api.NewClient(url, "token")
	if err != nil {
		return err
	}
	r := c.Archive(context.Background(), "app", digest)
	defer r.Close()
	sum, err := archive.Unpack(context.Background(), r, dir, archive.Limits{Files: 1_000_000, Bytes: 1 << 40})
	if err == nil && sum.Digest != digest {
		err = fmt.Errorf("unpacked %s, expected %s", sum.Digest, digest)
	}
	return err
}
