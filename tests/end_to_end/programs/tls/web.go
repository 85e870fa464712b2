// SPDX-License-Identifier: Apache-2.0

// Go's net/http over TLS.
//
//	server CERTIFICATE KEY   HTTP/1.1 and HTTP/2; prints its port
//	client 1.1|2             reads a job as one line of JSON, and prints as JSON what it has asked
//	                         and got; tests/end_to_end/tls_clients.py says what is in both
//	wait                     does nothing until its input ends
//
// The last part of a path is the size of the answer, or `missing`; the header X-Peer is the
// client's port.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	_, port, err := net.SplitHostPort(r.RemoteAddr)
	must(err)
	w.Header().Set("X-Peer", port)
	last := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	switch {
	case last == "missing":
		w.WriteHeader(404)
		_, _ = io.WriteString(w, "missing\n")
	case r.Method == "PUT":
		w.WriteHeader(201)
	default:
		size, err := strconv.Atoi(last)
		must(err)
		_, _ = w.Write(bytes.Repeat([]byte("x"), size))
	}
}

func serve(certificate, key string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	must(http.ServeTLS(listener, http.HandlerFunc(answer), certificate, key))
}

type ask struct {
	method, path string
	size         int
}

func (a *ask) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&a.method, &a.path, &a.size})
}

type job struct {
	Port        int    `json:"port"`
	CA          string `json:"ca"`
	Connections int    `json:"connections"`
	Pause       int    `json:"pause"`
	Asks        []ask  `json:"asks"`
}

type said struct {
	Path   string `json:"path"`
	Status int    `json:"status"`
	Length int    `json:"length"`
	Peer   int    `json:"peer"`
	Local  int    `json:"local"`
}

func request(client *http.Client, port int, each ask) said {
	done := said{Path: each.path}
	var body io.Reader
	if each.size > 0 {
		body = bytes.NewReader(bytes.Repeat([]byte("y"), each.size))
	}
	url := fmt.Sprintf("https://127.0.0.1:%d%s", port, each.path)
	asking, err := http.NewRequest(each.method, url, body)
	must(err)
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		done.Local = got.Conn.LocalAddr().(*net.TCPAddr).Port
	}}
	answered, err := client.Do(asking.WithContext(httptrace.WithClientTrace(asking.Context(), trace)))
	must(err)
	length, err := io.Copy(io.Discard, answered.Body)
	must(err)
	answered.Body.Close()
	done.Status, done.Length = answered.StatusCode, int(length)
	done.Peer, _ = strconv.Atoi(answered.Header.Get("X-Peer"))
	return done
}

func askAll(version string) {
	input := bufio.NewReader(os.Stdin)
	line, err := input.ReadBytes('\n')
	must(err)
	var work job
	must(json.Unmarshal(line, &work))
	authority, err := os.ReadFile(work.CA)
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	clients := make([]*http.Client, work.Connections)
	for index := range clients {
		protocols := &http.Protocols{}
		protocols.SetHTTP1(version == "1.1")
		protocols.SetHTTP2(version == "2")
		clients[index] = &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots},
			MaxConnsPerHost: 1,
			Protocols:       protocols,
		}}
	}
	var mutex sync.Mutex
	all := []said{}
	run := func(isFirst bool) {
		var waits sync.WaitGroup
		for index, client := range clients {
			waits.Add(1)
			go func() {
				defer waits.Done()
				for at := index; at < len(work.Asks); at += work.Connections {
					if (at/work.Connections < work.Pause) == isFirst {
						done := request(client, work.Port, work.Asks[at])
						mutex.Lock()
						all = append(all, done)
						mutex.Unlock()
					}
				}
			}()
		}
		waits.Wait()
	}
	if work.Pause > 0 {
		run(true)
		fmt.Println("paused")
		_, err = input.ReadBytes('\n')
		must(err)
	}
	run(false)
	must(json.NewEncoder(os.Stdout).Encode(all))
}

func main() {
	switch os.Args[1] {
	case "server":
		serve(os.Args[2], os.Args[3])
	case "client":
		askAll(os.Args[2])
	case "wait":
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}
