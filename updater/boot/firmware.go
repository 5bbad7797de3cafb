package boot

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Option is a boot option of the firmware that loads a file from a GPT partition (UEFI 2.10 §3.1.3 and §10.3.5).
type Option struct {
	Description string
	Number      uint32 // of the partition, 1 is the first
	Start, Size uint64 // of the partition, in logical blocks
	Partition   string // UUID
	Path        string // with backslashes from the root of the partition
}

// LoaderPaths are the two places of the loader on the partition: its own, and the one that firmware tries without being told.
func LoaderPaths() []string {
	return []string{`\EFI\systemd\systemd-bootx64.efi`, `\EFI\BOOT\BOOTX64.EFI`}
}

// BootOptions returns the options that a disk needs. A UKI that the firmware refuses makes systemd-boot 257 return to the
// firmware, which goes on with its next option; each pass costs the UKI one try. So that the old version is reached
// without a reset, there is one option more than the tries of a release by default.
func BootOptions(partition Option) []Option {
	paths := LoaderPaths()
	options := []Option{partition, partition, partition}
	for i, description := range []string{"Roost", "Roost second try", "Roost third try"} {
		options[i].Description, options[i].Path = description, paths[i%len(paths)]
	}
	return options
}

// SetFirst makes options the first of the firmware's boot order, in that order. Options of the same description are
// replaced; all others stay behind. The order is written last, so that it never names what is not there.
func (v Variables) SetFirst(options []Option) error {
	existing, err := v.options()
	if err != nil {
		return err
	}
	order, err := v.numbers("BootOrder")
	if err != nil {
		return err
	}
	var first []uint16
	for _, option := range options {
		number, err := place(option.Description, existing)
		if err != nil {
			return err
		}
		existing[number] = option.Description
		value, err := option.encode()
		if err != nil {
			return err
		}
		if err := v.write(fmt.Sprintf("Boot%04X", number), value); err != nil {
			return err
		}
		first = append(first, number)
	}
	for _, number := range order {
		if !slices.Contains(first, number) {
			first = append(first, number)
		}
	}
	var value []byte
	for _, number := range first {
		value = binary.LittleEndian.AppendUint16(value, number)
	}
	return v.write("BootOrder", value)
}

// place returns the number of the option with that description, else the lowest that is free.
func place(description string, existing map[uint16]string) (uint16, error) {
	free := -1
	for n := range 1 << 16 {
		have, taken := existing[uint16(n)]
		if taken && have == description {
			return uint16(n), nil
		}
		if !taken && free < 0 {
			free = n
		}
	}
	if free < 0 {
		return 0, errors.New("cannot add a boot option: the firmware has no number left")
	}
	return uint16(free), nil
}

// options returns the descriptions of all boot options by number. One that cannot be parsed keeps its number.
func (v Variables) options() (map[uint16]string, error) {
	entries, err := os.ReadDir(v.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list EFI variables: %w", err)
	}
	options := map[uint16]string{}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), "-"+globalGUID)
		digits, isBoot := strings.CutPrefix(name, "Boot")
		raw, err := hex.DecodeString(digits)
		if !ok || !isBoot || err != nil || len(raw) != 2 {
			continue
		}
		value, err := v.read(name, globalGUID)
		if err != nil {
			return nil, err
		}
		description, _ := parseDescription(value)
		options[binary.BigEndian.Uint16(raw)] = description
	}
	return options, nil
}

// parseDescription reads the description of an EFI_LOAD_OPTION.
func parseDescription(value []byte) (string, error) {
	if len(value) < 6 {
		return "", fmt.Errorf("cannot parse boot option: %d bytes", len(value))
	}
	text := value[6:]
	return parseText(text[:len(text)&^1])
}

const (
	deviceMedia      = 4
	mediaHardDrive   = 1
	mediaFilePath    = 4
	hardDriveLength  = 42
	partitionTypeGPT = 2
	signatureGUID    = 2
)

func (o Option) encode() ([]byte, error) {
	uuid, err := mixedEndian(o.Partition)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	path := []byte{deviceMedia, mediaHardDrive, hardDriveLength, 0}
	path = le.AppendUint32(path, o.Number)
	path = le.AppendUint64(path, o.Start)
	path = le.AppendUint64(path, o.Size)
	path = append(path, uuid...)
	path = append(path, partitionTypeGPT, signatureGUID)
	file := appendText(nil, o.Path)
	path = append(path, deviceMedia, mediaFilePath)
	path = le.AppendUint16(path, uint16(len(file)+4))
	path = append(path, file...)
	path = append(path, 0x7f, 0xff, 4, 0) // end of the entire device path

	const active = 1
	value := le.AppendUint32(nil, active)
	value = le.AppendUint16(value, uint16(len(path)))
	value = appendText(value, o.Description)
	return append(value, path...), nil
}

// mixedEndian writes a UUID as EFI stores it: the first three fields little-endian.
func mixedEndian(uuid string) ([]byte, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(raw) != 16 {
		return nil, fmt.Errorf("cannot parse UUID %q: want 32 hexadecimal digits", uuid)
	}
	slices.Reverse(raw[0:4])
	slices.Reverse(raw[4:6])
	slices.Reverse(raw[6:8])
	return raw, nil
}
