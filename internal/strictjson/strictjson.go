// Package strictjson reads JSON that we wrote ourselves, or that has a contract
// with us: what it does not expect is an error rather than left out.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// Decode reads the one JSON value that data is into v. Unknown keys are errors,
// and so is something behind the value.
func Decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}
