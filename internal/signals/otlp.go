package signals

import (
	"bytes"
	"context"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Names of OpenTelemetry's semantic conventions that are used here, all in one
// place, because those of generative AI still move.
const (
	attrService        = "service.name"
	attrServiceVersion = "service.version"
	attrMCPMethod      = "mcp.method.name"
	attrTool           = "gen_ai.tool.name"
	attrOperation      = "gen_ai.operation.name"
	attrStatus         = "http.response.status_code"
	attrError          = "error.type"

	// Names of our own.
	attrDecision = "mayfly.decision"
	attrVerdict  = "mayfly.verdict"
	attrTerm     = "mayfly.term"
	attrTask     = "mayfly.task"
	attrTarget   = "mayfly.target"
	attrBundle   = "mayfly.bundle"
	attrPosition = "mayfly.log.position"
	attrID       = "mayfly.log.record"
	attrErased   = "mayfly.erased"
)

// otlp makes what an OpenTelemetry collector is told (OTLP 1.x over HTTP, in JSON): each
// record of the log as a log record, and each decided call as a span.
//
// All of it is made of the log, so a span is exported once its call has ended, and
// again under the same ids after a crash. Nothing else can be in it: no arguments,
// no results, no tokens, and of people what the record's body says of who they are.
type otlp struct {
	resource otlpResource
	scope    otlpScope
}

func newOTLP(issuer, version string) otlp {
	return otlp{
		resource: otlpResource{Attributes: []otlpAttribute{text(attrService, "mayfly"), text(attrServiceVersion, version), text("mayfly.issuer", issuer)}},
		scope:    otlpScope{Name: "mayfly", Version: version},
	}
}

type otlpResource struct {
	Attributes []otlpAttribute `json:"attributes"`
}

type otlpScope struct {
	Name    string `json:"name"`
	Version string `json:"version,omitzero"`
}

type otlpAttribute struct {
	Key   string    `json:"key"`
	Value otlpValue `json:"value"`
}

// otlpValue is one of its fields.
type otlpValue struct {
	String *string `json:"stringValue,omitempty"`
	Int    string  `json:"intValue,omitempty"` // 64-bit integers are text in JSON
	Bool   bool    `json:"boolValue,omitzero"`
}

func text(key, value string) otlpAttribute {
	return otlpAttribute{key, otlpValue{String: &value}}
}

func number(key string, value int64) otlpAttribute {
	return otlpAttribute{key, otlpValue{Int: strconv.FormatInt(value, 10)}}
}

// otlpLog is one record.
type otlpLog struct {
	Time         string          `json:"timeUnixNano"`
	Observed     string          `json:"observedTimeUnixNano"`
	Severity     int             `json:"severityNumber"`
	SeverityText string          `json:"severityText"`
	EventName    string          `json:"eventName"`
	Body         otlpValue       `json:"body"`
	Attributes   []otlpAttribute `json:"attributes"`
	TraceID      string          `json:"traceId,omitempty"`
	SpanID       string          `json:"spanId,omitempty"`
}

// otlpSpan is one decided call.
type otlpSpan struct {
	TraceID    string          `json:"traceId"`
	SpanID     string          `json:"spanId"`
	Parent     string          `json:"parentSpanId,omitempty"`
	Name       string          `json:"name"`
	Kind       int             `json:"kind"`
	Start      string          `json:"startTimeUnixNano"`
	End        string          `json:"endTimeUnixNano"`
	Attributes []otlpAttribute `json:"attributes"`
	Status     otlpStatus      `json:"status,omitzero"`
}

type otlpStatus struct {
	Message string `json:"message,omitempty"`
	Code    int    `json:"code"`
}

const (
	spanServer  = 2
	statusError = 2

	severityInfo  = 9
	severityWarn  = 13
	severityError = 17
)

func nanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }

// otlpBatch is what some records make.
type otlpBatch struct {
	Logs  []otlpLog
	Spans []otlpSpan
}

// add adds a record. body is its body, nil if the person it is about was erased.
// before finds the record of the decision that an outcome follows from.
func (o *otlp) add(b *otlpBatch, row *store.EventRow, body []byte, before func(decision string) (*store.EventRow, []byte, error)) error {
	l := otlpLog{
		Time: nanos(row.Time), Observed: nanos(row.Time), Severity: severityInfo, SeverityText: "INFO", EventName: "mayfly." + row.Kind,
		Body:       otlpValue{String: new(string)},
		Attributes: []otlpAttribute{text(attrID, row.ID), number(attrPosition, *row.Position)},
	}
	*l.Body.String = row.Kind
	for _, a := range []struct{ key, value string }{
		{attrTask, string(row.Task)}, {attrDecision, row.Decision}, {attrTerm, string(row.Term())}, {attrBundle, row.Bundle()},
	} {
		if a.value != "" {
			l.Attributes = append(l.Attributes, text(a.key, a.value))
		}
	}
	switch {
	case row.Kind == (mayfly.Alarm{}).Kind():
		l.Severity, l.SeverityText = severityError, "ERROR"
	case row.Term() != "" || row.Kind == (mayfly.LeaseStuck{}).Kind() || row.Kind == (mayfly.LogUnanchored{}).Kind() || row.Kind == (mayfly.ToolChanged{}).Kind():
		l.Severity, l.SeverityText = severityWarn, "WARN"
	}
	if body == nil {
		l.Attributes = append(l.Attributes, otlpAttribute{attrErased, otlpValue{Bool: true}})
	}
	span, err := o.span(row, body, before)
	if err != nil {
		return err
	}
	if span != nil {
		l.TraceID, l.SpanID = span.TraceID, span.SpanID
		if span.End != "" {
			b.Spans = append(b.Spans, *span)
		}
	}
	b.Logs = append(b.Logs, l)
	return nil
}

// span is the span that a record is of, nil if it is of none. It has an end where
// it is to be told now: with the outcome of a call, or where nothing follows.
func (o *otlp) span(row *store.EventRow, body []byte, before func(string) (*store.EventRow, []byte, error)) (*otlpSpan, error) {
	if body == nil {
		return nil, nil
	}
	var ended mayfly.CallEnded
	decided, of := body, row
	switch row.Kind {
	case mayfly.CallDecided{}.Kind():
	case mayfly.CallEnded{}.Kind():
		if err := json.Unmarshal(body, &ended); err != nil {
			return nil, err
		}
		var err error
		if of, decided, err = before(row.Decision); err != nil || decided == nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	var d mayfly.CallDecided
	if err := json.Unmarshal(decided, &d); err != nil {
		return nil, err
	}
	asked := mayfly.Trace{ID: d.Trace, Span: d.Span}
	if asked.ID == "" || !isTraceID(asked.ID) {
		return nil, nil // recorded before calls had a place, or only asked about
	}
	at := asked.Of(d.Decision.ID)
	s := &otlpSpan{TraceID: at.ID, SpanID: at.Span, Parent: asked.Span, Kind: spanServer, Name: spanName(&d), Start: nanos(of.Time)}
	s.Attributes = []otlpAttribute{
		text(attrDecision, d.Decision.ID), text(attrVerdict, string(d.Decision.Verdict)), text(attrTask, string(d.Task)), text(attrTarget, d.Target),
	}
	if d.Surface == "mcp" {
		s.Attributes = append(s.Attributes, text(attrMCPMethod, "tools/call"), text(attrOperation, "execute_tool"), text(attrTool, d.Action))
	}
	allowed := d.Decision.Verdict == mayfly.Allow
	switch {
	case !allowed:
		s.Attributes = append(s.Attributes, text(attrTerm, string(d.Decision.Term)))
		s.Status = otlpStatus{d.Decision.Reason, statusError}
	case ended.Outcome != "" && ended.Outcome != "answered":
		s.Attributes = append(s.Attributes, text(attrError, ended.Outcome))
		s.Status = otlpStatus{ended.Detail, statusError}
	}
	if ended.Status != 0 {
		s.Attributes = append(s.Attributes, number(attrStatus, int64(ended.Status)))
	}
	if ended.Outcome != "" || !allowed && row == of {
		s.End = nanos(row.Time)
	}
	if d.Unsampled {
		s.End = "" // whoever began the trace does not want it
	}
	return s, nil
}

// isTraceID reports whether id can be put into a trace of OpenTelemetry's.
func isTraceID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 16
}

// spanName is of few values: the method and the target, and the tool, of which a
// target has few, but not a path.
func spanName(d *mayfly.CallDecided) string {
	if d.Surface == "mcp" {
		return "tools/call " + d.Action
	}
	method, _, _ := bytes.Cut([]byte(d.Action), []byte(":"))
	return string(method) + " " + d.Target
}

// request is what a collector is told: list, under the names of a signal.
func (o *otlp) request(signal, member string, list any) ([]byte, error) {
	scope := map[string]any{"scope": o.scope, member: list}
	resource := map[string]any{"resource": o.resource, "scope" + signal: []any{scope}}
	return json.Marshal(map[string]any{"resource" + signal: []any{resource}})
}

// collecting tells an OpenTelemetry collector.
type collecting struct {
	x      *Exports
	to     httpPlace // of the base of its address
	bodies *store.Bodies
}

// otlpMost is how many records one request tells of.
const otlpMost = 500

// Tell tells the first of rows: their log records, then the spans that end in them.
func (c *collecting) Tell(ctx context.Context, rows []store.EventRow) (int, error) {
	rows = rows[:min(len(rows), otlpMost)]
	var b otlpBatch
	for i := range rows {
		body, err := c.bodies.Open(ctx, &rows[i])
		if mayfly.KindOf(err) == mayfly.Gone {
			body = nil
		} else if err != nil {
			return 0, err
		}
		if err := c.x.otlp.add(&b, &rows[i], body, func(id string) (*store.EventRow, []byte, error) { return c.decision(ctx, rows[:i], id) }); err != nil {
			return 0, err
		}
	}
	if err := c.send(ctx, "/v1/logs", "Logs", "logRecords", b.Logs); err != nil {
		return 0, err
	}
	if len(b.Spans) > 0 {
		if err := c.send(ctx, "/v1/traces", "Spans", "spans", b.Spans); err != nil {
			return 0, err
		}
	}
	return len(rows), nil
}

func (c *collecting) send(ctx context.Context, path, signal, member string, list any) error {
	text, err := c.x.otlp.request(signal, member, list)
	if err != nil {
		return err
	}
	return c.to.post(ctx, path, "application/json", text)
}

// decision is the record of a decision: mostly one of those just read.
func (c *collecting) decision(ctx context.Context, recent []store.EventRow, id string) (*store.EventRow, []byte, error) {
	open := func(row *store.EventRow) (*store.EventRow, []byte, error) {
		body, err := c.bodies.Open(ctx, row)
		if mayfly.KindOf(err) == mayfly.Gone {
			return row, nil, nil
		}
		return row, body, err
	}
	kind := (mayfly.CallDecided{}).Kind()
	for i := len(recent) - 1; i >= 0; i-- {
		if recent[i].Decision == id && recent[i].Kind == kind {
			return open(&recent[i])
		}
	}
	rows, err := c.x.o.DB.EventsByDecision(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	for i := range rows {
		if rows[i].Kind == kind {
			return open(&rows[i])
		}
	}
	return nil, nil, nil
}

// Close does nothing.
func (*collecting) Close() {}
