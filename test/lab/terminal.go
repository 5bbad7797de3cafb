package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a container's console: a pseudo-terminal whose output goes to a log and to whoever is connected.
type terminal struct {
	master, slave *os.File
	log           *os.File
	listener      net.Listener
	drained       chan struct{} // closed when the last output is in the log

	mu    sync.Mutex // guards peers
	peers map[net.Conn]bool
}

// openTerminal serves a new terminal at a Unix socket. The slave stays open here, so that the master does not see an end of
// file while nobody else has it.
func openTerminal(socket, log string) (*terminal, error) {
	t := &terminal{peers: map[net.Conn]bool{}, drained: make(chan struct{})}
	var err error
	if t.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, fmt.Errorf("cannot make a console: %v", err)
	}
	fd := int(t.master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 160})
	}
	if err == nil {
		t.slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		t.log, err = os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err == nil {
		err = os.RemoveAll(socket)
	}
	if err == nil {
		t.listener, err = net.Listen("unix", socket)
	}
	if err != nil {
		close(t.drained)
		t.close()
		return nil, fmt.Errorf("cannot make a console: %v", err)
	}
	go t.show()
	go t.accept()
	return t, nil
}

// show copies output until nobody has the slave any more.
func (t *terminal) show() {
	defer close(t.drained)
	buf := make([]byte, 4096)
	for {
		n, err := t.master.Read(buf)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return
		}
		if _, err := t.log.Write(buf[:n]); err != nil {
			fmt.Fprintln(os.Stderr, "roost: cannot write the console log:", err)
		}
		t.mu.Lock()
		for peer := range t.peers {
			err := peer.SetWriteDeadline(time.Now().Add(time.Second)) // one who does not read must not hold up the rest
			if err == nil {
				_, err = peer.Write(buf[:n])
			}
			if err != nil {
				delete(t.peers, peer)
			}
		}
		t.mu.Unlock()
	}
}

// accept lets people in until the listener is closed.
func (t *terminal) accept() {
	for {
		peer, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		t.peers[peer] = true
		t.mu.Unlock()
		go t.listen(peer)
	}
}

// listen types what a peer says.
func (t *terminal) listen(peer net.Conn) {
	defer peer.Close()
	buf := make([]byte, 256)
	for {
		n, err := peer.Read(buf)
		if err == nil {
			_, err = t.master.Write(buf[:n])
		}
		if err != nil {
			t.mu.Lock()
			delete(t.peers, peer)
			t.mu.Unlock()
			return
		}
	}
}

func (t *terminal) close() {
	if t.listener != nil {
		t.listener.Close()
	}
	if t.slave != nil {
		t.slave.Close()
		<-t.drained
	}
	for _, f := range []*os.File{t.master, t.log} {
		if f != nil {
			f.Close()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for peer := range t.peers {
		peer.Close()
	}
}
