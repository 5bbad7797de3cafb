package policy_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDaemonDoesNotLinkThis holds what this package is apart for: neither depot nor the daemon carries containers/image.
func TestDaemonDoesNotLinkThis(t *testing.T) {
	for _, program := range []string{"roost/images/depot", "roost/appliance/roostd", "roost/appliance/initrd"} {
		out, err := exec.Command("go", "list", "-deps", program).Output()
		if err != nil {
			t.Fatalf("cannot list what %s imports: %v", program, err)
		}
		for _, dependency := range strings.Fields(string(out)) {
			if strings.HasPrefix(dependency, "github.com/containers/") {
				t.Errorf("%s links %s", program, dependency)
			}
		}
		if !strings.Contains(string(out), program) {
			t.Errorf("the list of what %s imports does not name it", program)
		}
	}
}
