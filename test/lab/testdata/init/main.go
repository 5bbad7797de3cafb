// Command init stands in for systemd in tests of containers: it tells what it sees and does what the console says.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Seen is one line on the console.
type Seen struct {
	PID       int
	Args      []string
	Hostname  string
	Machine   string
	BootID    string
	Panic     string // /proc/sys/kernel/panic after writing 77 to it
	Forward   string // /proc/sys/net/ipv4/ip_forward after writing 1 to it
	Cgroup    string
	Kill      bool // whether the cgroup file system is ours to write
	Block     []string
	Disks     []string
	Links     []string
	Record    json.RawMessage
	Kmsg      string // what writing to /dev/kmsg says
	SetTime   string // what setting the clock says
	Container string
	Boots     string // how often this machine started, kept in /var
	Root      string // what writing to / says
}

func read(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return "error: " + err.Error()
	}
	return strings.TrimSpace(string(b))
}

func names(dir string) (out []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func look() Seen {
	os.WriteFile("/proc/sys/kernel/panic", []byte("77"), 0)
	os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	boots := read("/var/boots")
	if strings.HasPrefix(boots, "error") {
		boots = ""
	}
	boots += "x"
	os.WriteFile("/var/boots", []byte(boots), 0o600)
	now := syscall.NsecToTimeval(time.Now().UnixNano())
	s := Seen{
		PID: os.Getpid(), Args: os.Args, Machine: read("/etc/machine-id"), BootID: read("/proc/sys/kernel/random/boot_id"),
		Panic: read("/proc/sys/kernel/panic"), Forward: read("/proc/sys/net/ipv4/ip_forward"), Cgroup: read("/proc/self/cgroup"),
		Block: names("/sys/block"), Disks: names("/dev/disk/by-id"), Record: json.RawMessage(read("/run/roost/boot.json")),
		Container: os.Getenv("container"), Boots: boots,
		Kmsg:    fmt.Sprint(os.WriteFile("/dev/kmsg", []byte("hello"), 0)),
		SetTime: fmt.Sprint(syscall.Settimeofday(&now)),
		Kill:    os.Mkdir("/sys/fs/cgroup/test", 0o755) == nil,
		Root:    fmt.Sprint(os.WriteFile("/nothing", nil, 0o600)),
	}
	s.Hostname, _ = os.Hostname()
	list, _ := net.Interfaces()
	for _, i := range list {
		s.Links = append(s.Links, i.Name+" "+i.HardwareAddr.String())
	}
	if len(s.Disks) > 0 {
		f, err := os.OpenFile(filepath.Join("/dev/disk/by-id", s.Disks[0]), os.O_RDWR, 0)
		if err == nil {
			fmt.Fprint(f, "written inside")
			f.Sync()
			f.Close()
		}
	}
	return s
}

func main() {
	if len(os.Args) > 1 { // a command run in the container
		fmt.Println(os.Getpid(), read("/proc/self/cgroup"), read("/etc/machine-id"))
		if os.Args[1] == "wait" {
			select {}
		}
		os.Exit(7)
	}
	button := make(chan os.Signal, 1)
	signal.Notify(button, syscall.Signal(38)) // SIGRTMIN+4
	b, err := json.Marshal(look())
	if err != nil {
		panic(err)
	}
	fmt.Printf("seen %s\n", b)
	lines := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
	}()
	for {
		select {
		case <-button:
			fmt.Println("powering off")
			syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
		case line := <-lines:
			if line == "reboot" {
				syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
			}
			fmt.Println("heard", line)
		}
	}
}
