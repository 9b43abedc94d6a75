package main

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var errClosed = errors.New("closed by the server")

// socket is one client: its handshake, and what its protocol wants of it.
type socket struct {
	fd      int
	index   int
	room    int
	since   string // position to resume from, if any
	up      bool
	left    []byte // of an unfinished frame
	had     bool   // a message
	counted int64
	sum     int64 // of the counted messages' times
	joined  bool  // Socket.IO
	acks    acks
}

func dial(index int, since string) (*socket, error) {
	host, port, err := net.SplitHostPort(*addr)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	to := &syscall.SockaddrInet4{Port: number}
	copy(to.Addr[:], net.ParseIP(host).To4())
	if err := syscall.Connect(fd, to); err != nil {
		return nil, err
	}
	syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	syscall.SetNonblock(fd, true)
	s := &socket{fd: fd, index: index, room: index % *nRooms, since: since}
	query := ""
	if since != "" {
		query = "?since=" + since
	}
	target := strings.NewReplacer("{room}", roomName(s.room), "{since}", query).Replace(*path)
	head := "GET " + target + " HTTP/1.1\r\nHost: " + *addr + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
	if *protocol == "v1" {
		head += "Sec-WebSocket-Protocol: ticketwire.v1\r\n"
	}
	if *deflate {
		head += "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
	}
	s.write([]byte(head + "\r\n"))
	return s, nil
}

// handshake takes the server's answer; it returns what follows, or all of it while it is not complete.
func (s *socket) handshake(data []byte) ([]byte, error) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return data, nil
	}
	if !bytes.HasPrefix(data, []byte("HTTP/1.1 101")) {
		return data, fmt.Errorf("%q", data[:end])
	}
	if *deflate && !bytes.Contains(data[:end], []byte("permessage-deflate")) {
		return data, errors.New("the server does not compress")
	}
	s.up = true
	switch *protocol {
	case "v1":
		position := "null"
		if s.since != "" {
			position = `"` + s.since + `"`
		}
		s.say(fmt.Sprintf(`{"type":"connect","user":"u%d","device":"d%d","resume":{"%s":%s}}`,
			s.index, s.index, roomName(s.room), position))
	case "socketio":
		s.say("40")
	case "centrifugo":
		s.say(`{"id":1,"connect":{}}` + "\n" + `{"id":2,"subscribe":{"channel":"` + roomName(s.room) + `"}}`)
	}
	return data[end+4:], nil
}

// react does what the protocol wants after a frame; *message*: it held at least one.
func (s *socket) react(payload []byte, message bool, now int64) {
	switch *protocol {
	case "v1":
		if message {
			s.acks.handled(payload, now/1e6)
			if s.acks.pressing() {
				s.acknowledge(now / 1e6)
			}
		} else if bytes.HasPrefix(payload, []byte(`{"type":"ping"`)) {
			s.say(`{"type":"pong"}`)
		} else if bytes.HasPrefix(payload, []byte(`{"type":"connected"`)) {
			if err := json.Unmarshal(payload, &s.acks); err != nil || s.acks.Window == 0 {
				fatal("connected: %v: %s", err, payload)
			}
			// People come at different times, so their acknowledgements are spread; here all come at once.
			_, phase := math.Modf(float64(s.index) * math.Phi)
			s.acks.ackedMs = now/1e6 - int64(phase*float64(s.acks.IntervalMs))
		} else if bytes.HasPrefix(payload, []byte(`{"type":"error"`)) {
			fatal("the server says %s", payload)
		}
	case "socketio":
		if message {
			return
		}
		if len(payload) == 1 && payload[0] == '2' { // ping of Engine.IO 4
			s.say("3")
		} else if bytes.HasPrefix(payload, []byte("40")) && !s.joined {
			s.joined = true
			s.say(`42["join","` + roomName(s.room) + `"]`)
		}
	case "centrifugo":
		if !message && string(bytes.TrimSpace(payload)) == "{}" {
			s.say("{}")
		}
	}
}

func (s *socket) say(text string) { s.send(1, []byte(text)) }

// send writes a client's frame. The mask is zero, so the payload goes as it is.
func (s *socket) send(opcode byte, payload []byte) {
	frame := []byte{0x80 | opcode}
	if len(payload) < 126 {
		frame = append(frame, 0x80|byte(len(payload)))
	} else {
		frame = append(frame, 0x80|126, byte(len(payload)>>8), byte(len(payload)))
	}
	s.write(append(append(frame, 0, 0, 0, 0), payload...))
}

func (s *socket) write(data []byte) {
	for len(data) > 0 {
		n, err := syscall.Write(s.fd, data)
		if err == syscall.EAGAIN {
			time.Sleep(time.Millisecond)
		} else if err != nil && err != syscall.EINTR {
			return // the reader finds it closed
		} else if n > 0 {
			data = data[n:]
		}
	}
}

// acks decides when to acknowledge, as docs/protocol.md asks clients to and ticketwire.client does.
type acks struct {
	Window     int   `json:"ack_window"`
	Bytes      int   `json:"ack_bytes"`
	IntervalMs int64 `json:"ack_ms"`
	open       int   // messages since the last ack
	openBytes  int   // their frames
	sinceMs    int64 // the first of them
	ackedMs    int64
	position   []byte
}

const quietMs = 200 // after a quiet time the first message is acknowledged so soon
const headBytes = 4 // of a message's frame

var positionField = []byte(`"message_id":"`)

func (a *acks) handled(frame []byte, nowMs int64) {
	start := bytes.Index(frame, positionField)
	if start < 0 {
		return
	}
	start += len(positionField)
	length := bytes.IndexByte(frame[start:], '"')
	a.position = append(a.position[:0], frame[start:start+length]...)
	if a.open == 0 {
		a.sinceMs = nowMs
	}
	a.open++
	a.openBytes += len(frame) + headBytes
}

func (a *acks) pressing() bool { return a.open*2 >= a.Window || a.openBytes*2 >= a.Bytes }

func (a *acks) due(nowMs int64) bool {
	return a.open > 0 && nowMs >= max(a.sinceMs+quietMs, a.ackedMs+a.IntervalMs)
}

func (s *socket) acknowledge(nowMs int64) {
	s.acks.open, s.acks.openBytes, s.acks.ackedMs = 0, 0, nowMs
	s.say(`{"type":"ack","ticket_id":"` + roomName(s.room) + `","position":"` + string(s.acks.position) + `"}`)
}

// inflater undoes permessage-deflate without context takeover. All sockets get the same bytes, so it remembers results:
// the generator is to cost little.
type inflater struct{ known map[string][]byte }

func (f *inflater) inflate(payload []byte) []byte {
	if text, ok := f.known[string(payload)]; ok {
		return text
	}
	// RFC 7692, 7.2.2: the tail that the sender cut off, and an empty last block for the reader's sake.
	whole := append(append([]byte{}, payload...), 0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff)
	text, err := io.ReadAll(flate.NewReader(bytes.NewReader(whole)))
	if err != nil {
		fatal("a frame cannot be inflated: %v", err)
	}
	if f.known == nil || len(f.known) > 4096 {
		f.known = map[string][]byte{}
	}
	f.known[string(payload)] = text
	return text
}
