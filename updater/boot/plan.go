package boot

import (
	"fmt"
	"strings"
)

// Candidate is a UKI as the loader would sort it, before it is on the partition.
type Candidate struct {
	Base    string
	Version string
}

// Plan decides how next can be put on trial beside current, which runs. The loader prefers the newest version, so an older
// one, which an operator may force, is started only when current is demoted meanwhile. Plan fails where the loader would
// not come back to current by itself should next crash at every try: the names then decide in favour of next.
func Plan(current, next Candidate, tries int) (demote bool, err error) {
	for _, demote := range []bool{false, true} {
		if strings.EqualFold(current.Base, next.Base) {
			break
		}
		from := Name{Base: current.Base, Counted: demote}
		trial := Name{Base: next.Base, Counted: true, Left: tries}
		m := Model{Options: tries + 1, Images: []Image{
			{File: from.String(), Version: current.Version, Listed: true},
			{File: trial.String(), Version: next.Version, Listed: true},
		}}
		isFrom := func(i Image) bool { // a demoted name counts its starts too
			name, _ := ParseName(i.File)
			return name.Base == from.Base
		}
		works, _, _ := m.PowerOn(1, func(Image) Outcome { return Up })
		crashes, _, ok := m.PowerOn(tries+1, func(i Image) Outcome {
			if isFrom(i) {
				return Up
			}
			return Reset
		})
		if works.File == trial.Tried().String() && ok && isFrom(crashes) {
			return demote, nil
		}
	}
	return false, fmt.Errorf("cannot put %s on trial beside %s: the loader would not return by itself", next.Base, current.Base)
}
