package linux

import (
	"errors"

	"roost/appliance/api"
)

// Contained says that this machine is a container of the lab: real systemd on a root image, but the kernel and the hardware
// of the computer that the lab runs on. It keeps its state in [ContainerState] and has no disk to start from.
func (b *Boot) Contained() bool { return b.Origin == "container" }

// ContainerState is what a container has for a disk to be installed to.
const ContainerState = "/var"

// ErrContainer begins every refusal of what a container cannot do.
var ErrContainer = errors.New("this machine is a container of the lab")

// Describe puts what the lab gave a container in the place of what it sees of the computer below: two containers of one
// computer would else claim the same hardware, and offer its disks to be installed to.
func (b *Boot) Describe(i *api.Inventory) {
	if !b.Contained() || b.Hardware == nil {
		return
	}
	i.System, i.Firmware, i.Disks, i.NICs, i.PCI, i.BMC = b.Hardware.System, b.Hardware.Firmware, b.Hardware.Disks, b.Hardware.NICs, nil, ""
}
