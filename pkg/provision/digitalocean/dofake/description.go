package dofake

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

//go:embed digitalocean.json
var text []byte

// A description says which requests and answers an API has.
type description struct{ doc *openapi3.T }

// load reads the description, once: it takes a second. It is not validated as a
// whole, as one of its examples does not hold against its own schema.
var load = sync.OnceValues(func() (*description, error) {
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, fmt.Errorf("load description of DigitalOcean's API: %w", err)
	}
	for _, schema := range doc.Components.Schemas {
		for _, property := range schema.Value.Properties {
			for _, part := range property.Value.AllOf {
				// A schema that only describes in words allows everything, null too
				// (OpenAPI 3.0.3, "nullable"). The filter has it refuse null.
				part.Value.Nullable = part.Value.Nullable || part.Ref == "" && part.Value.IsEmpty()
			}
		}
	}
	return &description{doc}, nil
})

// options has everything checked that can be.
var options = openapi3filter.Options{
	IncludeResponseStatus:             true,
	RejectWhenRequestBodyNotSpecified: true,
	SkipSettingDefaults:               true,
	AuthenticationFunc: func(_ context.Context, in *openapi3filter.AuthenticationInput) error {
		// Whose token it is, the account says. That there is one, the description.
		if !strings.HasPrefix(in.RequestValidationInput.Request.Header.Get("Authorization"), "Bearer ") {
			return in.NewError(errors.New("no bearer token"))
		}
		return nil
	},
	SchemaValidationOptions: []openapi3.SchemaValidationOption{
		openapi3.DisableSchemaErrorDetails(),
		openapi3.EnableFormatValidation(),
		openapi3.WithStringFormatValidator("ipv4", openapi3.NewIPValidator(true)),
		openapi3.WithStringFormatValidator("ipv6", openapi3.NewIPValidator(false)),
		openapi3.WithStringFormatValidator("uuid", openapi3.NewRegexpFormatValidator(openapi3.FormatOfStringForUUIDOfRFC4122)),
		openapi3.WithStringFormatValidator("uri", openapi3.NewCallbackValidator(func(s string) error {
			_, err := url.ParseRequestURI(s)
			return err
		})),
	},
}

// A judge holds the answer to one request against the description.
type judge struct {
	in *openapi3filter.RequestValidationInput
}

// request holds a request against the description. The judge of its answer is nil
// when the description does not have the operation at all.
func (d *description) request(op string, r *http.Request, body []byte) (*judge, error) {
	method, path, _ := strings.Cut(op, " ")
	item := d.doc.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		return nil, errors.New("no such operation")
	}
	operation := item.GetOperation(method)
	in := &openapi3filter.RequestValidationInput{
		Request:    r,
		PathParams: map[string]string{},
		Route:      &routers.Route{Spec: d.doc, Path: path, PathItem: item, Method: method, Operation: operation},
		Options:    &options,
	}
	declared := slices.Concat(item.Parameters, operation.Parameters)
	var names []string // of parameters in the query
	for _, p := range declared {
		switch p.Value.In {
		case openapi3.ParameterInPath:
			in.PathParams[p.Value.Name] = r.PathValue(p.Value.Name)
		case openapi3.ParameterInQuery:
			names = append(names, p.Value.Name)
		}
	}
	j := &judge{in}
	for name := range r.URL.Query() {
		if !slices.Contains(names, name) {
			return j, fmt.Errorf("query has %q, which is none of %q", name, names)
		}
	}
	if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
		return j, err
	}
	// An operation without a body may come with an empty one.
	if len(body) == 0 || operation.RequestBody == nil {
		return j, nil
	}
	return j, strangers(operation.RequestBody.Value.Content.Get("application/json"), body)
}

// answer holds an answer to the request against the description.
func (j *judge) answer(a reply) error {
	body, err := json.Marshal(a.body)
	if err != nil {
		return err
	}
	if a.body == nil {
		body = nil
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: j.in, Status: a.status, Header: a.header,
		Body: io.NopCloser(bytes.NewReader(body)), Options: &options,
	}
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		return err
	}
	responses := j.in.Route.Operation.Responses
	response := responses.Status(a.status)
	if response == nil {
		response = responses.Default()
	}
	content := response.Value.Content.Get("application/json")
	if content == nil && len(body) > 0 {
		return errors.New("it has a body, and should have none")
	}
	if len(body) == 0 {
		return nil
	}
	return strangers(content, body)
}

// strangers is an error when body has a member that its schema does not know. OpenAPI
// allows what is not forbidden; here it would hide misspelt names.
func strangers(content *openapi3.MediaType, body []byte) error {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	return stranger("", openapi3.SchemaRefs{content.Schema}, value)
}

// stranger looks at one value, which may be as any of the schemas.
func stranger(at string, schemas openapi3.SchemaRefs, value any) error {
	schemas = flatten(schemas)
	switch value := value.(type) {
	case []any:
		var items openapi3.SchemaRefs
		for _, s := range schemas {
			if s.Value.Items != nil {
				items = append(items, s.Value.Items)
			}
		}
		for i, v := range value {
			if err := stranger(fmt.Sprintf("%s[%d]", at, i), items, v); err != nil {
				return err
			}
		}
	case map[string]any:
		described := slices.ContainsFunc(schemas, func(s *openapi3.SchemaRef) bool { return len(s.Value.Properties) > 0 })
		if !described {
			return nil
		}
		for name, v := range value {
			var properties openapi3.SchemaRefs
			for _, s := range schemas {
				if p := s.Value.Properties[name]; p != nil {
					properties = append(properties, p)
				}
			}
			if len(properties) == 0 {
				return fmt.Errorf("%s.%s is no member that it knows", at, name)
			}
			if err := stranger(at+"."+name, properties, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// flatten returns the schemas and all that they are made of.
func flatten(schemas openapi3.SchemaRefs) openapi3.SchemaRefs {
	var all openapi3.SchemaRefs
	for _, s := range schemas {
		all = append(all, s)
		all = append(all, flatten(slices.Concat(s.Value.AllOf, s.Value.AnyOf, s.Value.OneOf))...)
	}
	return all
}
