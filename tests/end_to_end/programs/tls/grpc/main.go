// SPDX-License-Identifier: Apache-2.0

// grpc-go over TLS. Messages are plain bytes, and answered with as many as their text says; one
// that says nothing is NOT_FOUND. The header x-peer is the client's port.
//
//	server CERTIFICATE KEY   prints its port
//	client                   reads a job as one line of JSON, and prints as JSON what it has called
//	                         and got; tests/end_to_end/tls_grpc.py says what is in both
//	wait                     does nothing until its input ends
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

type message struct{ data []byte }

// Takes bytes as they are, under the name that clients ask for.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return v.(*message).data, nil }
func (raw) Unmarshal(data []byte, v any) error { v.(*message).data = bytes.Clone(data); return nil }
func (raw) Name() string                       { return "proto" }

func answer(_ any, stream grpc.ServerStream) error {
	var asked message
	if err := stream.RecvMsg(&asked); err != nil {
		return err
	}
	from, _ := peer.FromContext(stream.Context())
	port := strconv.Itoa(from.Addr.(*net.TCPAddr).Port)
	must(stream.SetHeader(metadata.Pairs("x-peer", port)))
	size, err := strconv.Atoi(strings.TrimSpace(string(asked.data)))
	if err != nil {
		return status.Error(codes.NotFound, "as asked")
	}
	return stream.SendMsg(&message{bytes.Repeat([]byte("x"), size)})
}

func serve(certificate, key string) {
	secured, err := credentials.NewServerTLSFromFile(certificate, key)
	must(err)
	server := grpc.NewServer(
		grpc.Creds(secured), grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(answer))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	must(server.Serve(listener))
}

type job struct {
	Port  int      `json:"port"`
	CA    string   `json:"ca"`
	Names []string `json:"names"`
	Sent  []int    `json:"sent"`
	Sizes []int    `json:"sizes"`
}

type said struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Length int    `json:"length"`
	Peer   int    `json:"peer"`
}

func call() {
	line, err := bufio.NewReader(os.Stdin).ReadBytes('\n')
	must(err)
	var work job
	must(json.Unmarshal(line, &work))
	secured, err := credentials.NewClientTLSFromFile(work.CA, "")
	must(err)
	connection, err := grpc.NewClient(
		fmt.Sprintf("127.0.0.1:%d", work.Port), grpc.WithTransportCredentials(secured),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	must(err)
	defer connection.Close()
	all := []said{}
	for index, name := range work.Names {
		text := ""
		if work.Sizes[index] >= 0 {
			text = strconv.Itoa(work.Sizes[index])
		}
		data := []byte(fmt.Sprintf("%*s", work.Sent[index], text))
		var answered message
		var header metadata.MD
		err := connection.Invoke(
			context.Background(), "/"+name, &message{data}, &answered, grpc.Header(&header))
		done := said{Name: name, Status: "OK", Length: len(answered.data)}
		if err != nil {
			done.Status = map[codes.Code]string{codes.NotFound: "NOT_FOUND"}[status.Code(err)]
		}
		if port := header.Get("x-peer"); len(port) > 0 {
			done.Peer, err = strconv.Atoi(port[0])
			must(err)
		}
		all = append(all, done)
	}
	must(json.NewEncoder(os.Stdout).Encode(all))
}

func main() {
	switch os.Args[1] {
	case "server":
		serve(os.Args[2], os.Args[3])
	case "client":
		call()
	case "wait":
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}
