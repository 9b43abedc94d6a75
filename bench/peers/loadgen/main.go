// loadgen: a WebSocket load generator that costs little, so that the server is measured and not its clients.
//
// One epoll loop reads all sockets into one buffer, walks the frames and looks for the mark "#t=<19 digits>;" in their
// payloads without parsing them. Messages are published by HTTP, or as Redis commands that another program has made.
// Every socket's messages are counted and their times added up, and both are compared with what was published: a lost
// message shows, and so does one that is made up for by another one's repetition. One JSON object goes to stdout.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

var (
	mode      = flag.String("mode", "rate", "rate: so many messages a second; saturated: so many under way; idle; resume")
	addr      = flag.String("addr", "127.0.0.1:8080", "IPv4 address and port of the server")
	path      = flag.String("path", "/", "of the WebSocket; {room} is replaced, and {since} by ?since=… when resuming")
	protocol  = flag.String("protocol", "plain", "plain, v1 (ticketwire.v1, acknowledging), socketio, centrifugo")
	deflate   = flag.Bool("deflate", false, "offer permessage-deflate")
	nSockets  = flag.Int("sockets", 1000, "how many")
	nRooms    = flag.Int("rooms", 1, "over which the sockets are spread evenly")
	rate      = flag.Float64("rate", 20, "messages a second over all rooms")
	window    = flag.Int("window", 16, "messages under way, when saturated")
	behind    = flag.Int("behind", 100, "messages that each client has missed, for resume")
	since     = flag.String("since", "", "position to resume from")
	seconds   = flag.Float64("seconds", 6, "measured")
	warm      = flag.Float64("warm", 2, "seconds before, not counted")
	hold      = flag.Float64("hold", 5, "seconds to keep idle sockets")
	pad       = flag.Int("pad", 100, "further characters of a message")
	dialing   = flag.Int("dialing", 64, "handshakes under way at a time")
	pubPath   = flag.String("publish-path", "/pub?room={room}", "of the HTTP call that publishes")
	pubBody   = flag.String("publish-body", "{message}", "its body")
	pubHead   = flag.String("publish-header", "", "one more header of it")
	pubConns  = flag.Int("publish-connections", 16, "HTTP connections that publish, each one message at a time")
	confirm   = flag.String("confirm", "", "file of Redis commands that publish (JSON, see publish.go) instead of HTTP")
	pubAddr   = flag.String("publish-addr", "", "of Redis; for HTTP the server's own is used")
	processes = flag.String("processes", "", "whose CPU and memory is read: name=pid,name=pid; several may share a name")
)

const readySeconds = 20 // until every socket must have had a first message
const drainSeconds = 5  // without a delivery, after which the missing ones count as lost

func fatal(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "loadgen: "+format+"\n", a...)
	os.Exit(1)
}

func roomName(room int) string { return "room" + strconv.Itoa(room) }

// sent is what has been published since the last reset, for each room.
type sent struct {
	count []int64
	sum   []int64 // of the times, which wraps like the sockets' own
}

func (s *sent) reset() { s.count, s.sum = make([]int64, *nRooms), make([]int64, *nRooms) }

func (s *sent) note(room int, stamp int64) {
	s.count[room]++
	s.sum[room] += stamp
}

// deliveries says how many are due: one for each message and socket of its room.
func (s *sent) deliveries() (n int64) {
	for room, count := range s.count {
		n += count * int64(socketsOf(room))
	}
	return
}

func socketsOf(room int) int { return (*nSockets - room + *nRooms - 1) / *nRooms }

type bench struct {
	reader *reader
	pub    publisher
	redis  *redisPublisher // the same, or nil
	sent   sent
	next   int // room of the next message
}

func (b *bench) publish(room int) {
	stamp := time.Now().UnixNano()
	b.sent.note(room, stamp)
	b.pub.send(message{room, stamp})
}

// run publishes for a while as the mode says, then waits for the deliveries. It returns the time of the last one.
func (b *bench) run(length float64) int64 {
	b.reader.startCounting(&b.sent)
	start := time.Now()
	stop := start.Add(time.Duration(length * 1e9))
	if *mode == "saturated" {
		b.saturate(stop)
	} else {
		for k := 0; ; k++ {
			at := start.Add(time.Duration(float64(k) / *rate * 1e9))
			if !at.Before(stop) {
				break
			}
			time.Sleep(time.Until(at))
			b.publish(b.next)
			b.next = (b.next + 1) % *nRooms
		}
	}
	b.pub.flush()
	b.drain()
	return atomic.LoadInt64(&b.reader.last)
}

func (b *bench) saturate(stop time.Time) {
	permits := make(chan struct{}, *window)
	for i := 0; i < *window; i++ {
		permits <- struct{}{}
	}
	b.reader.release.Store(&permits)
	end := time.NewTimer(time.Until(stop))
	for {
		select {
		case <-permits:
			b.publish(b.next)
			b.next = (b.next + 1) % *nRooms
		case <-end.C:
			b.reader.release.Store(nil)
			return
		}
	}
}

func (b *bench) drain() {
	due, seen, at := b.sent.deliveries(), int64(-1), time.Now()
	for {
		counted := atomic.LoadInt64(&b.reader.counted)
		if counted >= due {
			return
		}
		if counted != seen {
			seen, at = counted, time.Now()
		} else if time.Since(at) > drainSeconds*time.Second {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// ready returns once every socket has had a message: handshakes answer before some servers have subscribed.
func (b *bench) ready() {
	for start := time.Now(); ; {
		for room := 0; room < *nRooms; room++ {
			b.publish(room)
		}
		b.pub.flush()
		for wait := time.Now(); time.Since(wait) < time.Second; time.Sleep(5 * time.Millisecond) {
			if atomic.LoadInt64(&b.reader.waiting) == 0 {
				time.Sleep(300 * time.Millisecond) // further copies of a repeated first message
				return
			}
		}
		if time.Since(start) > readySeconds*time.Second {
			fatal("%d of %d sockets have had no message after %d s, %d were closed",
				atomic.LoadInt64(&b.reader.waiting), *nSockets, readySeconds, atomic.LoadInt64(&b.reader.closed))
		}
	}
}

func main() {
	flag.Parse()
	if *nRooms < 1 || *nSockets < *nRooms {
		fatal("%d rooms for %d sockets, allowed: 1 to as many as sockets", *nRooms, *nSockets)
	}
	b := &bench{reader: newReader()}
	if *mode != "idle" {
		if *confirm != "" {
			b.redis = newRedisPublisher(*pubAddr, *confirm)
			b.pub = b.redis
		} else {
			b.pub = newHTTPPublisher(*addr)
		}
	}
	b.sent.reset()
	out := map[string]any{}
	switch *mode {
	case "idle":
		watched := watch(*processes)
		b.reader.dialAll(nil)
		time.Sleep(time.Duration(*hold * 1e9))
		for name, p := range watched.used() {
			out[name+"_kib"] = round(float64(p.rss-p.rssBefore)/float64(*nSockets), 3)
		}
		b.reader.finish()
	case "resume":
		resume(b, out)
	case "rate", "saturated":
		steady(b, out)
	default:
		fatal("mode is %q, allowed: rate, saturated, idle, resume", *mode)
	}
	out["closed"] = b.reader.closed
	text, _ := json.Marshal(out)
	fmt.Println(string(text))
}

func steady(b *bench, out map[string]any) {
	b.reader.dialAll(nil)
	b.ready()
	b.run(*warm)
	watched, reads, bytes := watch(*processes), b.reader.reads.Load(), b.reader.bytes.Load()
	start := time.Now().UnixNano()
	last := b.run(*seconds)
	used := watched.used()
	length := float64(last-start) / 1e9
	b.reader.finish()
	delivered := float64(b.reader.counted)
	for name, p := range used {
		out[name+"_us"] = round(p.cpu/delivered*1e6, 4)
	}
	out["per_s"] = round(delivered/length, 1)
	out["p50"] = round(b.reader.delays.quantile(0.5), 3)
	out["p99"] = round(b.reader.delays.quantile(0.99), 3)
	out["per_read"] = round(delivered/float64(b.reader.reads.Load()-reads), 2)
	out["bytes"] = round(float64(b.reader.bytes.Load()-bytes)/delivered, 1)
	out["generator_cores"] = round(watched.generator/watched.wall, 2)
	out["other_cores"] = round(max(watched.others/watched.wall, 0), 2)
	exact(b, out)
}

// resume publishes while nobody listens; then all clients come at once, having had the first message of their room, and
// each gets what it has missed.
func resume(b *bench, out map[string]any) {
	if b.redis == nil {
		fatal("resume needs -confirm: only there the positions are known")
	}
	for room := 0; room < *nRooms; room++ {
		b.publish(room)
	}
	b.pub.flush()
	since := b.redis.newest()
	b.reader.startCounting(&b.sent)
	for i := 0; i < *behind; i++ {
		for room := 0; room < *nRooms; room++ {
			b.publish(room)
		}
	}
	b.pub.flush()
	resetPeaks(*processes)
	watched := watch(*processes)
	start := time.Now().UnixNano()
	b.reader.dialAll(since)
	b.drain()
	last := atomic.LoadInt64(&b.reader.last)
	used := watched.used()
	b.reader.finish()
	for name, p := range used {
		out[name+"_peak_mib"] = round(float64(p.peak-p.rssBefore)/1024, 2)
		out[name+"_us"] = round(p.cpu/float64(b.reader.counted)*1e6, 4)
	}
	out["seconds"] = round(float64(last-start)/1e9, 3)
	out["generator_cores"] = round(watched.generator/watched.wall, 2)
	out["other_cores"] = round(max(watched.others/watched.wall, 0), 2)
	exact(b, out)
}

// exact compares every socket's messages with what was published in its room.
func exact(b *bench, out map[string]any) {
	wrong := 0
	for _, s := range b.reader.sockets {
		if s.counted != b.sent.count[s.room] || s.sum != b.sent.sum[s.room] {
			wrong++
		}
	}
	out["delivered"], out["expected"], out["wrong_sockets"] = b.reader.counted, b.sent.deliveries(), wrong
}
