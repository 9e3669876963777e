package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What the generated repository amounts to. Changing any of it, or how it is
// generated, makes another directory.
const (
	files   = 12_000
	commits = 300
	touched = 12 // files that a commit changes
	behind  = 20 // commits between the first fetch and the next
	edition = 1
)

// repository makes, once, a repository that looks like one that people work on:
// text that compresses as code does, in nested directories, with a history of
// small changes, packed as a host would.
func repository(cache string) (dir string, err error) {
	dir = filepath.Join(cache, fmt.Sprintf("bench-%d-%d-%d.git", edition, files, commits))
	if _, err := os.Stat(filepath.Join(dir, "done")); err == nil {
		return dir, nil
	}
	fmt.Printf("making a repository of %d files and %d commits in %s\n", files, commits, dir)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return "", err
	}
	if err := git(dir, "init", "-q", "--bare", "-b", "main"); err != nil {
		return "", err
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Env, cmd.Stderr = dir, gitEnv(dir), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	w := bufio.NewWriterSize(in, 1<<20)
	history(w)
	if err := errors.Join(w.Flush(), in.Close(), cmd.Wait()); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"repack", "-q", "-a", "-d", "-f", "-b"},
		{"config", "uploadpack.allowAnySHA1InWant", "true"},
		{"config", "http.uploadpack", "true"},
	} {
		if err := git(dir, args...); err != nil {
			return "", err
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, "done"), nil, 0o644)
}

// history writes all commits in the form of git fast-import(1).
func history(w io.Writer) {
	rng := rand.New(rand.NewPCG(1, 2))
	words := vocabulary(rng)
	paths := make([]string, files)
	texts := make([][]byte, files)
	for i := range paths {
		paths[i] = path(rng, words, i)
		size := int(math.Exp(rng.NormFloat64()*1.2 + 8.3)) // a median of 4 kB, a mean of 8
		texts[i] = text(rng, words, min(max(size, 40), 1<<20))
	}
	for c := range commits {
		fmt.Fprintf(w, "commit refs/heads/main\ncommitter A <a@example.com> %d +0000\ndata 6\nchange\n", 1_700_000_000+c*3600)
		change := make([]int, touched)
		for i := range change {
			change[i] = rng.IntN(files)
		}
		if c == 0 {
			change = make([]int, files)
			for i := range change {
				change[i] = i
			}
		}
		for _, i := range change {
			if c > 0 {
				texts[i] = edit(rng, words, texts[i])
			}
			fmt.Fprintf(w, "M 644 inline %s\ndata %d\n%s\n", paths[i], len(texts[i]), texts[i])
		}
	}
	fmt.Fprintln(w, "done")
}

func vocabulary(rng *rand.Rand) []string {
	words := make([]string, 4000)
	for i := range words {
		b := make([]byte, 2+rng.IntN(9))
		for j := range b {
			b[j] = 'a' + byte(rng.IntN(26))
		}
		words[i] = string(b)
	}
	return words
}

// word favours some words over others, as languages do.
func word(rng *rand.Rand, words []string) string {
	f := rng.Float64()
	return words[int(f*f*f*float64(len(words)))]
}

func path(rng *rand.Rand, words []string, i int) string {
	// A few directories have many files, most have few.
	d := rand.New(rand.NewPCG(uint64(i/5), 7))
	parts := make([]string, 1+d.IntN(5))
	for j := range parts {
		parts[j] = words[d.IntN(40*(j+1))]
	}
	return strings.Join(parts, "/") + fmt.Sprintf("/%s_%d.go", word(rng, words), i)
}

func text(rng *rand.Rand, words []string, size int) []byte {
	var b bytes.Buffer
	for b.Len() < size {
		line(rng, words, &b)
	}
	return b.Bytes()
}

func line(rng *rand.Rand, words []string, b *bytes.Buffer) {
	b.WriteString(strings.Repeat("\t", rng.IntN(4)))
	for range 1 + rng.IntN(8) {
		b.WriteString(word(rng, words))
		b.WriteByte(" .,(){}="[rng.IntN(8)])
	}
	b.WriteByte('\n')
}

// edit changes a few lines.
func edit(rng *rand.Rand, words []string, old []byte) []byte {
	lines := bytes.SplitAfter(old, []byte("\n"))
	for range 1 + rng.IntN(4) {
		var b bytes.Buffer
		line(rng, words, &b)
		lines[rng.IntN(len(lines))] = b.Bytes()
	}
	return bytes.Join(lines, nil)
}

func gitEnv(home string) []string {
	return append(os.Environ(), "HOME="+home, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0")
}

func git(dir string, args ...string) error {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = dir, gitEnv(dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
