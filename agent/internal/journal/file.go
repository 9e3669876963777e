package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
)

// File is the journal of one app on disk. It is safe for use by several
// goroutines.
type File struct {
	path string
	app  string

	mu  sync.Mutex
	doc *Doc
}

// Open reads the journal of app in dir, or begins an empty one, which is
// written with its first change. A journal that cannot be read is an error: it
// may hold the only record of a target that is out of rotation.
func Open(dir, app string) (*File, error) {
	f := &File{path: filepath.Join(dir, app+".json"), app: app}
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		f.doc = &Doc{Version: Version, App: app}
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the journal of app %s: %w", app, err)
	}
	d, err := Decode(app, b)
	if err != nil {
		return nil, fmt.Errorf("cannot read the journal %s: %w. It says which change to app %s was under way: "+
			"bring the file back from a backup; or make sure by hand that the app's targets are in rotation "+
			"and run what they should, then move the file away, and the agent begins anew", f.path, err, app)
	}
	f.doc = d
	return f, nil
}

// Apps returns the names of the apps that have a journal in dir, sorted.
func Apps(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the journals: %w", err)
	}
	var apps []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && e.Type().IsRegular() {
			apps = append(apps, name)
		}
	}
	return apps, nil
}

// Read returns a copy of the document.
func (f *File) Read() *Doc {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.copy()
}

// Update applies change to a copy of the document and makes the copy the
// journal, on disk first. When change or the disk fails, nothing has changed.
func (f *File) Update(change func(*Doc) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.copy()
	if err := change(d); err != nil {
		return err
	}
	b, err := Encode(d)
	if err != nil {
		return fmt.Errorf("cannot encode the journal of app %s: %w", f.app, err)
	}
	// What could not be read back must not be written.
	d, err = Decode(f.app, b)
	if err != nil {
		return fmt.Errorf("cannot write the journal %s: %w", f.path, err)
	}
	if err := atomicfile.Write(f.path, b, 0o600); err != nil {
		return fmt.Errorf("cannot write the journal of app %s: %w", f.app, err)
	}
	f.doc = d
	return nil
}

// copy makes a deep copy; the document is small.
func (f *File) copy() *Doc {
	b, err := Encode(f.doc)
	if err == nil {
		var d *Doc
		if d, err = Decode(f.app, b); err == nil {
			return d
		}
	}
	// Every document held here was decoded from its own encoding.
	panic(fmt.Sprintf("journal of app %s: %v", f.app, err))
}
