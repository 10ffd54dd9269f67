package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// figure is what one run of a load says.
type figure struct {
	rate     float64 // answered requests a second
	p50, p99 time.Duration
	cpu      time.Duration // the server's, for one request
	failed   int64
	first    string // the first failure, in words
}

// load sends requests from a number of clients, each as fast as it is answered,
// for a time. next makes the nth request.
func load(pid, clients int, length time.Duration, next func(n int64) *http.Request) figure {
	transport := &http.Transport{MaxIdleConnsPerHost: clients, MaxConnsPerHost: clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	var n, failed atomic.Int64
	var first atomic.Pointer[string]
	times := make([][]time.Duration, clients)
	before := cpuOf(pid)
	start := time.Now()
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for time.Since(start) < length {
				r := next(n.Add(1) - 1)
				if r == nil {
					return
				}
				sent := time.Now()
				if err := send(client, r); err != nil {
					failed.Add(1)
					text := err.Error()
					first.CompareAndSwap(nil, &text)
					continue
				}
				times[c] = append(times[c], time.Since(sent))
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	used := cpuOf(pid) - before
	flat := slices.Concat(times...)
	slices.Sort(flat)
	f := figure{failed: failed.Load()}
	if text := first.Load(); text != nil {
		f.first = *text
	}
	if len(flat) > 0 {
		f.rate = float64(len(flat)) / took.Seconds()
		f.p50, f.p99 = flat[len(flat)/2], flat[len(flat)*99/100]
		f.cpu = used / time.Duration(len(flat))
	}
	return f
}

func send(client *http.Client, r *http.Request) error {
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// clockTicks is USER_HZ, which Linux fixes at 100 for every program.
const clockTicks = 100

// cpuOf is the processor time a process has used.
func cpuOf(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / clockTicks
}

// residentOf is the memory a process holds, in bytes.
func residentOf(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(kb)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// median is the middle of values, which it sorts.
func median[T int64 | float64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}
