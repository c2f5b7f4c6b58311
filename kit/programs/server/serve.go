package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	healthy int32 = iota
	failing
	hung
)

// The state that /fail, /hang and /heal set.
var state atomic.Int32

// Set by /busy, and unset by /idle.
var busy atomic.Bool

// The answers to requests for /.
var answers atomic.Int64

func serve(arguments []string) {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	listen := flags.String("listen", ":8080", "the address to listen on")
	after := flags.Duration("start-after", 0, "how long to wait before listening")
	flags.Parse(arguments)

	// Like vLLM, the server aborts its open requests when it is asked to stop.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		os.Exit(0)
	}()

	time.Sleep(*after)
	mux := http.NewServeMux()
	mux.HandleFunc("/", answer)
	mux.HandleFunc("/stream", stream)
	mux.HandleFunc("/health", health)
	for path, next := range map[string]int32{"/fail": failing, "/hang": hung, "/heal": healthy} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, _ *http.Request) {
			state.Store(next)
			fmt.Fprintln(w, name())
		})
	}
	mux.HandleFunc("POST /busy", func(w http.ResponseWriter, _ *http.Request) {
		if !busy.Swap(true) {
			go work()
		}
		fmt.Fprintln(w, name())
	})
	mux.HandleFunc("POST /idle", func(w http.ResponseWriter, _ *http.Request) {
		busy.Store(false)
		fmt.Fprintln(w, name())
	})
	mux.HandleFunc("POST /quit", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, name())
		time.AfterFunc(100*time.Millisecond, func() { os.Exit(0) })
	})
	mux.HandleFunc("/metrics", metrics)
	log.Fatal(http.ListenAndServe(*listen, mux))
}

// Names this server. The main kernel of every session has the same hostname, so the session's name comes first.
func name() string {
	if session := os.Getenv("BACKENDAI_SESSION_NAME"); session != "" {
		return session
	}
	host, _ := os.Hostname()
	return host
}

// Returns false if the client left while the server was hung.
func respond(r *http.Request) bool {
	for state.Load() == hung {
		select {
		case <-r.Context().Done():
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
	return true
}

func number(r *http.Request, key string) time.Duration {
	value, _ := strconv.ParseFloat(r.URL.Query().Get(key), 64)
	return time.Duration(value * float64(time.Second))
}

func answer(w http.ResponseWriter, r *http.Request) {
	time.Sleep(number(r, "ms") / 1000)
	if respond(r) {
		answers.Add(1)
		fmt.Fprintln(w, name())
	}
}

// Writes the number of answers in the text format of Prometheus.
func metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(w, "# TYPE answers_total counter\nanswers_total %d\n", answers.Load())
}

// Uses a twentieth of a CPU until /idle. The pauses leave time for health checks.
func work() {
	for busy.Load() {
		for end := time.Now().Add(5 * time.Millisecond); time.Now().Before(end); {
		}
		time.Sleep(95 * time.Millisecond)
	}
}

func health(w http.ResponseWriter, r *http.Request) {
	if !respond(r) {
		return
	}
	if state.Load() == failing {
		w.WriteHeader(http.StatusInternalServerError)
	}
	fmt.Fprintln(w, name())
}

// Writes a line each 100 ms. The last line tells the client that the answer is complete.
func stream(w http.ResponseWriter, r *http.Request) {
	end := time.Now().Add(number(r, "seconds"))
	for time.Now().Before(end) && respond(r) {
		fmt.Fprintln(w, name())
		w.(http.Flusher).Flush()
		time.Sleep(100 * time.Millisecond)
	}
	if respond(r) {
		fmt.Fprintln(w, "end")
	}
}
