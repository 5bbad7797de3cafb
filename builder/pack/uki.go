package pack

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"roost/images"
	"roost/images/uki"
	"roost/images/uki/authenticode"
)

// makeUKI assembles the UKI and signs it.
func makeUKI(ctx context.Context, s stages, in Input, initrd File, rootHash string) (unsigned, signed File, err error) {
	osRelease, err := osReleaseOf(in)
	if err != nil {
		return unsigned, signed, err
	}
	stub, err := digestFile(in.Stub)
	if err != nil {
		return unsigned, signed, err
	}
	line, sbat := commandLine(in, rootHash), sbatOf(in)
	key := keyOf("uki 1", string(stub), osRelease, line, sbat, in.Kernel.Version, string(in.Kernel.Image), string(initrd.Digest))
	unsigned, err = s.one(ctx, "UKI", key, func(w io.Writer) error {
		p := uki.Parts{OSRelease: osRelease, CommandLine: line, Uname: in.Kernel.Version, SBAT: sbat}
		var err error
		if p.Stub, err = os.ReadFile(in.Stub); err != nil {
			return err
		}
		if p.Kernel, err = in.Store.ReadFile(in.Kernel.Image); err != nil {
			return err
		}
		if p.Initrd, err = os.ReadFile(initrd.Path); err != nil {
			return err
		}
		image, err := uki.Assemble(p)
		if err != nil {
			return err
		}
		_, err = w.Write(image)
		return err
	})
	if err != nil {
		return unsigned, signed, err
	}
	signed, err = sign(ctx, s, in, "signed UKI", unsigned.Path, unsigned.Digest)
	return unsigned, signed, err
}

// signLoader signs systemd-boot.
func signLoader(ctx context.Context, s stages, in Input) (File, error) {
	digest, err := digestFile(in.Loader)
	if err != nil {
		return File{}, err
	}
	return sign(ctx, s, in, "signed loader", in.Loader, digest)
}

func sign(ctx context.Context, s stages, in Input, name, path string, digest images.Digest) (File, error) {
	key := keyOf("sign 1", string(digest), string(images.DigestOf(in.Cert.Raw)))
	return s.one(ctx, name, key, func(w io.Writer) error {
		program, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		signed, err := authenticode.Sign(program, in.Signer, in.Cert)
		if err != nil {
			return err
		}
		_, err = w.Write(signed)
		return err
	})
}

// osReleaseOf returns the os-release of the tree: systemd-boot sorts UKIs by it, so the two must not differ.
func osReleaseOf(in Input) (string, error) {
	const path = "/usr/lib/os-release"
	e, ok := in.Tree.Lookup(path)
	if !ok {
		return "", fmt.Errorf("the tree has no %s", path)
	}
	text, err := in.Store.ReadFile(e.Blob)
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", path, err)
	}
	lines := strings.Split(string(text), "\n")
	for _, want := range []string{"IMAGE_ID=roost-" + in.Name, "IMAGE_VERSION=" + string(in.Version)} {
		if !slices.Contains(lines, want) {
			return "", fmt.Errorf("%s has no line %s: the tree is of another release", path, want)
		}
	}
	return string(text), nil
}

// sbatOf returns our line of the SBAT metadata (shim's SBAT.md): component, generation, vendor, package, version, URL.
func sbatOf(in Input) string {
	return fmt.Sprintf("roost,1,Roost,%s,%s,https://roost.local/\n", in.Name, in.Version)
}
