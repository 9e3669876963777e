package api

import "time"

// Limits of the agent protocol.
const (
	// LongPoll is how long the coordinator holds a sync that has no news.
	LongPoll = 25 * time.Second
	// MaxSyncBytes caps the body of one sync in either direction.
	MaxSyncBytes = 4 << 20
	// MaxLogChunk caps the data of one log chunk.
	MaxLogChunk = 64 << 10
)

// SyncRequest is what an agent posts to /agent/v1/sync. The node is the one
// that the bearer token belongs to; a different Node is refused.
type SyncRequest struct {
	Node    string `json:"node"`
	Version string `json:"version"` // of the agent

	// Instance names the agent's state directory: a random id written with it.
	// Epoch counts the agent's starts, Seq its syncs since the start; together
	// they order reports, so that a late one is recognised.
	Instance string `json:"instance"`
	Epoch    uint64 `json:"epoch"`
	Seq      uint64 `json:"seq"`

	// Wait lets the coordinator hold the answer until there is news. An agent
	// that has something to tell soon sends false.
	Wait bool        `json:"wait"`
	Apps []AppReport `json:"apps"`
	// Sandbox is how the node holds in builds; nil before the agent has tried it.
	Sandbox *Sandbox `json:"sandbox,omitempty"`
}

// Sandbox is how a node holds in the commands that it runs, as it found when it
// tried.
type Sandbox struct {
	With string `json:"with"`           // "systemd" or "process group"
	Why  string `json:"why,omitempty"`  // not systemd
	User string `json:"user,omitempty"` // whom builds run as
	// Unenforced are the bounds that do not hold there.
	Unenforced []string `json:"unenforced,omitempty"`
	// Problem says why no build can run.
	Problem string `json:"problem,omitempty"`
}

// SyncResponse is the complete set of the node's assignments. An app that is
// absent is no longer this node's concern: the agent leaves it running.
type SyncResponse struct {
	Assignments []Assignment `json:"assignments"`
}

// LogChunk is a piece of the output of one step. Chunks of one stream (node,
// app, rollout, step) are numbered from 0; posting one again is harmless.
type LogChunk struct {
	App string `json:"app"`
	// Instance is the app's on the node that the output is of; "" where it is of the
	// whole node, or there is only one.
	Instance string    `json:"instance,omitempty"`
	Rollout  string    `json:"rollout"`
	Step     Step      `json:"step"`
	Number   uint64    `json:"number"`
	At       time.Time `json:"at"`
	Data     string    `json:"data"`
}

// LogRequest is what an agent posts to /agent/v1/logs; answered 204 once stored.
type LogRequest struct {
	Node   string     `json:"node"`
	Chunks []LogChunk `json:"chunks"`
}
