package pxe

import (
	"context"
	"time"

	"roost/images"
	"roost/pxe/dhcp"
)

// EventKind says what happened.
type EventKind string

// Kinds of events, in the order of a good boot.
const (
	Discovered   EventKind = "discover"    // DHCP DISCOVER of a machine that wants to boot
	Refused      EventKind = "refused"     // it is not served, see Reason
	Exhausted    EventKind = "exhausted"   // no address is left for it
	Offered      EventKind = "offer"       // it was sent an offer
	Requested    EventKind = "request"     // as a proxy: it takes Client.Address from the foreign server
	Acknowledged EventKind = "ack"         // it has Client.Address
	Denied       EventKind = "nak"         // the address it had is refused
	Declined     EventKind = "decline"     // it found its address in use
	BootServer   EventKind = "binl"        // it was answered on port 4011
	TFTPStarted  EventKind = "tftp-start"  // File
	TFTPDone     EventKind = "tftp-done"   // File, Bytes, Took
	TFTPFailed   EventKind = "tftp-failed" // File, Bytes, Took, Reason
	HTTPStarted  EventKind = "http-start"  // File
	HTTPDone     EventKind = "http-done"   // File, Bytes, Took
	HTTPFailed   EventKind = "http-failed" // File, Bytes, Took, Reason
	ForeignDHCP  EventKind = "foreign"     // a foreign DHCP server is on an own network: Client.Interface, Foreign
)

// Event is one line of a machine's boot.
type Event struct {
	Time    time.Time
	Boot    time.Time // when this boot of the machine began; with the MAC it names the boot
	Kind    EventKind
	Client  Client
	Release images.Digest // what is being booted, when known
	File    string        // TFTP name or HTTP path
	Bytes   int64         // sent
	Took    time.Duration
	Reason  string
	Foreign dhcp.Foreign
}

// emit queues an event for OnEvent. A listener that does not keep up loses events rather than holding up a boot.
func (s *Server) emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Boot.IsZero() {
		e.Boot = s.roster.began(e.Client)
	}
	select {
	case s.events <- e:
	default:
		s.lost.Add(1)
	}
}

// tell hands events to OnEvent until ctx ends and the queue is empty.
func (s *Server) tell(ctx context.Context) {
	for {
		select {
		case e := <-s.events:
			s.hand(e)
			continue
		default:
		}
		select {
		case e := <-s.events:
			s.hand(e)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) hand(e Event) {
	if lost := s.lost.Swap(0); lost > 0 {
		s.config.Log.Warn("boot events were lost; OnEvent is too slow", "events", lost)
	}
	s.config.OnEvent(e)
}

// kindOf translates the steps of package dhcp.
func kindOf(step dhcp.Step) EventKind { return EventKind(step) }
