package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Token reads the agent's token. It refuses a file that others can read, since
// whoever has the token can speak for this node.
func (c Config) Token() (string, error) {
	info, err := os.Stat(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the agent's token: %w; put there what `deploy-coordinator` was given for this node", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("cannot read the agent's token: %s is no regular file", c.TokenFile)
	}
	if mode := info.Mode().Perm(); mode&^0o640 != 0 {
		return "", fmt.Errorf("cannot use the agent's token: others may read or change %s (mode %04o); run: chmod 0640 %s", c.TokenFile, mode, c.TokenFile)
	}
	b, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the agent's token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("cannot use the agent's token: %w", errors.New(c.TokenFile+" is empty"))
	}
	return token, nil
}
