package agent

import "time"

func init() { lastTimeout = time.Minute } // for machines that are busy with other tests
