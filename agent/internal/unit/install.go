package unit

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	sd "github.com/coreos/go-systemd/v22/dbus"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
	"github.com/lockstep-deploy/lockstep/internal/atomicfile"
)

// Dir returns where an administrator's unit files go.
func (m *Manager) Dir(ctx context.Context) (string, error) {
	var text string
	err := m.call(ctx, "find where unit files go", func(_ context.Context, c *sd.Conn) (err error) {
		text, err = c.GetManagerProperty("UnitPath")
		return err
	})
	if err != nil {
		return "", err
	}
	var path []string
	if err := json.Unmarshal([]byte(text), &path); err != nil {
		return "", fault.Errorf(api.ReasonSystemd, "cannot find where unit files go: systemd searches %s", text)
	}
	usual := "/etc/systemd/system"
	if m.scope == User {
		config, err := os.UserConfigDir()
		if err != nil {
			config = "/"
		}
		usual = filepath.Join(config, "systemd", "user")
	}
	if slices.Contains(path, usual) {
		return usual, nil
	}
	for _, dir := range path {
		if !strings.HasSuffix(dir, ".control") && !strings.HasPrefix(dir, "/run/") && !strings.HasPrefix(dir, "/usr/") {
			return dir, nil
		}
	}
	return "", fault.Errorf(api.ReasonSystemd, "cannot find where unit files go: systemd searches %s", text)
}

// File returns the text of a unit file in [Manager.Dir], "" when there is none.
func (m *Manager) File(ctx context.Context, name string) (string, error) {
	dir, err := m.Dir(ctx)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fault.Errorf(api.ReasonInternal, "cannot read the unit file: %w", err)
	}
	return string(b), nil
}

// Install makes text the unit file of that name in [Manager.Dir], on disk and in
// systemd's memory, and lets unit, which is read from it, start with the machine.
// What runs is not touched. It may be done again after a crash.
func (m *Manager) Install(ctx context.Context, name, text, unit string) error {
	dir, err := m.Dir(ctx)
	if err != nil {
		return err
	}
	if err := replace(dir, name, text); err != nil {
		return fault.Errorf(api.ReasonInternal, "cannot write the unit file %s: %w", filepath.Join(dir, name), err)
	}
	if err := m.ReloadUnits(ctx); err != nil {
		return err
	}
	return m.call(ctx, "enable "+unit, func(ctx context.Context, c *sd.Conn) error {
		_, _, err := c.EnableUnitFilesContext(ctx, []string{unit}, false, false)
		return err
	})
}

// replace writes a file as a whole, unless it is there already.
func replace(dir, name, text string) error {
	path := filepath.Join(dir, name)
	if b, err := os.ReadFile(path); err == nil && string(b) == text {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(text), 0o644)
}
