package sqlite

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// instantLayout is of fixed width, so that instants sort as text.
const instantLayout = "2006-01-02T15:04:05.000000000Z"

// instant returns how a column holds t: NULL for the zero instant, and for what
// no clock means, such as the year 10000 that a commit may claim.
func instant(t time.Time) any {
	t = t.UTC()
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		return nil
	}
	return t.Format(instantLayout)
}

// instantIn scans a column into a time.
type instantIn struct{ t *time.Time }

// Scan implements [database/sql.Scanner].
func (i instantIn) Scan(v any) (err error) {
	switch v := v.(type) {
	case nil:
		*i.t = time.Time{}
		return nil
	case string:
		*i.t, err = time.Parse(instantLayout, v)
		return err
	}
	return fmt.Errorf("expected an instant, found %T", v)
}

// jsonOf returns how a column holds v. What holds slices and strings only
// always has a JSON form.
func jsonOf(v any) (string, error) {
	data, err := json.Marshal(v)
	return string(data), err
}

// jsonIn scans a column into what v points to.
type jsonIn struct{ v any }

// Scan implements [database/sql.Scanner].
func (j jsonIn) Scan(v any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("expected JSON, found %T", v)
	}
	if err := json.Unmarshal([]byte(text), j.v); err != nil {
		return err
	}
	inUTC(reflect.ValueOf(j.v))
	return nil
}

var timeType = reflect.TypeFor[time.Time]()

// inUTC puts every instant that v holds into UTC: JSON keeps the zone that it
// was written in.
func inUTC(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			inUTC(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			inUTC(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == timeType {
			v.Set(reflect.ValueOf(v.Interface().(time.Time).UTC()))
			return
		}
		for i := range v.NumField() {
			inUTC(v.Field(i))
		}
	}
}

// explain adds to an error of SQLite what to do about it.
func explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	var remedy string
	switch e.Code() & 0xff {
	case lib.SQLITE_FULL:
		remedy = "free some disk space"
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		remedy = "the file is damaged or no store; restore a backup, or move it away to begin anew (agents keep serving what runs)"
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM:
		remedy = "let the coordinator's user write to the file and to its directory"
	case lib.SQLITE_BUSY:
		remedy = "another program holds the file; close it"
	case lib.SQLITE_IOERR:
		remedy = "look at the disk and the kernel's log"
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, remedy)
}
