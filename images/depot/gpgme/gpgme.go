// Package gpgme stands in for the cgo binding of GnuPG that containers/image links for its OpenPGP signatures.
//
// Roost uses that library for cosign signatures only. With this module in place of the real one it builds without a C
// compiler, without libgpgme and without build tags. It has what containers/image mentions and nothing else; [New] always
// fails, so every use of OpenPGP there ends in a clear error and never in a wrong verdict.
package gpgme

import (
	"errors"
	"io"
	"os"
)

// ErrUnavailable is the answer to everything.
var ErrUnavailable = errors.New("cannot use OpenPGP signatures: built without GnuPG")

// Types and constants that the caller names. None of their values has a meaning here.
type (
	Protocol     int
	SigMode      int
	PinEntryMode int
	Validity     int
	Callback     func(uidHint string, prevWasBad bool, f *os.File) error
	Key          struct{}
	Data         struct{}
	Context      struct{}
)

const (
	ProtocolOpenPGP  Protocol     = 0
	SigModeNormal    SigMode      = 0
	PinEntryLoopback PinEntryMode = 4
	ValidityNever    Validity     = 2
)

// Signature is the result of a verification, which never happens.
type Signature struct {
	Fingerprint    string
	Status         error
	Validity       Validity
	ValidityReason error
	WrongKeyUsage  bool
}

// ImportStatus and ImportResult are the result of an import, which never happens.
type ImportStatus struct {
	Fingerprint string
	Result      error
}

type ImportResult struct{ Imports []ImportStatus }

// New fails.
func New() (*Context, error) { return nil, ErrUnavailable }

// NewDataBytes fails.
func NewDataBytes([]byte) (*Data, error) { return nil, ErrUnavailable }

// NewDataWriter fails.
func NewDataWriter(io.Writer) (*Data, error) { return nil, ErrUnavailable }

func (*Context) SetArmor(bool)                                {}
func (*Context) SetTextMode(bool)                             {}
func (*Context) SetProtocol(Protocol) error                   { return ErrUnavailable }
func (*Context) SetEngineInfo(Protocol, string, string) error { return ErrUnavailable }
func (*Context) SetCallback(Callback) error                   { return ErrUnavailable }
func (*Context) SetPinEntryMode(PinEntryMode) error           { return ErrUnavailable }
func (*Context) Import(*Data) (*ImportResult, error)          { return nil, ErrUnavailable }
func (*Context) GetKey(string, bool) (*Key, error)            { return nil, ErrUnavailable }
func (*Context) Sign([]*Key, *Data, *Data, SigMode) error     { return ErrUnavailable }
func (*Context) Verify(*Data, *Data, *Data) (string, []Signature, error) {
	return "", nil, ErrUnavailable
}
