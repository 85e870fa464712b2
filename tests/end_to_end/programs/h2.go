// SPDX-License-Identifier: Apache-2.0

// Go's net/http with HTTP/2 in clear text: `h2 server` prints its port and ends when told to,
// `h2 client PORT PATH` prints as JSON what it has asked and got.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

const big = 10_000_000

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func clearText() *http.Protocols {
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	return protocols
}

func handle(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	path := r.URL.Path
	switch {
	case strings.Contains(path, "/missing"):
		w.WriteHeader(404)
	case strings.Contains(path, "/big"):
		_, _ = w.Write(make([]byte, big))
	case strings.Contains(path, "/slow"):
		select {
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
		}
	case strings.Contains(path, "/pause"):
		time.Sleep(300 * time.Millisecond)
		_, _ = io.WriteString(w, "hello\n")
	case strings.Contains(path, "/trailers"):
		w.Header().Set("Trailer", "X-Checksum")
		_, _ = io.WriteString(w, "hello\n")
		w.Header().Set("X-Checksum", "1")
	default:
		_, _ = io.WriteString(w, "hello\n")
	}
}

func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: http.HandlerFunc(handle), Protocols: clearText()}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	done := make(chan error)
	go func() {
		<-told
		done <- server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		panic(err)
	}
	must(<-done)
}

type asked struct {
	Path   string `json:"path"`
	Method string `json:"method"`
	Status int    `json:"status"`
	Body   int    `json:"body"`
}

func ask(port, prefix string) {
	transport := &http.Transport{Protocols: clearText()}
	client := &http.Client{Transport: transport}
	var mutex sync.Mutex
	all := []asked{}
	one := func(ctx context.Context, method, path string, body io.Reader) {
		done := asked{Path: prefix + path, Method: method}
		url := "http://127.0.0.1:" + port + done.Path
		request, err := http.NewRequestWithContext(ctx, method, url, body)
		must(err)
		if answer, err := client.Do(request); err == nil {
			done.Status = answer.StatusCode
			read, _ := io.Copy(io.Discard, answer.Body)
			done.Body = int(read)
			answer.Body.Close()
		}
		mutex.Lock()
		all = append(all, done)
		mutex.Unlock()
	}
	// Until its protocol is known, only the first bytes of each transfer of a connection are
	// captured.
	recognised := func() { time.Sleep(200 * time.Millisecond) }
	background := context.Background()
	for index := range 10 {
		one(background, "GET", fmt.Sprintf("/one/%d", index), nil)
	}
	recognised()
	one(background, "GET", "/missing", nil)
	one(background, "HEAD", "/head", nil)
	one(background, "GET", "/trailers", nil)
	limited, stop := context.WithTimeout(background, 100*time.Millisecond)
	one(limited, "GET", "/slow", nil)
	stop()
	var waits sync.WaitGroup
	for index := range 100 {
		waits.Go(func() { one(background, "GET", fmt.Sprintf("/many/%d", index), nil) })
	}
	waits.Wait()

	client = &http.Client{Transport: &http.Transport{Protocols: clearText()}}
	one(background, "GET", "/large/before", nil)
	recognised()
	one(background, "GET", "/large/big", nil)
	one(background, "PUT", "/large/put", bytes.NewReader(make([]byte, big)))
	for index := range 3 {
		one(background, "GET", fmt.Sprintf("/large/after/%d", index), nil)
	}
	must(json.NewEncoder(os.Stdout).Encode(all))
}

func main() {
	if os.Args[1] == "server" {
		serve()
	} else {
		ask(os.Args[2], os.Args[3])
	}
}
