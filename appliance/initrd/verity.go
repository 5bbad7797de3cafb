package main

import (
	"fmt"
	"os"

	"roost/images/rootfs"
)

// openVerity opens a root image through dm-verity and returns the device that holds its checked content. During a trial
// a damaged block panics the kernel, which leaves a record and lets the boot loader fall back; on a committed system it
// fails the read alone, because there a reboot would meet the same block again, for ever.
func openVerity(r rootSource, rootHash string, trial bool) (string, error) {
	f, err := os.Open(r.verity)
	if err != nil {
		return "", fmt.Errorf("cannot read the verity data: %v", err)
	}
	defer f.Close()
	super, err := rootfs.ReadSuperblock(f)
	if err != nil {
		return "", fmt.Errorf("cannot use the verity data on %s: %v", r.verity, err)
	}
	var options []string
	if trial {
		options = append(options, "panic_on_corruption")
	}
	target, err := super.Target(r.data, r.verity, rootHash, options...)
	if err != nil {
		return "", err
	}
	mapper, err := openMapper()
	if err != nil {
		return "", err
	}
	defer mapper.close()
	return mapper.create("root", target.Type, target.Params, uint64(target.Sectors))
}
