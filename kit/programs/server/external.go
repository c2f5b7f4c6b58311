package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"log"
	"math/big"
	"net/http"
	"sync/atomic"
	"time"
)

const externalAPI = "/apis/external.metrics.k8s.io/v1beta1"

type object = map[string]any

// Serves the API of external metrics, in which every metric of every namespace has the same value. POST /value?is=12 on the
// second address changes it.
func external(arguments []string) {
	flags := flag.NewFlagSet("external", flag.ExitOnError)
	listen := flags.String("listen", ":8443", "the address of the API, with a certificate of its own")
	control := flags.String("control", ":8080", "the address where the value is changed, without TLS")
	flags.Parse(arguments)

	var value atomic.Pointer[string]
	zero := "0"
	value.Store(&zero)
	api := http.NewServeMux()
	api.HandleFunc("GET "+externalAPI, func(w http.ResponseWriter, _ *http.Request) {
		resource := object{"name": "any", "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": []string{"get"}}
		group := "external.metrics.k8s.io/v1beta1"
		write(w, object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": []object{resource}})
	})
	api.HandleFunc("GET "+externalAPI+"/namespaces/{namespace}/{metric}", func(w http.ResponseWriter, r *http.Request) {
		now := time.Now().UTC().Format(time.RFC3339)
		item := object{"metricName": r.PathValue("metric"), "metricLabels": object{}, "timestamp": now, "value": *value.Load()}
		write(w, object{"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": object{}, "items": []object{item}})
	})
	changes := http.NewServeMux()
	changes.HandleFunc("POST /value", func(_ http.ResponseWriter, r *http.Request) {
		next := r.URL.Query().Get("is")
		value.Store(&next)
	})
	go func() { log.Fatal(http.ListenAndServe(*control, changes)) }()
	server := &http.Server{Addr: *listen, Handler: api, TLSConfig: &tls.Config{Certificates: []tls.Certificate{selfSigned()}}}
	log.Fatal(server.ListenAndServeTLS("", ""))
}

func write(w http.ResponseWriter, answer object) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

func selfSigned() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
