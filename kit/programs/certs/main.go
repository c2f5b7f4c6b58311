// Creates the credentials of a cluster's components: a CA, its certificates, and a kubeconfig for each component.
//
//	certs DIR SERVER NODE ADDRESS...
//
// SERVER is the API server's URL, NODE the real node's name. The API server's certificate is valid for each ADDRESS.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 5 {
		log.Fatal("usage: certs DIR SERVER NODE ADDRESS...")
	}
	dir, server, node, addresses := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	must(os.MkdirAll(dir, 0o700))
	ca := newAuthority(dir)

	ca.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, addresses)
	ca.issue("apiserver-kubelet-client", pkix.Name{CommonName: "kit", Organization: []string{"system:masters"}}, nil)
	ca.issue("front-proxy-client", pkix.Name{CommonName: "front-proxy-client"}, nil)
	ca.issue("kubelet", pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}, nil)
	clients := map[string]pkix.Name{
		"admin":                   {CommonName: "admin", Organization: []string{"system:masters"}},
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":              {CommonName: "system:kube-proxy"},
		"metrics-server":          {CommonName: "metrics-server", Organization: []string{"system:masters"}},
		"coredns":                 {CommonName: "coredns", Organization: []string{"system:masters"}},
		"kwok":                    {CommonName: "kwok", Organization: []string{"system:masters"}},
	}
	for name, subject := range clients {
		ca.issue(name, subject, nil)
		ca.kubeconfig(name, server)
	}
	ca.kubeconfig("kubelet", server)

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	ca.write("service-account.key", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must(err)
	ca.write("service-account.pub", "PUBLIC KEY", public)
}

func newAuthority(dir string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "sokovan-kit"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	ca := &authority{dir: dir, cert: cert, key: key}
	ca.pem = ca.write("ca.crt", "CERTIFICATE", der)
	return ca
}

func (ca *authority) issue(name string, subject pkix.Name, addresses []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: subject,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, address := range addresses {
		if ip := net.ParseIP(address); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, address)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	must(err)
	ca.write(name+".crt", "CERTIFICATE", der)
	secret, err := x509.MarshalECPrivateKey(key)
	must(err)
	ca.write(name+".key", "EC PRIVATE KEY", secret)
}

func (ca *authority) kubeconfig(name, server string) {
	read := func(file string) []byte {
		bytes, err := os.ReadFile(filepath.Join(ca.dir, file))
		must(err)
		return bytes
	}
	type object = map[string]any
	config := object{
		"apiVersion": "v1", "kind": "Config", "current-context": "kit",
		"clusters": []object{{"name": "kit", "cluster": object{"server": server, "certificate-authority-data": ca.pem}}},
		"users": []object{{"name": name, "user": object{
			"client-certificate-data": read(name + ".crt"), "client-key-data": read(name + ".key")}}},
		"contexts": []object{{"name": "kit", "context": object{"cluster": "kit", "user": name}}},
	}
	bytes, err := json.MarshalIndent(config, "", "  ")
	must(err)
	must(os.WriteFile(filepath.Join(ca.dir, name+".kubeconfig"), bytes, 0o600))
}

func (ca *authority) write(name, kind string, der []byte) []byte {
	bytes := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	must(os.WriteFile(filepath.Join(ca.dir, name), bytes, 0o600))
	return bytes
}

func serial() *big.Int {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(err)
	return number
}

func must(err error) {
	if err != nil {
		log.Fatal("certs: ", err)
	}
}
