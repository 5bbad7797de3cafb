package boot_test

import (
	"testing"

	"roost/updater/boot"
)

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name          string
		current, next boot.Candidate
		demote, fails bool
	}{
		{"newer", boot.Candidate{Base: "edge_1", Version: "1"}, boot.Candidate{Base: "edge_2", Version: "2"}, false, false},
		{"older", boot.Candidate{Base: "edge_2", Version: "2"}, boot.Candidate{Base: "edge_1", Version: "1"}, true, false},
		{"another build", boot.Candidate{Base: "edge_2", Version: "2"}, boot.Candidate{Base: "edge_2_r12ab34cd", Version: "2"}, false, false},
		{"an older build again", boot.Candidate{Base: "edge_2_rbb", Version: "2"}, boot.Candidate{Base: "edge_2_raa", Version: "2"}, true, false},
		{"the same name", boot.Candidate{Base: "edge_2", Version: "2"}, boot.Candidate{Base: "EDGE_2", Version: "2"}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for tries := 1; tries <= 9; tries++ {
				demote, err := boot.Plan(test.current, test.next, tries)
				if demote != test.demote || (err != nil) != test.fails {
					t.Errorf("%d tries: demote %t, %v", tries, demote, err)
				}
			}
		})
	}
}
