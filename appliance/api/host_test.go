package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestApprovalValidate(t *testing.T) {
	for _, test := range []struct {
		name, personality string
		ok                bool
	}{
		{"w1", "worker", true},
		{"", "controller", true},
		{"a-b-3", "all-in-one", true},
		{strings.Repeat("a", 63), "storage", true},
		{strings.Repeat("a", 64), "storage", false},
		{"w1", "", false},
		{"w1", "Worker", false},
		{"-w", "worker", false},
		{"w-", "worker", false},
		{"w.1", "worker", false},
		{"../w", "worker", false},
		{"W1", "worker", false},
		{"wörk", "worker", false},
	} {
		a := Approval{Name: test.name, Personality: Personality(test.personality)}
		err := a.Validate()
		if (err == nil) != test.ok {
			t.Errorf("name %q, personality %q: got %v, want ok %v", test.name, test.personality, err, test.ok)
		}
		if err != nil && !Invalid.In(err) {
			t.Errorf("name %q: %v is not of kind invalid", test.name, err)
		}
	}
}

func TestKindIn(t *testing.T) {
	err := fmt.Errorf("cannot do it: %w", Conflict.Errorf("cannot start update: one runs"))
	if !Conflict.In(err) || NotFound.In(err) || Kind("").In(err) || Conflict.In(errors.New("other")) {
		t.Errorf("kind of %v is not told apart", err)
	}
}
