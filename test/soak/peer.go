// A peer in Go for the rotation soak: mutual TLS by Go's own library, its certificate read from files at each handshake, as a
// service does that spiffe-helper keeps certificates for.
//
//	peer server ADDR CERT KEY CA           serves /5 and /800 after so many milliseconds; prints each request that comes late
//	peer client URL CERT KEY CA SECONDS h1|h2 MS   asks /MS again and again; prints how often it got what
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func load(cert, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	return &pair, err
}

// A certificate and its key are renamed one after the other: a pair that does not fit is read again.
func loadPatiently(cert, key string) (*tls.Certificate, error) {
	var pair *tls.Certificate
	var err error
	for i := 0; i < 50; i++ {
		if pair, err = load(cert, key); err == nil {
			return pair, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, err
}

func roots(file string) *x509.CertPool {
	pool := x509.NewCertPool()
	text, err := os.ReadFile(file)
	if err != nil || !pool.AppendCertsFromPEM(text) {
		panic(fmt.Sprint("no roots in ", file, ": ", err))
	}
	return pool
}

func server(address, cert, key, ca string) {
	config := &tls.Config{
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots(ca), MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return loadPatiently(cert, key) },
	}
	one := &http.Server{TLSConfig: config, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ends := r.TLS.PeerCertificates[0].NotAfter; time.Now().After(ends) {
			fmt.Println("late: a request after the end of its client's certificate,", ends)
		}
		ms, _ := strconv.Atoi(strings.Trim(r.URL.Path, "/"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		io.WriteString(w, "ok")
	})}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	panic(one.ServeTLS(listener, "", ""))
}

func client(url, cert, key, ca, seconds, version, ms string) {
	config := &tls.Config{
		RootCAs: roots(ca), MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return loadPatiently(cert, key) },
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: version == "h2"}
	one := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	total, _ := strconv.Atoi(seconds)
	counts := map[string]int{}
	for end := time.Now().Add(time.Duration(total) * time.Second); time.Now().Before(end); {
		answer, err := one.Get(url + "/" + ms)
		if err != nil {
			counts[err.Error()]++
			continue
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		counts[answer.Status]++
		time.Sleep(10 * time.Millisecond)
	}
	for what, count := range counts {
		fmt.Printf("count %d %s\n", count, what)
	}
}

func main() {
	if a := os.Args; len(a) == 6 && a[1] == "server" {
		server(a[2], a[3], a[4], a[5])
	} else if len(a) == 9 && a[1] == "client" {
		client(a[2], a[3], a[4], a[5], a[6], a[7], a[8])
	} else {
		fmt.Fprintln(os.Stderr, "peer server ADDR CERT KEY CA | peer client URL CERT KEY CA SECONDS h1|h2 MS")
		os.Exit(2)
	}
}
