package rollout

import (
	"reflect"
	"testing"
	"time"
)

// TestEqualSeesEveryField keeps a field that is added to [Rollout] from being
// left out of what is recorded.
func TestEqualSeesEveryField(t *testing.T) {
	for i := range reflect.TypeFor[Rollout]().NumField() {
		var r Rollout
		name := reflect.TypeFor[Rollout]().Field(i).Name
		switch f := reflect.ValueOf(&r).Elem().Field(i); f.Interface().(type) {
		case time.Time:
			f.Set(reflect.ValueOf(time.Unix(1, 0)))
		case bool:
			f.SetBool(true)
		default:
			switch f.Kind() {
			case reflect.String:
				f.SetString("x")
			case reflect.Slice:
				f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			case reflect.Pointer:
				f.Set(reflect.New(f.Type().Elem()))
			default:
				t.Fatalf("%s is a %s: teach this test to change one", name, f.Type())
			}
		}
		if !r.equal(&r) || r.equal(new(Rollout)) || new(Rollout).equal(&r) {
			t.Errorf("a change of %s is not seen", name)
		}
	}
}
