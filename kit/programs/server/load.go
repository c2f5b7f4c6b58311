package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Workers of each kind of request. Each has one request in flight at a time.
const workers = 10

// How long a request may take, and how long a stream may be silent.
const patience = 5 * time.Second

// A request without a complete answer.
type loss struct {
	Kind    string  `json:"kind"`
	Host    string  `json:"host"` // known only for streams
	Started float64 `json:"started"`
	Ended   float64 `json:"ended"`
	Error   string  `json:"error"`
}

type report struct {
	First    float64        `json:"first"` // the time of the first answer, in seconds since 1970
	Answered map[string]int `json:"answered"`
	Hosts    map[string]int `json:"hosts"`
	Lost     []loss         `json:"lost"`
	mutex    sync.Mutex
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (r *report) record(kind, host string, started time.Time, err error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if err != nil {
		now := time.Now()
		r.Lost = append(r.Lost, loss{kind, host, seconds(started), seconds(now), err.Error()})
		return
	}
	r.Answered[kind]++
	if r.Hosts[host] == 0 {
		fmt.Println("answered", host)
	}
	r.Hosts[host]++
}

// Sends requests until standard input ends, then prints a report. It prints a line for each server that answers first. No request is retried: every one counts.
func load(arguments []string) {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	url := flags.String("url", "", "the server")
	rate := flags.Int("rate", 50, "requests per second, half of them on connections that stay open")
	reuse := flags.Duration("reuse", 2*time.Second, "how long a connection is used for new requests; 0 for ever")
	streams := flags.Int("streams", 2, "streams open at a time")
	flags.Parse(arguments)

	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	report := &report{Answered: map[string]int{}, Hosts: map[string]int{}, Lost: []loss{}}
	report.First = seconds(firstAnswer(ctx, *url))
	var all sync.WaitGroup
	every := time.Second * 2 * workers / time.Duration(*rate)
	for number := range workers {
		offset := every * time.Duration(number) / workers
		all.Go(func() { requests(ctx, report, *url, "fresh", every, offset, -1) })
		all.Go(func() { requests(ctx, report, *url, "kept", every, offset+every/(2*workers), *reuse) })
	}
	for number := range *streams {
		all.Go(func() { openStreams(ctx, report, *url, number) })
	}
	all.Wait()
	json.NewEncoder(os.Stdout).Encode(report)
}

// Waits until the server answers: no request counts before kube-proxy knows the first endpoint.
func firstAnswer(ctx context.Context, url string) time.Time {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for ctx.Err() == nil {
		if _, err := post(client, url+"/"); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Now()
}

// Sends a request each period. A connection is used for as long as `reuse`; with a negative one, each request has its own.
func requests(ctx context.Context, report *report, url, kind string, every, offset, reuse time.Duration) {
	time.Sleep(offset)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	transport := &http.Transport{DisableKeepAlives: reuse < 0}
	client := &http.Client{Transport: transport, Timeout: patience}
	opened := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if reuse > 0 && time.Since(opened) > reuse {
			transport.CloseIdleConnections()
			opened = time.Now()
		}
		started := time.Now()
		// Go retries a GET on a connection that the server closed. It sends a POST once.
		host, err := post(client, url+"/?ms=100")
		report.record(kind, host, started, err)
	}
}

func post(client *http.Client, url string) (string, error) {
	response, err := client.Post(url, "text/plain", io.MultiReader(strings.NewReader("x")))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	return strings.TrimSpace(string(body)), err
}

// Opens streams of 5 to 20 seconds one after another. Those still open at the end are abandoned.
func openStreams(ctx context.Context, report *report, url string, number int) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: patience}}
	for length := 5 + 7*number%16; ; length = 5 + (length+2)%16 {
		started := time.Now()
		host, err := readStream(ctx, client, fmt.Sprintf("%s/stream?seconds=%d", url, length))
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			err = fmt.Errorf("of %d s: %w", length, err)
			time.Sleep(100 * time.Millisecond)
		}
		report.record("stream", host, started, err)
	}
}

func readStream(ctx context.Context, client *http.Client, url string) (host string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	silent := time.AfterFunc(patience, func() { response.Body.Close() })
	defer silent.Stop()
	last, lines := "", bufio.NewScanner(response.Body)
	for lines.Scan() {
		silent.Reset(patience)
		last = lines.Text()
		if host == "" {
			host = last
		}
	}
	if err = lines.Err(); err == nil && last != "end" {
		err = fmt.Errorf("it ended early")
	}
	return host, err
}
