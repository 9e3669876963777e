package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// eatTimeout ends a program that nobody ends.
const eatTimeout = 5 * time.Minute

// greed is how much memory is eaten: 2 GB, and on a small machine half of what is
// to be had.
func greed() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); err == nil {
			return min(2<<30, kb<<10/2), nil
		}
	}
	return 0, fmt.Errorf("cannot tell how much memory is to be had: no MemAvailable in /proc/meminfo")
}

// eat keeps every CPU busy with two threads each, as a build that runs jobs in
// parallel does, and goes through much memory over and over, until there is a file
// "enough" in dir.
func eat(dir string) error {
	size, err := greed()
	if err != nil {
		return err
	}
	memory := make([]byte, size)
	threads := 2 * runtime.NumCPU()
	runtime.GOMAXPROCS(threads + 1)
	for i := range threads {
		part := memory[int64(i)*size/int64(threads) : int64(i+1)*size/int64(threads)]
		go func() {
			for n := byte(1); ; n++ {
				for at := 0; at < len(part); at += 64 {
					part[at] += n
				}
			}
		}()
	}
	if err := os.WriteFile(filepath.Join(dir, begunName), nil, 0o644); err != nil {
		return err
	}
	for end := time.Now().Add(eatTimeout); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, enoughName)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("nobody said that it was enough within %s", eatTimeout)
}
