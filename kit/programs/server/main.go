// An HTTP server for tests of deployments, a client that counts lost requests, and a metric that scales deployments.
//
//	server [--listen :8080] [--start-after 5s]
//	server load --url http://10.96.0.7 [--rate 50] [--reuse 2s] [--streams 2]
//	server external [--listen :8443] [--control :8080]
package main

import (
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	switch command {
	case "load":
		load(os.Args[2:])
	case "external":
		external(os.Args[2:])
	default:
		serve(os.Args[1:])
	}
}
