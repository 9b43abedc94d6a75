package main

import (
	"bytes"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const ticks = 100 // a second, in /proc (USER_HZ)

// histogram has 64 classes for each power of two: about 1.6 % of error.
type histogram struct {
	classes [64 * 64]int64
	n       int64
}

func (h *histogram) add(ns int64) {
	value := uint64(max(ns, 0))
	class := int(value)
	if value >= 64 {
		shift := bits.Len64(value) - 7
		class = (shift+1)*64 + int(value>>shift) - 64
	}
	h.classes[class]++
	h.n++
}

// quantile returns milliseconds.
func (h *histogram) quantile(share float64) float64 {
	left := int64(share * float64(h.n))
	for class, count := range h.classes {
		if left -= count; left < 0 {
			if class < 64 {
				return float64(class) / 1e6
			}
			return float64(uint64(class%64+64)<<(class/64-1)) / 1e6
		}
	}
	return 0
}

// usage of the processes of one name: CPU in seconds, memory in KiB.
type usage struct {
	cpu                  float64
	rss, rssBefore, peak int64
}

// watched is what processes, this one and all others have used since watch.
type watched struct {
	pids               map[string][]int
	begin              map[string]usage
	wall               float64
	generator, others  float64 // CPU seconds; others: of the whole machine but the watched and this one
	start              time.Time
	ownStart, allStart float64
}

func parsePids(text string) map[string][]int {
	pids := map[string][]int{}
	for _, each := range strings.FieldsFunc(text, func(c rune) bool { return c == ',' }) {
		name, number, _ := strings.Cut(each, "=")
		pid, err := strconv.Atoi(number)
		if err != nil {
			fatal("process is %q, allowed: name=pid", each)
		}
		pids[name] = append(pids[name], pid)
	}
	return pids
}

func watch(text string) *watched {
	w := &watched{pids: parsePids(text), start: time.Now(), ownStart: own(), allStart: machine()}
	w.begin = w.read()
	return w
}

func (w *watched) read() map[string]usage {
	found := map[string]usage{}
	for name, pids := range w.pids {
		var u usage
		for _, pid := range pids {
			cpu, rss, peak := process(pid)
			u.cpu, u.rss, u.peak = u.cpu+cpu, u.rss+rss, u.peak+peak
		}
		found[name] = u
	}
	return found
}

func (w *watched) used() map[string]usage {
	w.wall, w.generator = time.Since(w.start).Seconds(), own()-w.ownStart
	w.others = machine() - w.allStart - w.generator
	now := w.read()
	for name, u := range now {
		begin := w.begin[name]
		u.cpu, u.rssBefore = u.cpu-begin.cpu, begin.rss
		w.others -= u.cpu
		now[name] = u
	}
	return now
}

func process(pid int) (cpu float64, rss, peak int64) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		fatal("process %d is gone", pid)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, line := range strings.Split(string(status), "\n") {
		name, value, _ := strings.Cut(line, ":")
		if fields := strings.Fields(value); name == "VmRSS" {
			rss, _ = strconv.ParseInt(fields[0], 10, 64)
		} else if name == "VmHWM" {
			peak, _ = strconv.ParseInt(fields[0], 10, 64)
		}
	}
	return (user + system) / ticks, rss, peak
}

// resetPeaks makes VmHWM begin anew (proc(5), clear_refs).
func resetPeaks(text string) {
	for _, pids := range parsePids(text) {
		for _, pid := range pids {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
				fatal("peak memory of process %d: %v", pid, err)
			}
		}
	}
}

// own returns this process's CPU seconds.
func own() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// machine returns the CPU seconds that all cores were busy.
func machine() float64 {
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	var busy float64
	for i, field := range strings.Fields(line)[1:9] { // user nice system idle iowait irq softirq steal
		if value, _ := strconv.ParseFloat(field, 64); i != 3 && i != 4 {
			busy += value
		}
	}
	return busy / ticks
}

func round(value float64, digits int) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(value, 'f', digits, 64), 64)
	return rounded
}
