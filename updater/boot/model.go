package boot

import (
	"cmp"
	"slices"
	"strings"

	"roost/images"
)

// Image is one file of EFI/Linux as the loader sees it.
type Image struct {
	File    string        // name in the directory
	SortKey string        // IMAGE_ID of its os-release, else ID
	Version string        // IMAGE_VERSION of its os-release
	Listed  bool          // PE headers and os-release can be read; a truncated or empty file is not even offered
	Digest  images.Digest // of the file, where known
}

// Outcome is what happens when an image is started.
type Outcome int

// The three things that can happen.
const (
	Up      Outcome = iota // the system comes up
	Reset                  // it panics or hangs, and panic= or the watchdog resets the machine
	Refused                // the firmware does not load it (signature, damage), and goes on to its next boot option
)

// Model is what firmware and systemd-boot 257 do with a partition. The zero value has one boot option.
//
// Source: systemd v257 src/boot/boot.c (order of entries, first entry is the default, counters renamed before the start,
// a failed start returns to the firmware) and UEFI 2.10 §3.1 (the firmware then takes the next option of BootOrder).
type Model struct {
	Images  []Image // in the order of the directory
	Options int     // boot options that lead to the loader; see BootEntries
}

// Order returns the images that the loader offers, the one it boots first.
func (m Model) Order() []Image {
	var offered []Image
	for _, image := range m.Images {
		if _, ok := ParseName(image.File); ok && image.Listed {
			offered = append(offered, image)
		}
	}
	slices.SortStableFunc(offered, compareImages)
	return offered
}

// compareImages is boot_entry_compare for unified kernels: entries without tries left are last, then sort key ascending,
// version descending, file name without counters descending, and of two with counters the one with more tries left, then
// with fewer done. Of a counted and an uncounted name of one UKI the first in the directory wins.
func compareImages(a, b Image) int {
	x, _ := ParseName(a.File)
	y, _ := ParseName(b.File)
	if x.Bad() != y.Bad() {
		if x.Bad() {
			return 1
		}
		return -1
	}
	newest := func(v, w string) int { return images.Version(w).Compare(images.Version(v)) }
	if r := cmp.Or(
		cmp.Compare(a.SortKey, b.SortKey),
		newest(a.Version, b.Version),
		newest(strings.ToLower(x.Base)+suffix, strings.ToLower(y.Base)+suffix),
	); r != 0 || !x.Counted || !y.Counted {
		return r
	}
	return cmp.Or(cmp.Compare(y.Left, x.Left), cmp.Compare(x.Done, y.Done))
}

// Attempt is one run of the loader: the image it starts, and the partition as it then is. Counters are not brought
// forward when a file of the next name is there already; the loader ignores that error and starts the image all the same.
func (m Model) Attempt() (chosen Image, after Model, ok bool) {
	order := m.Order()
	if len(order) == 0 {
		return Image{}, m, false
	}
	chosen = order[0]
	name, _ := ParseName(chosen.File)
	next := name.Tried().String()
	after = Model{Images: slices.Clone(m.Images), Options: m.Options}
	exists := slices.ContainsFunc(m.Images, func(i Image) bool { return strings.EqualFold(i.File, next) })
	if !name.Counted || exists {
		return chosen, after, true
	}
	for i := range after.Images {
		if after.Images[i].File == chosen.File {
			after.Images[i].File = next
		}
	}
	chosen.File = next
	return chosen, after, true
}

// PowerOn runs the machine from power-on until a system is up: through the firmware's boot options when images are
// refused, through resets when they crash. It reports false when no image comes up within attempts, or when the firmware
// runs out of options, which leaves a machine waiting for hands.
func (m Model) PowerOn(attempts int, start func(Image) Outcome) (up Image, after Model, ok bool) {
	option := 0
	for range attempts {
		var chosen Image
		if chosen, m, ok = m.Attempt(); !ok {
			return Image{}, m, false
		}
		switch start(chosen) {
		case Up:
			return chosen, m, true
		case Reset:
			option = 0
		case Refused:
			if option++; option >= max(m.Options, 1) {
				return Image{}, m, false
			}
		}
	}
	return Image{}, m, false
}
