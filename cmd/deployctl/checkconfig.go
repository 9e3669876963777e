package main

import "errors"

// checkConfig reads a fleet.yaml and returns it with every default filled in,
// as YAML.
var checkConfig = func(path string) (defaults []byte, err error) {
	return nil, errors.New("cannot check " + path + ": this deployctl was built without the coordinator's configuration")
}
