package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// The load of an app that has not much to do.
const (
	perSecond = 100
	clients   = 4
)

// timing is what came of a load.
type timing struct {
	P50, P99 time.Duration
	Sent     int
}

// load sends requests to the address at a fixed rate over connections that are
// kept, and writes the timing to standard output. An answer that comes late makes
// the next request no later: it is timed from when it was due.
func load(address string) error {
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var all sync.WaitGroup
	start := time.Now()
	for i := range clients {
		all.Go(func() {
			c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
			defer c.CloseIdleConnections()
			const every = clients * time.Second / perSecond
			for due := start.Add(time.Duration(i) * time.Second / perSecond); due.Before(start.Add(window)); due = due.Add(every) {
				time.Sleep(time.Until(due))
				err := get(c, "http://"+address+"/")
				mu.Lock()
				failed = errors.Join(failed, err)
				took = append(took, time.Since(due))
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if failed != nil {
		return failed
	}
	slices.Sort(took)
	return json.NewEncoder(os.Stdout).Encode(timing{P50: took[len(took)/2], P99: took[len(took)*99/100], Sent: len(took)})
}

func get(c *http.Client, url string) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the app answered %s", resp.Status)
	}
	return nil
}
