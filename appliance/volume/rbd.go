package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cluster is a Ceph that is used through the rbd program.
type Cluster struct {
	Program string // rbd when empty
	Config  string // file of settings; rbd's own places when empty
	User    string // without "client."; admin when empty
	Keyring string // file with the user's key
}

// failure is what rbd ended with; its exit status is an error number.
type failure struct {
	verb  string
	errno syscall.Errno
	words string
}

func (f *failure) Error() string {
	return fmt.Sprintf("cannot %s: rbd ended with %d (%s): %s", f.verb, int(f.errno), f.errno.Error(), f.words)
}

// failed reports whether rbd failed with an error number.
func failed(err error, errno syscall.Errno) bool {
	var f *failure
	return errors.As(err, &f) && f.errno == errno
}

// run calls rbd and returns what it prints.
func (c *Cluster) run(ctx context.Context, args ...string) ([]byte, error) {
	program := c.Program
	if program == "" {
		program = "rbd"
	}
	var all []string
	for _, option := range [][2]string{{"--conf", c.Config}, {"--id", c.User}, {"--keyring", c.Keyring}} {
		if option[1] != "" {
			all = append(all, option[0], option[1])
		}
	}
	cmd := exec.CommandContext(ctx, program, append(all, args...)...)
	cmd.WaitDelay = 5 * time.Second
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("cannot %s: %w", verb(args), ctx.Err())
	}
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return nil, &failure{verb: verb(args), errno: syscall.Errno(ended.ExitCode()), words: lastLine(words.String())}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot %s: %w", verb(args), err)
	}
	return out.Bytes(), nil
}

// verb is what a call of rbd does, for people: its words before the first option.
func verb(args []string) string {
	for i, a := range args {
		if strings.HasPrefix(a, "-") {
			return strings.Join(args[:i], " ")
		}
	}
	return strings.Join(args, " ")
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndex(s, "\n")+1:]
}

// image is a volume in Ceph.
type image struct{ pool, name string }

func (i image) String() string { return i.pool + "/" + i.name }

// parseID reads a volume's id. One that we cannot have made names no volume.
func parseID(id string) (image, bool) {
	pool, name, ok := strings.Cut(id, "/")
	return image{pool, name}, ok && isName(pool) && isName(name)
}

// maxName is how long the name of an image may be, less what a longer one in Ceph is good for.
const maxName = 80

// isName reports whether rbd takes a text as a name of a pool or image, and as nothing else.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && s[0] != '-' && s[0] != '.' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

const mib = 1 << 20

// create makes an image of size bytes, a multiple of 1 MiB; it fails with EEXIST where there is one.
func (c *Cluster) create(ctx context.Context, i image, size int64) error {
	_, err := c.run(ctx, "create", i.String(), "--size", megabytes(size))
	return err
}

func megabytes(size int64) string { return strconv.FormatInt(size/mib, 10) + "M" }

// size asks for an image's size; it fails with ENOENT where there is none.
func (c *Cluster) size(ctx context.Context, i image) (int64, error) {
	out, err := c.run(ctx, "info", i.String(), "--format", "json")
	if err != nil {
		return 0, err
	}
	return parseInfo(out)
}

// parseInfo reads what rbd info prints as JSON.
func parseInfo(out []byte) (int64, error) {
	info := struct {
		Size int64 `json:"size"`
	}{}
	if err := json.Unmarshal(out, &info); err != nil || info.Size <= 0 {
		return 0, fmt.Errorf("cannot read the size of an image: rbd says %.200q", out)
	}
	return info.Size, nil
}

func (c *Cluster) grow(ctx context.Context, i image, size int64) error {
	_, err := c.run(ctx, "resize", i.String(), "--size", megabytes(size), "--no-progress")
	return err
}

func (c *Cluster) remove(ctx context.Context, i image) error {
	_, err := c.run(ctx, "rm", i.String(), "--no-progress")
	return err
}

// meta reads a note on an image; empty when there is none.
func (c *Cluster) meta(ctx context.Context, i image, key string) (string, error) {
	out, err := c.run(ctx, "image-meta", "list", i.String(), "--format", "json")
	if err != nil {
		return "", err
	}
	return parseNotes(out, key)
}

// parseNotes reads what rbd image-meta list prints as JSON, which is nothing when there are no notes.
func parseNotes(out []byte, key string) (string, error) {
	notes := map[string]string{}
	if len(bytes.TrimSpace(out)) == 0 {
		return "", nil
	}
	if err := json.Unmarshal(out, &notes); err != nil {
		return "", fmt.Errorf("cannot read the notes on an image: rbd says %.200q", out)
	}
	return notes[key], nil
}

func (c *Cluster) note(ctx context.Context, i image, key, value string) error {
	_, err := c.run(ctx, "image-meta", "set", i.String(), key, value)
	return err
}

// mapped is an image that is a block device of this host.
type mapped struct {
	image
	device string
}

// devices lists the images that are block devices of this host. It asks the kernel, not Ceph.
func (c *Cluster) devices(ctx context.Context) ([]mapped, error) {
	out, err := c.run(ctx, "device", "list", "--format", "json")
	if err != nil {
		return nil, err
	}
	return parseDevices(out)
}

// parseDevices reads what rbd device list prints as JSON. Snapshots are none of ours.
func parseDevices(out []byte) (list []mapped, err error) {
	var all []struct{ Pool, Namespace, Name, Snap, Device string }
	if len(bytes.TrimSpace(out)) > 0 {
		err = json.Unmarshal(out, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the list of block devices: rbd says %.200q", out)
	}
	for _, d := range all {
		if d.Namespace == "" && (d.Snap == "-" || d.Snap == "") && strings.HasPrefix(d.Device, "/dev/") {
			list = append(list, mapped{image{d.Pool, d.Name}, d.Device})
		}
	}
	return list, nil
}

// device finds the block device of an image; empty when it has none.
func (c *Cluster) device(ctx context.Context, i image) (string, error) {
	list, err := c.devices(ctx)
	for _, m := range list {
		if m.image == i {
			return m.device, nil
		}
	}
	return "", err
}

// lockPatience is how long a host that is gone may keep an image: Ceph takes 30 s to give it up.
const lockPatience = 60

// attach makes an image a block device of this host, unless it is one.
func (c *Cluster) attach(ctx context.Context, i image, how access) (string, error) {
	device, err := c.device(ctx, i)
	if err != nil || device != "" {
		return device, err
	}
	args := []string{"device", "map", i.String()}
	switch how {
	case alone:
		// The kernel takes the image's lock now, and gives it to nobody who asks. That of a host that is gone it breaks.
		args = append(args, "--options", fmt.Sprintf("exclusive,lock_timeout=%d", lockPatience))
	case reading:
		args = append(args, "--read-only")
	}
	out, err := c.run(ctx, args...)
	if err != nil {
		return "", err
	}
	device = strings.TrimSpace(string(out))
	if !strings.HasPrefix(device, "/dev/") {
		return "", fmt.Errorf("cannot use %s: rbd names device %.200q", i, device)
	}
	return device, nil
}

// detach takes a block device away; it fails with EBUSY while it is in use.
func (c *Cluster) detach(ctx context.Context, device string) error {
	_, err := c.run(ctx, "device", "unmap", device)
	return err
}
