// Package volumetest stands in for the rbd program, as far as package volume uses it: images are files of a directory, block
// devices are loop devices over them. With a real cluster behind it, images are made, measured and removed there, and only
// the devices are loops: for computers whose kernel has no rbd.
//
// A test program becomes rbd by calling [Become] first.
package volumetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// The environment with which a program is rbd.
const (
	Dir  = "ROOST_RBD_DIR"  // where images and notes are
	Real = "ROOST_RBD_REAL" // the rbd program of a real cluster; none when empty
)

// Become ends the program as rbd where the environment says so. Else it returns.
func Become() {
	dir := os.Getenv(Dir)
	if dir == "" || len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "-test.") {
		return
	}
	err := (&rbd{dir: dir, real: os.Getenv(Real)}).run(os.Args[1:])
	var errno syscall.Errno
	var ended *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &ended):
		os.Exit(ended.ExitCode())
	case errors.As(err, &errno):
		fmt.Fprintf(os.Stderr, "rbd: %v\n", err)
		os.Exit(int(errno))
	}
	fmt.Fprintf(os.Stderr, "rbd: %v\n", err)
	os.Exit(1)
}

// rbd is one call of the program.
type rbd struct {
	dir, real string
	options   []string // that name the cluster
}

// state is all that the program remembers.
type state struct {
	Notes   map[string]map[string]string // by image
	Devices map[string]string            // device to image
}

// split parts the options of a call from its words.
func (r *rbd) split(args []string) (words []string, options map[string]string) {
	options = map[string]string{}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--no-progress" || a == "--read-only":
			options[a] = "yes"
		case strings.HasPrefix(a, "--"):
			options[a] = args[i+1]
			if a == "--conf" || a == "--id" || a == "--keyring" {
				r.options = append(r.options, a, args[i+1])
			}
			i++
		default:
			words = append(words, a)
		}
	}
	return words, options
}

func (r *rbd) run(args []string) error {
	lock, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	s := state{Notes: map[string]map[string]string{}, Devices: map[string]string{}}
	if b, err := os.ReadFile(filepath.Join(r.dir, "state.json")); err == nil {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	}
	words, options := r.split(args)
	if err := r.do(&s, args, words, options); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, "state.json"), b, 0o600)
}

// do is the call itself.
func (r *rbd) do(s *state, args, words []string, options map[string]string) error {
	if words[0] == "device" {
		return r.device(s, words[1:])
	}
	if r.real != "" {
		if err := command(r.real, args...).Run(); err != nil || words[0] != "resize" {
			return err
		}
		return r.follow(s, words[1], options["--size"])
	}
	switch words[0] {
	case "create":
		if _, err := os.Stat(r.file(words[1])); err == nil {
			return syscall.EEXIST
		}
		return r.resize(words[1], options["--size"])
	case "info":
		info, err := os.Stat(r.file(words[1]))
		if err != nil {
			return syscall.ENOENT
		}
		fmt.Printf(`{"name":%q,"size":%d}`+"\n", words[1], info.Size())
		return nil
	case "resize":
		if err := r.resize(words[1], options["--size"]); err != nil {
			return err
		}
		return r.follow(s, words[1], options["--size"])
	case "rm":
		for _, image := range s.Devices {
			if image == words[1] {
				return syscall.EBUSY
			}
		}
		if err := os.Remove(r.file(words[1])); err != nil {
			return syscall.ENOENT
		}
		delete(s.Notes, words[1])
		return nil
	case "image-meta":
		return r.notes(s, words[1:])
	}
	return syscall.EINVAL
}

func (r *rbd) notes(s *state, words []string) error {
	if words[0] == "set" {
		if s.Notes[words[1]] == nil {
			s.Notes[words[1]] = map[string]string{}
		}
		s.Notes[words[1]][words[2]] = words[3]
		return nil
	}
	if len(s.Notes[words[1]]) == 0 {
		return nil
	}
	return json.NewEncoder(os.Stdout).Encode(s.Notes[words[1]])
}

// file is where the bytes of an image are.
func (r *rbd) file(image string) string {
	return filepath.Join(r.dir, strings.ReplaceAll(image, "/", "@"))
}

func (r *rbd) resize(image, size string) error {
	n, err := strconv.ParseInt(strings.TrimSuffix(size, "M"), 10, 64)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(r.file(image), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(n << 20)
}

// follow makes the device of an image as large as the image became.
func (r *rbd) follow(s *state, image, size string) error {
	for device, of := range s.Devices {
		if of != image {
			continue
		}
		if err := r.resize(image, size); err != nil {
			return err
		}
		return command("losetup", "--set-capacity", device).Run()
	}
	return nil
}

// device is what rbd device does.
func (r *rbd) device(s *state, words []string) error {
	switch words[0] {
	case "list":
		list := []map[string]string{}
		for device, image := range s.Devices {
			pool, name, _ := strings.Cut(image, "/")
			list = append(list, map[string]string{"id": "0", "pool": pool, "namespace": "", "name": name, "snap": "-", "device": device})
		}
		return json.NewEncoder(os.Stdout).Encode(list)
	case "map":
		if r.real != "" {
			if err := r.mirror(words[1]); err != nil {
				return err
			}
		}
		if _, err := os.Stat(r.file(words[1])); errors.Is(err, fs.ErrNotExist) {
			return syscall.ENOENT
		}
		out, err := exec.Command("losetup", "--find", "--show", r.file(words[1])).Output()
		if err != nil {
			return err
		}
		device := strings.TrimSpace(string(out))
		s.Devices[device] = words[1]
		fmt.Println(device)
		return nil
	case "unmap":
		if err := alone(words[1]); err != nil {
			return err
		}
		delete(s.Devices, words[1])
		return command("losetup", "--detach", words[1]).Run()
	}
	return syscall.EINVAL
}

// alone reports whether nobody uses a device. A loop device would be taken away later, when it is free.
func alone(device string) error {
	f, err := os.OpenFile(device, os.O_RDONLY|syscall.O_EXCL, 0)
	if err != nil {
		return syscall.EBUSY
	}
	return f.Close()
}

// mirror makes the file for an image of the real cluster.
func (r *rbd) mirror(image string) error {
	out, err := exec.Command(r.real, append(r.options, "info", image, "--format", "json")...).Output()
	if err != nil {
		return err
	}
	info := struct{ Size int64 }{}
	if err := json.Unmarshal(out, &info); err != nil {
		return err
	}
	return r.resize(image, strconv.FormatInt(info.Size>>20, 10)+"M")
}

func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}
