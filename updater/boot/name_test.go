package boot_test

import (
	"strings"
	"testing"

	"roost/updater/boot"
)

func TestParseName(t *testing.T) {
	for _, test := range []struct {
		file string
		want boot.Name
		ok   bool
	}{
		{"edge_1.efi", boot.Name{Base: "edge_1"}, true},
		{"edge_1.EFI", boot.Name{Base: "edge_1"}, true},
		{"edge_1+3.efi", boot.Name{Base: "edge_1", Counted: true, Left: 3}, true},
		{"edge_1+2-1.efi", boot.Name{Base: "edge_1", Counted: true, Left: 2, Done: 1}, true},
		{"edge_1+0-4.efi", boot.Name{Base: "edge_1", Counted: true, Done: 4}, true},
		{"edge_1+09-1.efi", boot.Name{Base: "edge_1", Counted: true, Left: 9, Done: 1}, true},
		{"a+b+1-0.efi", boot.Name{Base: "a+b", Counted: true, Left: 1}, true},
		{"edge_1+.efi", boot.Name{Base: "edge_1+"}, true},
		{"edge_1+x.efi", boot.Name{Base: "edge_1+x"}, true},
		{"edge_1+1-.efi", boot.Name{Base: "edge_1+1-"}, true},
		{"edge_1+1-2-3.efi", boot.Name{Base: "edge_1+1-2-3"}, true},
		{"edge_1+99999999999-0.efi", boot.Name{Base: "edge_1+99999999999-0"}, true},
		{"edge_1+-1.efi", boot.Name{Base: "edge_1+-1"}, true},
		{".efi", boot.Name{}, false},
		{".edge_1.efi", boot.Name{}, false},
		{"auto-x.efi", boot.Name{}, false},
		{"edge_1.efi.new", boot.Name{}, false},
		{"edge_1.new", boot.Name{}, false},
		{"", boot.Name{}, false},
	} {
		got, ok := boot.ParseName(test.file)
		if got != test.want || ok != test.ok {
			t.Errorf("ParseName(%q) = %+v, %t; want %+v, %t", test.file, got, ok, test.want, test.ok)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, seed := range []string{"edge_1.efi", "edge_1+2-0.efi", "edge_1+0-9.EFI", "+.efi", "a+1+2-3.efi"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		name, ok := boot.ParseName(file)
		if !ok {
			return
		}
		again, ok := boot.ParseName(name.String())
		if !ok || again != name {
			t.Errorf("%q parses as %+v, its name %q as %+v", file, name, name.String(), again)
		}
		if tried := name.Tried(); tried.Counted != name.Counted || tried.Left > name.Left || tried.Left < 0 {
			t.Errorf("%+v once tried is %+v", name, tried)
		}
		if !strings.HasPrefix(file, name.Base) {
			t.Errorf("%q has base %q", file, name.Base)
		}
	})
}
