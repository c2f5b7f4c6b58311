// An HTTP server for tests of deployments, and a client that counts lost requests.
//
//	server [--listen :8080] [--start-after 5s]
//	server load --url http://10.96.0.7 [--rate 50] [--reuse 2s] [--streams 2]
package main

import (
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) > 1 && os.Args[1] == "load" {
		load(os.Args[2:])
		return
	}
	serve(os.Args[1:])
}
