package updater

import (
	"encoding/json"
	"testing"
	"time"

	"roost/images"
	"roost/updater/boot"
	"roost/updater/slot"
)

// FuzzJournal: whatever update.json holds, it is refused or every event can be judged from it. A daemon that falls over its own
// journal would fall at every start.
func FuzzJournal(f *testing.F) {
	installed := slot.Installed{Manifest: "sha256:1", Name: "edge", Version: "1", RootHash: "r1", File: "edge_1"}
	target := &Target{Installed: slot.Installed{Manifest: "sha256:2", Name: "edge", Version: "2", RootHash: "r2", File: "edge_2"}, Gates: []images.Gate{{Name: "ssh"}}}
	for _, phase := range []Phase{Idle, Fetched, Written, Verified, Armed, Trial, Healthy, Committed, RollingBack, Returned, RolledBack, Failed} {
		data, err := json.Marshal(State{Phase: phase, Target: target, From: &installed, Slot: slot.B, Boot: "b", Left: &Evidence{Cause: CauseGate}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add([]byte(`{"phase":"` + string(phase) + `"}`))
	}
	f.Add([]byte(`{"phase":"committed","from":{}}`))
	f.Add([]byte(`{"phase":"failed","target":{"gates":[{}]},"left":{}}`))
	machine := Machine{Boot: "b2", Architecture: "amd64", Running: installed, Fallback: &installed, Room: 1 << 40}
	events := []Event{
		Request{Reference: "3", Manifest: "sha256:3", Release: images.Release{Name: "edge", Version: "3", Architecture: "amd64"}, Machine: machine},
		Rollback{machine}, Rollback{}, Clear{"sha256:2"}, Damaged{}, Found{Log: []string{"x"}}, Round{}, Round{Uptime: time.Hour},
		Started{Boot: "b2", RootHash: "r1", File: "edge_1"}, Started{Boot: "b2", RootHash: "r2", Trial: true}, Started{},
		Started{Boot: "b2", RootHash: "r1", Target: &boot.Name{Base: "edge_2", Counted: true, Done: 2}},
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		state, err := parseState(data)
		if err != nil {
			return
		}
		all := events
		for _, action := range []Action{Write, Verify, Snapshot, Arm, Check, Commit, MarkBad, Gather, Reboot, None} {
			all = append(all, Did{action}, Failure{Action: action, Reason: "x"})
		}
		for _, first := range all {
			next, _, _ := Step(state, first)
			if first, ok := first.(Clear); ok && next.refuses(Request{Manifest: first.Manifest}) {
				t.Error("a cleared release is refused")
			}
			for _, second := range all {
				Step(next, second)
			}
		}
	})
}
