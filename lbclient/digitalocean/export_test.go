package digitalocean

import (
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// NewPaced is New for a DigitalOcean whose seconds are shorter.
func NewPaced(c Config, second time.Duration) (lbclient.Provider, error) { return build(c, second) }
