package recipe

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. In a recipe it is written with a binary unit: "512MiB", "8GiB".
type Size int64

// Binary units.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var errSize = errors.New(`write a whole number with KiB, MiB, GiB or TiB, like "512MiB" or "8GiB"`)

// ParseSize reads the written form. Decimal units and bare numbers are refused, because "8G" is 8 GB to one reader and 8
// GiB to the next.
func ParseSize(s string) (Size, error) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	if digits == 0 {
		return 0, errSize
	}
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if err != nil {
		return 0, errSize
	}
	unit := s[digits:]
	factor, ok := unitOf(unit)
	if !ok {
		if letter := strings.ToUpper(strings.TrimSpace(unit)); letter != "" && len(letter) <= 3 && strings.Contains("KMGT", letter[:1]) {
			return 0, fmt.Errorf("write %q", s[:digits]+letter[:1]+"iB")
		}
		return 0, errSize
	}
	if n > math.MaxInt64/int64(factor) {
		return 0, errors.New("this is more than any disk holds")
	}
	return Size(n) * factor, nil
}

func unitOf(s string) (Size, bool) {
	switch s {
	case "KiB":
		return KiB, true
	case "MiB":
		return MiB, true
	case "GiB":
		return GiB, true
	case "TiB":
		return TiB, true
	}
	return 0, false
}

// String writes the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		size Size
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if s >= u.size && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
