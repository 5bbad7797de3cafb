package trust

import (
	"encoding/json"
	"testing"
	"time"

	"roost/appliance/api"
)

// FuzzEnrolment feeds the desk what strangers could send: whatever is accepted must be bound to the connection's key.
func FuzzEnrolment(f *testing.F) {
	key, err := Enrol(time.Unix(1700000000, 0))
	if err != nil {
		f.Fatal(err)
	}
	e := &api.Enrolment{}
	if err := key.Requests(e); err != nil {
		f.Fatal(err)
	}
	e.Inventory.NICs = []api.NIC{{MAC: "52:54:00:00:00:01"}}
	good, err := json.Marshal(e)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"schema":1,"request":"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e := &api.Enrolment{}
		if json.Unmarshal(b, e) != nil {
			return
		}
		if checkEnrolment(e, key.Fingerprint()) != nil {
			return
		}
		public, err := parseRequest(e.Request)
		if err != nil || Fingerprint(public) != key.Fingerprint() {
			t.Errorf("accepted %q", b)
		}
		h := &api.Host{}
		describe(h, e, "10.0.0.1", time.Unix(1700000000, 0))
		if len(h.MACs) == 0 {
			t.Errorf("accepted without an interface: %q", b)
		}
	})
}

func FuzzParseChain(f *testing.F) {
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	root, err := NewRoot("lab", key, time.Unix(1700000000, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(root.RootPEM()))
	f.Add([]byte(root.RootPEM() + root.RootPEM()))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		certs, err := parseChain(text)
		if err == nil && encode(certs...) == "" && len(certs) > 0 {
			t.Error("a chain that encodes to nothing")
		}
	})
}

func TestProperUUID(t *testing.T) {
	for in, want := range map[string]string{
		"6C6F0000-0000-4000-8000-000000000001": "6c6f0000-0000-4000-8000-000000000001",
		"00000000-0000-0000-0000-000000000000": "", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF": "",
		"03000200-0400-0500-0006-000700080009": "", "": "", "Not Settable": "",
	} {
		if got := properUUID(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
