package api

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestCPUs(t *testing.T) {
	for text, want := range map[CPUs][]int{
		"0": {0}, "0-3": {0, 1, 2, 3}, "8,0-1": {0, 1, 8}, "3-3": {3}, "8191": {8191},
	} {
		if got, err := text.Numbers(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for text, want := range map[CPUs]string{
		"": "no number", "a": "no number", "0-": "no number", "-1": "no number", "0,,1": "no number", "0 1": "no number", "+1": "no number", "0x1": "no number",
		"0-3:1/2": "no number", "0-1\n": "no number", "8192": "no machine", "0-99999999999": "no number", "3-1": "ends before", "0-3,2": "2 is there twice",
	} {
		if got, err := text.Numbers(); !Invalid.In(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// FuzzCPUs holds that a set that is read means the same when it is written number by number.
func FuzzCPUs(f *testing.F) {
	for _, seed := range []string{"", "0", "0-3,8", "3-1", "0-8191", "1,1", "0-1\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := CPUs(text).Numbers()
		if err != nil {
			return
		}
		if strings.Trim(text, "0123456789-,") != "" || !slices.IsSorted(list) || len(list) == 0 || len(list) > maxCPU+1 {
			t.Fatalf("%q is %v", text, list)
		}
		plain, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := CPUs(strings.Trim(string(plain), "[]")).Numbers(); err != nil || !slices.Equal(again, list) {
			t.Fatalf("%q is %v, and then %v, %v", text, list, again, err)
		}
	})
}

func pages(t *testing.T, list ...string) (out []HugePages) {
	t.Helper()
	for _, text := range list {
		h, err := ParseHugePages(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, *h)
	}
	return out
}

func TestResources(t *testing.T) {
	machine := &Inventory{Memory: 8 << 30, NUMA: []NUMANode{{ID: 0, CPUs: "0-1", Memory: 4 << 30}, {ID: 2, CPUs: "4-5", Memory: 4 << 30}}}
	machine.CPU.Architecture, machine.CPU.Threads, machine.CPU.Flags = "amd64", 4, []string{"pdpe1gb"}
	small := &Inventory{Memory: 8 << 30}
	small.CPU.Architecture, small.CPU.Threads, small.CPU.Flags = "amd64", 1, []string{"aes"}
	for _, test := range []struct {
		name     string
		platform CPUs
		pages    []HugePages
		machine  *Inventory
		want     string // of the error; empty: it fits
	}{
		{"nothing", "", nil, machine, ""},
		{"one of each", "0", pages(t, "2Mi=512", "1Gi=2"), machine, ""},
		{"beyond a gap", "0,4-5", pages(t, "1Gi=2@0", "1Gi=2@2"), machine, ""},
		{"a machine that says nothing", "0-63", pages(t, "1Gi=4096@7"), &Inventory{}, ""},
		{"no list", "x", nil, machine, "no number of a processor"},
		{"without 0", "1", nil, machine, "0 must be among them"},
		{"missing processor", "0,6", nil, machine, "no processor 6"},
		{"all processors", "0", nil, small, "all that the machine has"},
		{"size", "", pages(t, "4Mi=1"), machine, `size "4Mi"`},
		{"no page", "", pages(t, "2Mi=0"), machine, "want 1 to"},
		{"too many pages", "", pages(t, "2Mi=999999999"), machine, "want 1 to"},
		{"twice", "", pages(t, "2Mi=1", "2Mi=2"), machine, "twice"},
		{"on a node and everywhere", "", pages(t, "2Mi=1@0", "2Mi=2"), machine, "twice"},
		{"node below zero", "", pages(t, "2Mi=1@-1"), machine, "there is none"},
		{"missing node", "", pages(t, "2Mi=1@1"), machine, "no such node"},
		{"more than a node", "", pages(t, "1Gi=4@0", "2Mi=1@0"), machine, "4098 MiB of huge pages aside on NUMA node 0"},
		{"more than the platform leaves", "", pages(t, "1Gi=6", "2Mi=1"), machine, "the platform needs 2048"},
		{"no pages of a gibibyte", "", pages(t, "1Gi=1"), small, "none of this size"},
	} {
		r := Resources{Processors: Processors{Platform: test.platform}, HugePages: test.pages}
		err := r.Validate()
		if err == nil {
			err = r.Fit(test.machine, 2<<30)
		}
		if test.want == "" && err != nil || test.want != "" && (!Invalid.In(err) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestParseHugePages(t *testing.T) {
	one := 1
	for text, want := range map[string]*HugePages{
		"2Mi=512": {Size: "2Mi", Count: 512}, "1Gi=2@1": {Size: "1Gi", Count: 2, Node: &one},
		"": nil, "2Mi": nil, "2Mi=": nil, "2Mi=a": nil, "2Mi=1@": nil, "2Mi=1@x": nil,
	} {
		got, err := ParseHugePages(text)
		if want == nil && !Invalid.In(err) || want != nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestCPUsJSON(t *testing.T) {
	for text, want := range map[string]CPUs{`0`: "0", `"0-1,4"`: "0-1,4", `"0"`: "0"} {
		var got CPUs
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{`-1`, `1.5`, `[0]`, `true`} {
		if err := json.Unmarshal([]byte(text), new(CPUs)); err == nil {
			t.Errorf("took %s", text)
		}
	}
}
