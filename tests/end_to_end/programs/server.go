// SPDX-License-Identifier: Apache-2.0

// Go's net/http server; prints the port that it listens on.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

const big = 30_000_000

func serve(w http.ResponseWriter, r *http.Request) {
	received, _ := io.Copy(io.Discard, r.Body)
	switch {
	case strings.HasPrefix(r.URL.Path, "/chunked"):
		last := 1_000
		if strings.Contains(r.URL.Path, "large") {
			last = 100_000
		}
		for _, piece := range []string{"one", "and two", strings.Repeat("x", last)} {
			io.WriteString(w, piece)
			w.(http.Flusher).Flush()
		}
		return
	case strings.HasPrefix(r.URL.Path, "/big"):
		w.Header().Set("Content-Length", strconv.Itoa(big))
		if r.Method != "HEAD" {
			w.Write(make([]byte, big))
		}
		return
	}
	body := "hello\n"
	if r.Method == "POST" || r.Method == "PUT" {
		body = fmt.Sprintf("%d\n", received)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if strings.HasPrefix(r.URL.Path, "/missing") {
		w.WriteHeader(404)
	}
	if r.Method != "HEAD" {
		io.WriteString(w, body)
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, http.HandlerFunc(serve)))
}
