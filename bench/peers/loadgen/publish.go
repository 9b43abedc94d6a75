package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const queued = 1 << 16 // messages that may wait for a publishing connection
const mostAtOnce = 64  // messages of one confirm call

type message struct {
	room  int
	stamp int64
}

// text is what a person wrote: the mark, the time, and some more.
func (m message) text() string {
	return string(mark) + strconv.FormatInt(m.stamp, 10) + ";" + strings.Repeat("x", *pad)
}

// json is the message for servers that pass on what they are given: the five fields of ticketwire's plain mode.
func (m message) json() string {
	ms := m.stamp / 1e6
	return fmt.Sprintf(`{"ticket_id":"%s","message_id":"%d-0","sender_id":"1","message":"%s","timestamp":%d}`,
		roomName(m.room), ms, m.text(), ms/1000)
}

// publisher takes messages at once and sends them as fast as the server lets it.
type publisher interface {
	send(message)
	flush() // returns when all are answered
}

type httpPublisher struct {
	queue chan message
	open  sync.WaitGroup
}

func newHTTPPublisher(addr string) *httpPublisher {
	p := &httpPublisher{queue: make(chan message, queued)}
	for i := 0; i < *pubConns; i++ {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			fatal("publisher: %v", err)
		}
		go p.work(conn)
	}
	return p
}

func (p *httpPublisher) send(m message) {
	p.open.Add(1)
	p.queue <- m
}

func (p *httpPublisher) flush() { p.open.Wait() }

func (p *httpPublisher) work(conn net.Conn) {
	answers := bufio.NewReader(conn)
	for m := range p.queue {
		fill := strings.NewReplacer("{room}", roomName(m.room), "{message}", m.json())
		body := fill.Replace(*pubBody)
		head := "POST " + fill.Replace(*pubPath) + " HTTP/1.1\r\nHost: " + *addr +
			"\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
		if *pubHead != "" {
			head += *pubHead + "\r\n"
		}
		if _, err := conn.Write([]byte(head + "\r\n" + body)); err != nil {
			fatal("publisher: %v", err)
		}
		answer, err := http.ReadResponse(answers, &http.Request{Method: "POST"})
		if err != nil {
			fatal("publisher: %v", err)
		}
		said, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode/100 != 2 {
			fatal("publisher: %s: %s", answer.Status, said)
		}
		p.open.Done()
	}
}

// commands are, for each partition, the Redis command that settles messages: its head, and what is repeated for each.
// {id}, {ticket}, {text} and {seconds} are replaced.
type commands []struct {
	Head  []string `json:"head"`
	Entry []string `json:"entry"`
}

// redisPublisher does what a worker does at the end of its work: one call at a time for each partition, with all messages
// that wait. A ticket's partition is crc32(ticket) % partitions.
type redisPublisher struct {
	partitions []chan message
	open       sync.WaitGroup
	turn       sync.Mutex
	last       int64 // the newest id, in thousandths of a millisecond
	ids        map[int]string
}

func newRedisPublisher(addr, file string) *redisPublisher {
	text, err := os.ReadFile(file)
	var made commands
	if err == nil {
		err = json.Unmarshal(text, &made)
	}
	if err != nil || len(made) == 0 {
		fatal("%s holds no commands: %v", file, err)
	}
	p := &redisPublisher{partitions: make([]chan message, len(made)), ids: map[int]string{}}
	for i := range made {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			fatal("publisher: %v", err)
		}
		p.partitions[i] = make(chan message, queued)
		go p.work(conn, p.partitions[i], made[i].Head, made[i].Entry)
	}
	return p
}

func (p *redisPublisher) send(m message) {
	p.open.Add(1)
	p.partitions[crc32.ChecksumIEEE([]byte(roomName(m.room)))%uint32(len(p.partitions))] <- m
}

func (p *redisPublisher) flush() { p.open.Wait() }

// newest returns the newest id of each room.
func (p *redisPublisher) newest() map[int]string {
	p.turn.Lock()
	defer p.turn.Unlock()
	return maps.Clone(p.ids)
}

// id returns a message id above all others, and its time in seconds.
func (p *redisPublisher) id(room int) (string, int64) {
	p.turn.Lock()
	defer p.turn.Unlock()
	p.last = max(p.last+1, time.Now().UnixMilli()*1000)
	id := fmt.Sprintf("%d-%d", p.last/1000, p.last%1000)
	p.ids[room] = id
	return id, p.last / 1e6
}

func (p *redisPublisher) work(conn net.Conn, queue chan message, head, entry []string) {
	replies := bufio.NewReader(conn)
	for m := range queue {
		batch := []message{m}
		for len(batch) < mostAtOnce && len(queue) > 0 {
			batch = append(batch, <-queue)
		}
		args := append([]string{}, head...)
		for _, m := range batch {
			id, seconds := p.id(m.room)
			fill := strings.NewReplacer("{id}", id, "{ticket}", roomName(m.room), "{text}", m.text(),
				"{seconds}", strconv.FormatInt(seconds, 10))
			for _, arg := range entry {
				args = append(args, fill.Replace(arg))
			}
		}
		var command bytes.Buffer
		fmt.Fprintf(&command, "*%d\r\n", len(args))
		for _, arg := range args {
			fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(arg), arg)
		}
		if _, err := conn.Write(command.Bytes()); err != nil {
			fatal("publisher: %v", err)
		}
		// The answer of confirm.lua: {renamed ids, next entries}, both empty here.
		for _, want := range []string{"*2", "*0", "*0"} {
			line, err := replies.ReadString('\n')
			if err != nil || strings.TrimSpace(line) != want {
				fatal("publisher: Redis says %q, %v", line, err)
			}
		}
		p.open.Add(-len(batch))
	}
}
