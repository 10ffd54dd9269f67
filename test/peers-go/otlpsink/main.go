// Otlpsink is a collector of OpenTelemetry's that understands what it is told with
// OpenTelemetry's own decoder, and says so on standard output, a line for each span
// and each log record. Its address is the first line.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// told is one span or log record.
type told struct {
	What       string         `json:"what"` // span or log
	Service    any            `json:"service"`
	Name       string         `json:"name"`
	Trace      string         `json:"trace"`
	Span       string         `json:"span"`
	Parent     string         `json:"parent"`
	Start      uint64         `json:"start"`
	End        uint64         `json:"end"`
	Status     string         `json:"status"`
	Attributes map[string]any `json:"attributes"`
}

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("http://" + l.Addr().String())
	out := json.NewEncoder(os.Stdout)
	http.HandleFunc("POST /v1/traces", handle(func(body []byte) error {
		all, err := new(ptrace.JSONUnmarshaler).UnmarshalTraces(body)
		if err != nil {
			return err
		}
		for _, r := range all.ResourceSpans().All() {
			for _, scope := range r.ScopeSpans().All() {
				for _, s := range scope.Spans().All() {
					err := out.Encode(told{
						What: "span", Service: r.Resource().Attributes().AsRaw()["service.name"], Name: s.Name(), Trace: s.TraceID().String(), Span: s.SpanID().String(),
						Parent: s.ParentSpanID().String(), Start: uint64(s.StartTimestamp()), End: uint64(s.EndTimestamp()), Status: s.Status().Code().String(), Attributes: s.Attributes().AsRaw(),
					})
					if err != nil {
						return err
					}
				}
			}
		}
		return nil
	}))
	http.HandleFunc("POST /v1/logs", handle(func(body []byte) error {
		all, err := new(plog.JSONUnmarshaler).UnmarshalLogs(body)
		if err != nil {
			return err
		}
		for _, r := range all.ResourceLogs().All() {
			for _, scope := range r.ScopeLogs().All() {
				for _, l := range scope.LogRecords().All() {
					err := out.Encode(told{
						What: "log", Service: r.Resource().Attributes().AsRaw()["service.name"], Name: l.EventName(), Trace: l.TraceID().String(), Span: l.SpanID().String(),
						Start: uint64(l.Timestamp()), Status: l.SeverityNumber().String(), Attributes: l.Attributes().AsRaw(),
					})
					if err != nil {
						return err
					}
				}
			}
		}
		return nil
	}))
	log.Fatal(http.Serve(l, nil))
}

func handle(take func([]byte) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil && r.Header.Get("Content-Type") != "application/json" {
			err = fmt.Errorf("the content type is %q", r.Header.Get("Content-Type"))
		}
		if err == nil {
			err = take(body)
		}
		if err != nil {
			log.Print(err)
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
}
