package builder

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"roost/builder/assemble"
	"roost/builder/lock"
	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
)

// TestContents describes a small image: what each file of the recipe brings is its component's.
func TestContents(t *testing.T) {
	fsys := fstest.MapFS{
		"r/recipe.yaml": {Data: []byte("name: x\nversion: 1\narchitecture: amd64\nbase: {suites: [{name: trixie, components: [main]}]}\ninclude: [parts/store.yaml, parts/agent.yaml]\n")},
		"r/parts/store.yaml": {Data: []byte("component: {name: ceph, of: ceph-mon}\npackages: [ceph-mon]\n" +
			"state: [{path: /var/lib/ceph, rollback: restore}]\nports: [{port: 3300, unit: ceph-mon@.service}]\n")},
		"r/parts/agent.yaml": {Data: []byte("component: {name: agent, of: tool}\nprograms:\n  - {name: tool, modules: [{path: a.org/t, version: v1.2.3}], package: a.org/t, target: /usr/bin/tool}\n" +
			"oci: [{name: \"r.local/tool:1\", program: tool}]\nunits: {define: {tool.service: \"[Service]\\n\"}}\nports: [{port: 53, protocol: udp, local: true}]\n")},
	}
	r, err := recipe.Loader{FS: fsys}.Load("r/recipe.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l := &lock.Lock{Groups: []lock.Group{
		{Name: lock.GroupBase, Packages: []lock.Package{{Name: "libc6", Version: "2"}}},
		{Name: "parts/store.yaml", Packages: []lock.Package{{Name: "ceph-mon", Version: "18.2"}}},
	}}
	d := tree.NewDraft()
	for _, e := range []tree.Entry{
		{Path: "/usr/lib/libc.so", Mode: 0o644, Size: 1000}, {Path: "/usr/bin/ceph-mon", Mode: 0o755, Size: 2000}, {Path: "/usr/bin/tool", Mode: 0o755, Size: 500},
		{Path: "/usr/bin/su", Mode: 0o4755, Size: 1}, {Path: "/usr/bin/ping", Mode: 0o755, Size: 1, Xattrs: []tree.Xattr{{Name: "security.capability", Value: []byte{1}}}},
		{Path: "/usr/lib/systemd/system/ceph-mon@.service", Mode: 0o644, Size: 10}, {Path: "/usr/lib/systemd/system/tool.service", Mode: 0o644, Size: 20},
	} {
		e.Type, e.Blob = tree.File, images.DigestOf([]byte(e.Path))
		if err := d.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Put(tree.Entry{Path: "/etc/systemd/system/off.service", Type: tree.Symlink, Mode: 0o777, Target: "/dev/null"}); err != nil {
		t.Fatal(err)
	}
	made, err := d.Tree()
	if err != nil {
		t.Fatal(err)
	}
	c := contentsOf(r, l, assemble.Result{Tree: made, Units: []string{"ceph-mon@a.service", "off.service", "tool.service"}, Packages: []assemble.Installed{
		{Name: "libc6", Files: []string{"/usr/lib/libc.so"}},
		{Name: "ceph-mon", Files: []string{"/usr/bin/ceph-mon", "/usr/lib/systemd/system/ceph-mon@.service"}},
	}})
	got, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"schema":1,"components":[{"name":"debian","packages":1,"size":1000},` +
		`{"name":"ceph","version":"18.2","packages":1,"size":2010,"units":["ceph-mon@a.service"],"state":[{"path":"/var/lib/ceph","rollback":"restore"}],"ports":[{"port":3300,"protocol":"tcp","unit":"ceph-mon@.service"}]},` +
		`{"name":"agent","version":"1.2.3","size":520,"programs":["tool 1.2.3"],"containers":["r.local/tool:1"],"units":["tool.service"],"ports":[{"port":53,"protocol":"udp","local":true}]}],` +
		`"units":["ceph-mon@a.service","tool.service"],"setuid":[{"path":"/usr/bin/ping","mode":"0755","capabilities":true},{"path":"/usr/bin/su","mode":"4755"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var table strings.Builder
	if err := WriteContents(&table, c); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"ceph       18.2     1         0.0 MB  ", "/var/lib/ceph  ceph       restore", "53/udp    agent      (this machine only)", "tool.service        agent", "/usr/bin/ping           0755, capabilities",
	} {
		words := strings.Fields(line)
		found := false
		for have := range strings.Lines(table.String()) {
			found = found || strings.Join(strings.Fields(have), " ") == strings.Join(words, " ")
		}
		if !found {
			t.Errorf("the table lacks %q:\n%s", line, table.String())
		}
	}
	named, err := componentsFile(r, l)
	if err != nil || strings.Contains(string(named), "debian") || !strings.Contains(string(named), `"name": "agent"`) {
		t.Errorf("the image's own list is %s, %v", named, err)
	}
}
