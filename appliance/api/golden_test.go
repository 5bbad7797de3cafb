package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden holds the JSON of every type that is stored or crosses a wire. A changed golden file means that running
// sites hold records the new code reads differently: add fields, never rename or retype them.
func TestGolden(t *testing.T) {
	values := []any{
		&Host{}, &Inventory{}, &Release{}, &Update{}, &Site{}, &Config{}, &Record{}, &Event{}, &List[Record]{},
		&Approval{}, &Enrolment{}, &Grant{}, &Assignment{}, &Report{}, &Orders{}, &Problem{}, &Join{}, &Material{},
	}
	for _, v := range values {
		name := reflect.TypeOf(v).Elem().Name()
		if _, list := v.(*List[Record]); list {
			name = "List"
		}
		t.Run(name, func(t *testing.T) {
			n := 0
			fill(reflect.ValueOf(v).Elem(), &n)
			got, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("stored form of %s changed:\n%s", name, got)
			}
			back := reflect.New(reflect.TypeOf(v).Elem())
			decoder := json.NewDecoder(bytes.NewReader(want))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(back.Interface()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back.Interface(), v) {
				t.Errorf("%s does not survive its JSON", name)
			}
		})
	}
}

// fill gives every field a distinct value, so that a field left out of the JSON, or two under one name, show.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes([]byte(`"raw"`))
			return
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte("bytes"))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(int64(1700000000+*n), 0).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("no sample for " + v.Type().String())
	}
}
