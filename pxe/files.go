package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"roost/pxe/tftp"
)

func (a *attendance) openTFTP(group *errgroup.Group) error {
	at := netip.AddrPortFrom(a.place.address, a.config.Ports.TFTP)
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("cannot listen for TFTP on %s: %w", at, err)
	}
	server := tftp.New(tftp.Config{Find: a.find, Observe: a.transferred, Transfers: a.config.Transfers, PerHost: max(1, a.config.PerHost/2), Log: a.config.Log})
	group.Go(func() error { return server.Serve(a.ctx, conn) })
	return nil
}

// find is the verdict in the words of TFTP.
func (a *attendance) find(ctx context.Context, peer netip.AddrPort, name string) (tftp.File, error) {
	c, ok := a.identify(peer.Addr())
	if !ok {
		return tftp.File{}, tftp.ErrUnknownPeer
	}
	offer, err := a.decide(ctx, c)
	if err != nil {
		a.emit(Event{Kind: Refused, Client: c, File: name, Reason: err.Error()})
		return tftp.File{}, err
	}
	switch {
	case name == offer.tftpName():
		return tftp.File{Size: offer.UKI.Size, Open: offer.UKI.Open}, nil
	case name == ipxeName && a.config.IPXE != nil:
		return tftp.File{Size: int64(len(a.config.IPXE)), Open: func() (io.ReadSeekCloser, error) {
			return memory{bytes.NewReader(a.config.IPXE)}, nil
		}}, nil
	}
	return tftp.File{}, tftp.ErrNotFound
}

// memory is content that needs no closing.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// transferred is where the TFTP server reports.
func (a *attendance) transferred(t tftp.Transfer) {
	log := a.config.Log.With("interface", a.iface.Name, "peer", t.Peer, "file", t.Name)
	switch t.Outcome {
	case tftp.Probed:
		return // the firmware asked for the size and comes back
	case tftp.Busy:
		log.Warn("too many TFTP transfers; the machine must ask again")
		return
	case tftp.Refused:
		if errors.Is(t.Err, tftp.ErrUnknownPeer) {
			log.Debug("ignored TFTP request", "reason", t.Err) // anybody can forge these by the thousand
		} else {
			log.Info("refused TFTP request", "reason", t.Err)
		}
		return
	}
	c, ok := a.identify(t.Peer.Addr())
	if !ok && !errors.Is(t.Err, net.ErrClosed) {
		c = Client{Interface: a.iface.Name, Address: t.Peer.Addr()} // its lease ended under way
	}
	e := Event{Kind: TFTPStarted, Client: c, File: t.Name, Bytes: t.Sent, Took: t.Duration}
	switch t.Outcome {
	case tftp.Done:
		e.Kind = TFTPDone
		a.roster.fetched(c)
		log.Info("sent file by TFTP", "bytes", t.Sent, "window", t.Window, "repeats", t.Repeats, "took", t.Duration)
	case tftp.Failed:
		e.Kind, e.Reason = TFTPFailed, t.Err.Error()
		log.Warn("TFTP transfer failed", "bytes", t.Sent, "error", t.Err)
	}
	a.emit(e)
}
