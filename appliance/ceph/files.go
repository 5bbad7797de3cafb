package ceph

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"roost/appliance/service"
)

// The file system and its pools. No other pool has a dot in its name that a site document may give.
const (
	fileSystem   = "cephfs"
	poolMetadata = "cephfs.meta"
	poolFiles    = "cephfs.data"
)

// filePools are those of the file system. Few placement groups will do until there is much in them; then Ceph makes more.
func filePools() []wishedPool {
	return []wishedPool{{poolMetadata, fileSystem, 16}, {poolFiles, fileSystem, 16}}
}

// bringFiles brings the file system up.
func (b *bringUp) bringFiles() []service.Step {
	return []service.Step{
		b.startAs(b.runMetadata(), "metadata server", time.Minute, metadata(b.node)),
		{Name: "file system", Holds: b.hasFiles, Make: b.makeFiles, Limit: time.Minute},
	}
}

func (p plan) runMetadata() unit {
	return unit{
		name: "ceph-mds@" + p.node + ".service", description: "Ceph metadata server " + p.node,
		head: []string{"After=network.target", "StartLimitIntervalSec=0"},
		keys: [][2]string{{"keyring", runDir + "/metadata.keyring"}},
		lines: append(always(), "PrivateDevices=yes",
			// A quarter of Ceph's own, which is for hosts that do nothing else.
			"ExecStart=/usr/bin/ceph-mds --foreground --id "+p.node+" --keyring %d/keyring --mds-cache-memory-limit=1073741824"),
	}
}

// filed asks whether the file system is made, of its pools.
func (c *cluster) filed() error {
	for _, p := range c.Pools {
		if _, ok := p.Applications[fileSystem]["metadata"]; ok && p.Name == poolMetadata && c.Files.ID > 0 {
			return nil
		}
	}
	return errors.New("there is no file system yet")
}

// hasFiles asks for a file system that a metadata server serves.
func (b *bringUp) hasFiles(ctx context.Context) error {
	c, err := b.see(ctx)
	if err != nil {
		return err
	}
	if err := c.filed(); err != nil {
		return err
	}
	state := "there is none"
	for _, s := range c.Files.Servers {
		if state = s.Status; strings.HasPrefix(state, "up:active") {
			return nil
		}
	}
	return fmt.Errorf("no metadata server serves the file system: %s", state)
}

func (b *bringUp) makeFiles(ctx context.Context) error {
	b.changed()
	c, err := b.see(ctx)
	if err != nil {
		return err
	}
	if c.filed() == nil {
		return nil // its server is on its way
	}
	b.changed()
	_, err = b.ceph(ctx, nil, "fs", "new", fileSystem, poolMetadata, poolFiles)
	return err
}
