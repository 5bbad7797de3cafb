package keys

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/foxboron/go-uefi/efi/signature"
	"github.com/foxboron/go-uefi/efi/util"
	"github.com/foxboron/go-uefi/efivar"
)

// SignatureList returns the certificate of PK, KEK or DB as an EFI_SIGNATURE_LIST (UEFI 2.10, 32.4.1): the bytes such a
// variable holds, and what a virtual machine's variable store is filled with.
func (s *Set) SignatureList(use string) ([]byte, error) {
	database, err := s.database(use)
	if err != nil {
		return nil, err
	}
	return database.Bytes(), nil
}

// Update returns the content of a .auth file: an EFI_VARIABLE_AUTHENTICATION_2 header and the signature list, signed by
// the key that UEFI asks for (PK signs PK and KEK, KEK signs db). It is what SetVariable, KeyTool and systemd-boot's
// enrolment take. It carries the present time; firmware refuses an update older than the one it holds.
func (s *Set) Update(use string) ([]byte, error) {
	database, err := s.database(use)
	if err != nil {
		return nil, err
	}
	variable, signer := efivar.PK, s.boot[PK]
	switch use {
	case KEK:
		variable = efivar.KEK
	case DB:
		variable, signer = efivar.Db, s.boot[KEK]
	}
	_, update, err := signature.SignEFIVariable(variable, database, signer.signer, signer.cert)
	if err != nil {
		return nil, fmt.Errorf("cannot sign update of %s: %w", use, err)
	}
	var b bytes.Buffer
	update.Marshal(&b)
	return b.Bytes(), nil
}

// Export writes the public material of the set into dir, which is made if need be: PK, KEK and db each as .crt (PEM),
// .cer (DER), .esl and .auth, release.pub and owner.guid. Files of these names are replaced.
func (s *Set) Export(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot export keys: %w", err)
	}
	public, err := s.ReleasePublicPEM()
	if err != nil {
		return err
	}
	files := []file{{releasePub, public, 0o644}, {ownerFile, []byte(s.owner + "\n"), 0o644}}
	for _, use := range []string{PK, KEK, DB} {
		list, err := s.SignatureList(use)
		if err != nil {
			return err
		}
		update, err := s.Update(use)
		if err != nil {
			return err
		}
		der := s.boot[use].cert.Raw
		files = append(files, file{use + ".crt", encode(certBlock, der), 0o644}, file{use + ".cer", der, 0o644},
			file{use + ".esl", list, 0o644}, file{use + ".auth", update, 0o644})
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("cannot export keys: %w", err)
		}
	}
	return nil
}

func (s *Set) database(use string) (*signature.SignatureDatabase, error) {
	p, ok := s.boot[use]
	if !ok {
		return nil, fmt.Errorf("cannot enrol %q: want %s, %s or %s", use, PK, KEK, DB)
	}
	database := signature.NewSignatureDatabase()
	if err := database.Append(signature.CERT_X509_GUID, *util.StringToGUID(s.owner), p.cert.Raw); err != nil {
		return nil, fmt.Errorf("cannot make signature list of %s: %w", use, err)
	}
	return database, nil
}
