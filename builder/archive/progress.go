package archive

import (
	"sync"
	"time"
)

// Progress says how far a Fetch or a Snapshot is. Totals grow while a snapshot learns what it needs.
type Progress struct {
	Files, FilesTotal int
	Bytes, BytesTotal int64
	Name              string // a file that is being fetched; "" at the end
}

// meter adds up the progress of all transfers of one session.
type meter struct {
	report func(Progress)

	mu   sync.Mutex
	now  Progress
	last time.Time
}

const reportEvery = 100 * time.Millisecond

func (m *meter) expect(files int, bytes int64) {
	m.change(func(p *Progress) { p.FilesTotal += files; p.BytesTotal += bytes }, false)
}

// add counts bytes of name; negative when a transfer starts over.
func (m *meter) add(name string, bytes int64) {
	m.change(func(p *Progress) { p.Bytes += bytes; p.Name = name }, false)
}

func (m *meter) done() { m.change(func(p *Progress) { p.Files++ }, false) }

// finish reports the end in any case.
func (m *meter) finish() { m.change(func(p *Progress) { p.Name = "" }, true) }

func (m *meter) change(apply func(*Progress), always bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	apply(&m.now)
	if m.report == nil {
		return
	}
	if at := time.Now(); always || at.Sub(m.last) >= reportEvery {
		m.last = at
		m.report(m.now)
	}
}
