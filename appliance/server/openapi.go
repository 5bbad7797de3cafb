package server

import (
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"time"

	"roost/appliance/api"
)

// object is a JSON object under construction.
type object = map[string]any

// openAPI derives the OpenAPI 3.1 document from the table of routes and the types in it.
func (s *Server) openAPI(*call, []byte) (any, error) {
	schemas := &schemaSet{known: object{}}
	problem := schemas.of(reflect.TypeFor[api.Problem]())
	paths := object{}
	for _, r := range s.routes {
		operations, ok := paths[r.path].(object)
		if !ok {
			operations = object{}
			paths[r.path] = operations
		}
		operations[strings.ToLower(r.method)] = describe(r, schemas, problem)
	}
	return object{
		"openapi": "3.1.0",
		"info": object{"title": "Roost site control", "version": "1",
			"description": "Control plane of a Roost site. Callers are known by TLS client certificates; x-access says who may call an operation."},
		"paths": paths,
		"components": object{
			"schemas":         schemas.known,
			"securitySchemes": object{"certificate": object{"type": "mutualTLS"}},
		},
	}, nil
}

var inPath = regexp.MustCompile(`\{(\w+)\}`)

func describe(r route, schemas *schemaSet, problem object) object {
	operation := object{
		"operationId": identifier(r), "summary": r.summary, "x-access": string(r.access),
		"responses": object{"default": object{
			"description": "It failed; the body says why (RFC 9457).",
			"content":     object{"application/problem+json": object{"schema": problem}},
		}},
	}
	if r.access != anyone {
		operation["security"] = []any{object{"certificate": []any{}}}
	}
	var parameters []any
	for _, match := range inPath.FindAllStringSubmatch(r.path, -1) {
		parameters = append(parameters, object{"name": match[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for _, name := range r.query {
		parameters = append(parameters, object{"name": name, "in": "query", "schema": object{"type": "string"}})
	}
	if parameters != nil {
		operation["parameters"] = parameters
	}
	if r.in != nil {
		operation["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": schemas.input(r.in)}}}
	}
	responses := operation["responses"].(object)
	switch {
	case r.stream != nil:
		responses["200"] = object{"description": "Server-sent events; data is an Event, id its revision.",
			"content": object{"text/event-stream": object{"schema": schemas.of(reflect.TypeFor[api.Event]())}}}
	case r.path == "/v1/enrolment" && r.method == http.MethodGet:
		responses["202"] = object{"description": "Nothing is decided yet."}
		responses["200"] = answer(schemas.of(reflect.TypeFor[api.Grant]()))
	case r.out != nil:
		responses["200"] = answer(schemas.of(r.out))
	case r.method == http.MethodGet:
		responses["200"] = answer(object{"type": "object"})
	default:
		responses["204"] = object{"description": "It is done."}
	}
	return operation
}

func answer(schema object) object {
	return object{"description": "It is done.", "content": object{"application/json": object{"schema": schema}}}
}

// identifier makes a name for the operation: list hosts becomes listHosts.
func identifier(r route) string {
	words := strings.Fields(strings.NewReplacer(",", "").Replace(r.summary))
	for i := range words[1:] {
		words[i+1] = strings.ToUpper(words[i+1][:1]) + words[i+1][1:]
	}
	return strings.Join(words, "")
}

// schemaSet collects JSON Schemas of Go types, as encoding/json writes them.
type schemaSet struct{ known object }

func (s *schemaSet) of(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		return s.structure(t)
	}
	return object{}
}

// structure returns a reference to a named type, or the schema itself of one without a name.
func (s *schemaSet) structure(t reflect.Type) object {
	name := typeName(t)
	if name == "" {
		return s.properties(t)
	}
	if _, ok := s.known[name]; !ok {
		s.known[name] = nil // breaks cycles
		s.known[name] = s.properties(t)
	}
	return object{"$ref": "#/components/schemas/" + name}
}

func (s *schemaSet) properties(t reflect.Type) object {
	properties := object{}
	var required []string
	for _, field := range reflect.VisibleFields(t) { // those of embedded structures among them
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		properties[name] = s.of(field.Type)
		if options == "" {
			required = append(required, name)
		}
	}
	out := object{"type": "object", "properties": properties}
	if required != nil {
		out["required"] = required
	}
	return out
}

// input is the schema of a body that callers send: every field may be left out.
func (s *schemaSet) input(t reflect.Type) object {
	out := s.properties(t)
	delete(out, "required")
	return out
}

// typeName turns List[*roost/appliance/api.Host] into HostList.
func typeName(t reflect.Type) string {
	name, argument, generic := strings.Cut(t.Name(), "[")
	if !generic {
		if name == "" {
			return ""
		}
		return strings.ToUpper(name[:1]) + name[1:]
	}
	argument = strings.TrimSuffix(argument, "]")
	return argument[strings.LastIndex(argument, ".")+1:] + name
}
