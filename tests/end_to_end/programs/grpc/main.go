// SPDX-License-Identifier: Apache-2.0

// gRPC and gRPC-Web, servers and clients, for the end-to-end tests. Messages are plain bytes.
//
//	server             grpc-go; prints its port
//	client PORT NAME   grpc-go; calls the service wirespan.test.NAME, prints what it has done
//	busy PORT NAME     grpc-go; the same two calls for two seconds
//	web-server         connect-go, which speaks gRPC-Web over HTTP/1.1 and HTTP/2
//	web-client PORT NAME VERSION
//	upgrade-server     plain HTTP/2 that clients may upgrade to from HTTP/1.1
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const large = 4 << 20

var names = []string{"python", "go", "connect"}

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

func number(m *message) int {
	n, err := strconv.Atoi(string(m.data))
	must(err)
	return n
}

// What the methods do.

type handler func(stream grpc.ServerStream) error

func echo(stream grpc.ServerStream) error {
	var m message
	if err := stream.RecvMsg(&m); err != nil {
		return err
	}
	return stream.SendMsg(&m)
}

func fail(code codes.Code, early bool) handler {
	return func(stream grpc.ServerStream) error {
		var m message
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		if early {
			must(stream.SendHeader(metadata.MD{}))
		}
		return status.Error(code, "as asked")
	}
}

func download(stream grpc.ServerStream) error {
	var m message
	if err := stream.RecvMsg(&m); err != nil {
		return err
	}
	for range number(&m) {
		if err := stream.SendMsg(&m); err != nil {
			return err
		}
	}
	return nil
}

func upload(stream grpc.ServerStream) error {
	var m message
	n := 0
	for ; ; n++ {
		if err := stream.RecvMsg(&m); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	return stream.SendMsg(&message{[]byte(strconv.Itoa(n))})
}

func chat(stream grpc.ServerStream) error {
	var m message
	for {
		if err := stream.RecvMsg(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&m); err != nil {
			return err
		}
	}
}

func sleep(stream grpc.ServerStream) error {
	var m message
	if err := stream.RecvMsg(&m); err != nil {
		return err
	}
	select {
	case <-stream.Context().Done():
		return stream.Context().Err()
	case <-time.After(time.Duration(number(&m)) * time.Millisecond):
	}
	return stream.SendMsg(&m)
}

var handlers = map[string]handler{
	"Echo": echo, "Before": echo, "Large": echo, "After": echo, "Sleep": sleep, "Download": download, "Upload": upload, "Chat": chat,
	"Missing": fail(codes.NotFound, false), "Late": fail(codes.NotFound, true),
	"Broken": fail(codes.Internal, false),
}

func serve() {
	server := grpc.NewServer(
		grpc.ForceServerCodec(raw{}), grpc.MaxRecvMsgSize(2*large),
		grpc.KeepaliveEnforcementPolicy(
			keepalive.EnforcementPolicy{MinTime: time.Millisecond, PermitWithoutStream: true}),
	)
	for _, name := range names {
		service := grpc.ServiceDesc{ServiceName: "wirespan.test." + name, HandlerType: (*any)(nil)}
		for method, handle := range handlers {
			service.Streams = append(service.Streams, grpc.StreamDesc{
				StreamName: method, ServerStreams: true, ClientStreams: true,
				Handler: func(_ any, stream grpc.ServerStream) error { return handle(stream) },
			})
		}
		server.RegisterService(&service, nil)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	must(server.Serve(listener))
}

// What the client says of a call.
type call struct {
	Method   string  `json:"method"`
	Status   string  `json:"status"`
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	Seconds  float64 `json:"seconds"`
}

var spellings = map[codes.Code]string{
	codes.OK: "OK", codes.Canceled: "CANCELLED", codes.NotFound: "NOT_FOUND",
	codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.Unimplemented: "UNIMPLEMENTED",
	codes.Internal: "INTERNAL", codes.Unavailable: "UNAVAILABLE", codes.Unknown: "UNKNOWN",
}

type client struct {
	connection *grpc.ClientConn
	service    string
	mutex      sync.Mutex
	calls      []call
}

func (c *client) note(done call, began time.Time) {
	done.Seconds = time.Since(began).Seconds()
	c.mutex.Lock()
	c.calls = append(c.calls, done)
	c.mutex.Unlock()
}

func (c *client) unary(ctx context.Context, method string, data []byte, options ...grpc.CallOption) {
	done := call{Method: method, Sent: 1}
	began := time.Now()
	var answer message
	err := c.connection.Invoke(ctx, c.service+"/"+method, &message{data}, &answer, options...)
	if err == nil {
		done.Received = 1
	}
	done.Status = spellings[status.Code(err)]
	c.note(done, began)
}

func (c *client) stream(ctx context.Context, method string, messages ...string) {
	done := call{Method: method}
	began := time.Now()
	stream, err := c.connection.NewStream(
		ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, c.service+"/"+method)
	must(err)
	var answer message
	for _, each := range messages {
		must(stream.SendMsg(&message{[]byte(each)}))
		done.Sent++
		if method == "Chat" {
			must(stream.RecvMsg(&answer))
			done.Received++
		}
	}
	must(stream.CloseSend())
	for {
		if err = stream.RecvMsg(&answer); err != nil {
			break
		}
		done.Received++
	}
	if err == io.EOF {
		err = nil
	}
	done.Status = spellings[status.Code(err)]
	c.note(done, began)
}

func dial(port, name string) *client {
	connection, err := grpc.NewClient(
		"127.0.0.1:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(2*large)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second}),
	)
	must(err)
	return &client{connection: connection, service: "/wirespan.test." + name}
}

// Until its protocol is known, only the first bytes of a connection's transfers are captured.
func recognised() { time.Sleep(200 * time.Millisecond) }

func keepBusy(port, name string) {
	c := dial(port, name)
	defer c.connection.Close()
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		c.unary(context.Background(), "Echo", []byte("hello"))
		c.unary(context.Background(), "Missing", []byte("hello"))
		time.Sleep(5 * time.Millisecond)
	}
	must(json.NewEncoder(os.Stdout).Encode(c.calls))
}

func ask(port, name string) {
	c := dial(port, name)
	defer c.connection.Close()
	background := context.Background()
	for range 5 {
		c.unary(background, "Echo", []byte("hello"))
	}
	recognised()
	c.unary(background, "Echo", nil)
	c.unary(background, "Missing", []byte("x"))
	c.unary(background, "Late", []byte("x"))
	c.unary(background, "Broken", []byte("x"))
	c.unary(background, "Nothing", []byte("x"))
	c.unary(background, "Echo", bytes.Repeat([]byte("z"), 10_000), grpc.UseCompressor("gzip"))
	c.stream(background, "Download", "7")
	c.stream(background, "Upload", "a", "b", "c")
	c.stream(background, "Chat", "a", "b", "c", "d")
	limited, stop := context.WithTimeout(background, 150*time.Millisecond)
	c.unary(limited, "Sleep", []byte("3000"))
	stop()
	cancelled, cancel := context.WithCancel(background)
	time.AfterFunc(100*time.Millisecond, cancel)
	c.unary(cancelled, "Sleep", []byte("3000"))
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { c.unary(background, "Sleep", []byte("30")) })
	}
	all.Wait()

	another := dial(port, name)
	defer another.connection.Close()
	another.unary(background, "Before", []byte("x"))
	recognised()
	another.unary(background, "Large", bytes.Repeat([]byte("L"), large))
	another.unary(background, "After", []byte("x"))
	c.calls = append(c.calls, another.calls...)
	must(json.NewEncoder(os.Stdout).Encode(c.calls))
}

// gRPC-Web.

func webEcho(_ context.Context, in *connect.Request[message]) (*connect.Response[message], error) {
	return connect.NewResponse(&message{in.Msg.data}), nil
}

func webFail(code connect.Code) func(
	context.Context, *connect.Request[message]) (*connect.Response[message], error) {
	return func(context.Context, *connect.Request[message]) (*connect.Response[message], error) {
		return nil, connect.NewError(code, errors.New("as asked"))
	}
}

func webDownload(
	_ context.Context, in *connect.Request[message], out *connect.ServerStream[message]) error {
	for range number(in.Msg) {
		if err := out.Send(&message{[]byte("part")}); err != nil {
			return err
		}
	}
	return nil
}

func serveWeb() {
	options := connect.WithCodec(raw{})
	mux := http.NewServeMux()
	for _, name := range names {
		service := "/wirespan.test." + name
		mux.Handle(service+"/Echo", connect.NewUnaryHandler(service+"/Echo", webEcho, options))
		for method, code := range map[string]connect.Code{
			"Missing": connect.CodeNotFound, "Broken": connect.CodeInternal} {
			path := service + "/" + method
			mux.Handle(path, connect.NewUnaryHandler(path, webFail(code), options))
		}
		path := service + "/Download"
		mux.Handle(path, connect.NewServerStreamHandler(path, webDownload, options))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: mux, Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	must(server.Serve(listener))
}

func askWeb(port, name, version string) {
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetHTTP1(version == "1.1")
	transport.Protocols.SetUnencryptedHTTP2(version == "2")
	c := &client{}
	background := context.Background()
	to := func(method string) *connect.Client[message, message] {
		url := "http://127.0.0.1:" + port + "/wirespan.test." + name + "/" + method
		return connect.NewClient[message, message](
			&http.Client{Transport: transport}, url, connect.WithGRPCWeb(),
			connect.WithCodec(raw{}), connect.WithAcceptCompression("gzip", nil, nil))
	}
	spell := func(err error) string {
		if err == nil {
			return "OK"
		}
		return spellings[codes.Code(connect.CodeOf(err))]
	}
	for _, method := range []string{"Echo", "Echo", "Missing", "Broken", "Nothing", "Echo"} {
		done := call{Method: method, Sent: 1}
		began := time.Now()
		_, err := to(method).CallUnary(background, connect.NewRequest(&message{[]byte("x")}))
		done.Status = spell(err)
		if err == nil {
			done.Received = 1
		}
		c.note(done, began)
	}
	done := call{Method: "Download", Sent: 1}
	began := time.Now()
	stream, err := to("Download").CallServerStream(
		background, connect.NewRequest(&message{[]byte("7")}))
	must(err)
	for stream.Receive() {
		done.Received++
	}
	done.Status = spell(stream.Err())
	c.note(done, began)
	must(json.NewEncoder(os.Stdout).Encode(c.calls))
}

func serveUpgrade() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	handle := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello\n")
	})
	must(http.Serve(listener, h2c.NewHandler(handle, &http2.Server{})))
}

func main() {
	switch os.Args[1] {
	case "server":
		serve()
	case "client":
		ask(os.Args[2], os.Args[3])
	case "busy":
		keepBusy(os.Args[2], os.Args[3])
	case "web-server":
		serveWeb()
	case "web-client":
		askWeb(os.Args[2], os.Args[3], os.Args[4])
	case "upgrade-server":
		serveUpgrade()
	}
}
