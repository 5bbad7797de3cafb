// Package rootfs holds the two formats of a root image: EROFS (the file system) and dm-verity (the proof that every block of
// it is the one that was built).
//
// It exists because the builder must write both without the tools of a distribution, and the updater and the initrd must
// check them before and while they are used. [Write] makes an image, [Hasher] its hash tree while the image is being
// written, [Verify] reads both back, and [Superblock.Target] is what device mapper is told.
//
// Promises: equal input gives equal bytes on any number of processors; images pass fsck.erofs and the kernel mounts them;
// trees pass veritysetup; nothing of a superblock is believed that the formats here would not have written; memory stays
// bounded whatever the size of the image.
//
// Rejected: erofs/go-erofs for writing (every hard link becomes a copy, no UUID or label, data is spooled twice);
// containerd/go-dmverity (one thread, and parameters read back unchecked); compression inside the image (it defeats deltas
// and costs time on real-time processors; transport is compressed instead).
package rootfs
