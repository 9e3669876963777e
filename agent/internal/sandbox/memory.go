package sandbox

import (
	"fmt"
	"os"
)

// settle makes of a percentage what it is on this machine.
func (l *Limits) settle() error {
	if l.Memory > 0 || l.MemoryPercent <= 0 {
		return nil
	}
	all, err := memory()
	if err != nil {
		return fmt.Errorf("cannot tell how much memory it may have: %w", err)
	}
	l.Memory = all / 100 * int64(l.MemoryPercent)
	return nil
}

// memory is that of the machine, in bytes.
func memory() (int64, error) {
	const file = "/proc/meminfo" // containers may have one of their own, unlike sysinfo(2)
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var kb int64
	if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kb); err != nil {
		return 0, fmt.Errorf("cannot read MemTotal in %s: %w", file, err)
	}
	return kb << 10, nil
}
