package main

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const sweepMs = 50 // between looks at who has to acknowledge

var mark = []byte("#t=") // followed by the time of sending, 19 digits of Unix nanoseconds, and ";"

// reader is the epoll loop of all sockets and what it has counted. Fields without "atomic" are its own until finish.
type reader struct {
	epoll    int
	sockets  []*socket
	byFd     [1 << 16]atomic.Pointer[socket]
	up       chan error   // one for each handshake
	from     int64        // atomic: messages sent before do not count
	total    int64        // messages since startCounting, of any time
	perPass  int64        // of those, how many make a message complete: the sockets of a room
	released int64        // messages known to be complete
	counted  int64        // atomic: those that count
	last     int64        // atomic: time of the last one
	waiting  int64        // atomic: sockets that have had no message yet
	closed   int64        // atomic
	reads    atomic.Int64 // that brought messages
	bytes    atomic.Int64
	release  atomic.Pointer[chan struct{}]
	restart  atomic.Bool
	stopping atomic.Bool
	stopped  chan struct{}
	delays   histogram
	inflater inflater
	failed   sync.Once
}

func newReader() *reader {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		fatal("epoll_create1: %v", err)
	}
	r := &reader{
		epoll: epoll, from: 1 << 62, waiting: int64(*nSockets), perPass: int64(*nSockets / *nRooms),
		up: make(chan error, *nSockets), stopped: make(chan struct{}),
	}
	go r.loop()
	return r
}

// startCounting begins anew: what is sent from now on counts.
func (r *reader) startCounting(s *sent) {
	s.reset()
	r.restart.Store(true)
	for r.restart.Load() { // the loop looks at it several times a second
		time.Sleep(time.Millisecond)
	}
	atomic.StoreInt64(&r.from, time.Now().UnixNano())
}

// finish ends the loop; afterwards its fields may be read.
func (r *reader) finish() {
	r.stopping.Store(true)
	<-r.stopped
}

// dialAll opens all sockets and returns when their handshakes are answered. They resume from *since*, by room, if given.
func (r *reader) dialAll(since map[int]string) {
	turn := make(chan struct{}, *dialing)
	done := make(chan struct{})
	go func() {
		for i := 0; i < *nSockets; i++ {
			if err := <-r.up; err != nil {
				fatal("handshake %d: %v", i, err)
			}
			<-turn
		}
		close(done)
	}()
	for i := 0; i < *nSockets; i++ {
		turn <- struct{}{}
		s, err := dial(i, since[i%*nRooms])
		if err != nil {
			fatal("socket %d: %v", i, err)
		}
		if s.fd >= len(r.byFd) {
			fatal("socket %d has descriptor %d, allowed: below %d", i, s.fd, len(r.byFd))
		}
		r.sockets = append(r.sockets, s)
		r.byFd[s.fd].Store(s)
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(s.fd)}
		if err := syscall.EpollCtl(r.epoll, syscall.EPOLL_CTL_ADD, s.fd, &event); err != nil {
			fatal("epoll_ctl: %v", err)
		}
	}
	<-done
}

func (r *reader) loop() {
	runtime.LockOSThread()
	events := make([]syscall.EpollEvent, 1024)
	buffer := make([]byte, 256<<10)
	swept := time.Now()
	for {
		n, err := syscall.EpollWait(r.epoll, events, sweepMs)
		if err != nil && err != syscall.EINTR {
			fatal("epoll_wait: %v", err)
		}
		for i := 0; i < n; i++ {
			r.readable(r.byFd[events[i].Fd].Load(), buffer)
		}
		r.permit()
		if now := time.Now(); now.Sub(swept) >= sweepMs*time.Millisecond {
			swept = now
			r.sweep(now.UnixMilli())
		}
		if r.stopping.Load() {
			close(r.stopped)
			return
		}
	}
}

// sweep lets v1 sockets acknowledge whose time has come, and begins a new count if that was asked for.
func (r *reader) sweep(nowMs int64) {
	if *protocol == "v1" {
		for fd := range r.byFd {
			if s := r.byFd[fd].Load(); s != nil && s.acks.due(nowMs) {
				s.acknowledge(nowMs)
			}
		}
	}
	if r.restart.Load() {
		for fd := range r.byFd {
			if s := r.byFd[fd].Load(); s != nil {
				s.counted, s.sum = 0, 0
			}
		}
		r.total, r.released, r.delays = 0, 0, histogram{}
		atomic.StoreInt64(&r.counted, 0)
		atomic.StoreInt64(&r.from, 1<<62)
		r.restart.Store(false)
	}
}

// permit lets a message be published for each one that all its sockets have got, when saturated.
func (r *reader) permit() {
	permits := r.release.Load()
	if permits == nil {
		return
	}
	for r.released < r.total/r.perPass {
		r.released++
		select {
		case *permits <- struct{}{}:
		default:
		}
	}
}

func (r *reader) readable(s *socket, buffer []byte) {
	for {
		kept := copy(buffer, s.left)
		n, err := syscall.Read(s.fd, buffer[kept:])
		if err == syscall.EAGAIN || err == syscall.EINTR {
			return
		}
		if n <= 0 {
			atomic.AddInt64(&r.closed, 1)
			syscall.EpollCtl(r.epoll, syscall.EPOLL_CTL_DEL, s.fd, nil)
			if !s.up {
				r.up <- errClosed
			}
			return
		}
		r.bytes.Add(int64(n))
		data := buffer[:kept+n]
		if !s.up {
			var err error
			if data, err = s.handshake(data); err != nil || s.up {
				r.up <- err
			}
		}
		if s.up {
			before := r.total
			data = r.frames(s, data, time.Now().UnixNano())
			if r.total > before {
				r.reads.Add(1)
			}
		}
		s.left = append(s.left[:0], data...)
		if kept+n < len(buffer) {
			return
		}
	}
}

// frames takes the complete frames of *data* and returns the rest.
func (r *reader) frames(s *socket, data []byte, now int64) []byte {
	from := atomic.LoadInt64(&r.from)
	for {
		if len(data) < 2 {
			return data
		}
		size, start := int(data[1]&0x7f), 2
		if size == 126 {
			if len(data) < 4 {
				return data
			}
			size, start = int(binary.BigEndian.Uint16(data[2:])), 4
		} else if size == 127 {
			if len(data) < 10 {
				return data
			}
			size, start = int(binary.BigEndian.Uint64(data[2:])), 10
		}
		if len(data) < start+size {
			return data
		}
		payload := data[start : start+size]
		switch data[0] & 0x0f {
		case 0, 1, 2:
			if data[0]&0x40 != 0 {
				payload = r.inflater.inflate(payload)
			}
			r.payload(s, payload, now, from)
		case 9:
			s.send(10, payload)
		}
		data = data[start+size:]
	}
}

func (r *reader) payload(s *socket, payload []byte, now, from int64) {
	found := false
	for rest := payload; ; { // Centrifugo puts several messages into one frame
		k := bytes.Index(rest, mark)
		if k < 0 || len(rest) < k+len(mark)+20 {
			break
		}
		var stamp int64
		for _, digit := range rest[k+len(mark) : k+len(mark)+19] {
			stamp = stamp*10 + int64(digit-'0')
		}
		rest = rest[k+len(mark)+20:]
		found = true
		if !s.had {
			s.had = true
			atomic.AddInt64(&r.waiting, -1)
		}
		r.total++
		if stamp >= from {
			s.counted++
			s.sum += stamp
			r.delays.add(now - stamp)
			atomic.AddInt64(&r.counted, 1)
			atomic.StoreInt64(&r.last, now)
		}
	}
	s.react(payload, found, now)
}
