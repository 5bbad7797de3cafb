package lab

import (
	"encoding/json"
	"reflect"
	"testing"
)

// TestWithout takes from a container what a machine without these controllers cannot give, and nothing else.
func TestWithout(t *testing.T) {
	const config = `{"process":{"args":["a"],"oomScoreAdj":-998,"rlimits":[{"type":"RLIMIT_NOFILE"}]},"linux":{"cgroupsPath":"x","resources":{` +
		`"devices":[{"allow":false}],"cpu":{"shares":2},"memory":{"limit":1},"pids":{"limit":3},"hugepageLimits":[],"unified":{"memory.oom.group":"1"}}}}`
	for _, test := range []struct {
		controllers []string
		least       int
		want        string
	}{
		{[]string{"hugetlb"}, 0, `{"process":{"args":["a"],"oomScoreAdj":0},"linux":{"cgroupsPath":"x","resources":{"devices":[{"allow":false}],"hugepageLimits":[]}}}`},
		{[]string{"cpu", "memory", "pids"}, -1000, `{"process":{"args":["a"],"oomScoreAdj":-998},"linux":{"cgroupsPath":"x","resources":{"devices":[{"allow":false}],` +
			`"cpu":{"shares":2},"memory":{"limit":1},"pids":{"limit":3}}}}`},
	} {
		b, err := without([]byte(config), test.controllers, test.least)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if json.Unmarshal(b, &got) != nil || json.Unmarshal([]byte(test.want), &want) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("with %v: got %s", test.controllers, b)
		}
	}
	if _, err := without([]byte("x"), nil, 0); err == nil {
		t.Error("reads what is no configuration")
	}
}

func TestBundleOf(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"runc", "--root", "/run/x", "create", "--bundle", "/run/b", "--pid-file", "p", "id"}, "/run/b"},
		{[]string{"runc", "run", "-b", "/b", "id"}, "/b"},
		{[]string{"runc", "run", "id"}, "."},
		{[]string{"runc", "--root", "/run/x", "start", "id"}, ""},
		{[]string{"runc", "delete", "--bundle", "/b", "id"}, ""},
	} {
		if got := bundleOf(test.args); got != test.want {
			t.Errorf("%v: got %q", test.args, got)
		}
	}
}
