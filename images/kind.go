package images

// Kind names one part of a release. Its value is the file name that the part has in every depot
// (annotation org.opencontainers.image.title).
type Kind string

// The parts of a release.
const (
	KindUKI    Kind = "uki.efi"
	KindRoot   Kind = "root.erofs"
	KindVerity Kind = "root.verity"
	KindLoader Kind = "loader.efi"
)

// Kinds returns all kinds in the order of a manifest's layers.
func Kinds() []Kind { return []Kind{KindUKI, KindRoot, KindVerity, KindLoader} }

// MediaType returns the media type of the part in a manifest, or "" for an unknown kind.
func (k Kind) MediaType() string {
	switch k {
	case KindUKI:
		return MediaTypeUKI
	case KindRoot:
		return MediaTypeRoot
	case KindVerity:
		return MediaTypeVerity
	case KindLoader:
		return MediaTypeLoader
	}
	return ""
}

// Compressed reports whether the part travels as zstd. Its descriptor in the manifest then differs from its Part.
func (k Kind) Compressed() bool { return k == KindRoot || k == KindVerity }

// Part returns the part of kind k, the zero Part for an unknown kind.
func (r *Release) Part(k Kind) Part {
	switch k {
	case KindUKI:
		return r.UKI
	case KindRoot:
		return r.Root
	case KindVerity:
		return r.Verity
	case KindLoader:
		return r.Loader
	}
	return Part{}
}
