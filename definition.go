package mayfly

import (
	"slices"

	"github.com/go-json-experiment/json"
)

// annotations are what a tool says of itself; each stands for a label where it is
// true.
type annotations struct {
	ReadOnly    bool `json:"readOnlyHint"`
	Destructive bool `json:"destructiveHint"`
	Idempotent  bool `json:"idempotentHint"`
	OpenWorld   bool `json:"openWorldHint"`
}

// ReadDefinition is what an MCP tool's definition says to policies: labels by its
// annotations, sorted, and the types of its arguments by its input schema. What
// it says in another form says nothing. The error is of kind Invalid.
func ReadDefinition(definition []byte) (labels []string, types map[string]FactType, err error) {
	var d struct {
		Annotations annotations `json:"annotations"`
		InputSchema struct {
			Properties map[string]struct {
				Type  any `json:"type"`
				Items struct {
					Type any `json:"type"`
				} `json:"items"`
			} `json:"properties"`
		} `json:"inputSchema"`
	}
	if err := json.Unmarshal(definition, &d); err != nil {
		return nil, nil, Errorf(Invalid, "the definition of a tool cannot be read: %w", err)
	}
	for label, is := range map[string]bool{
		"read-only": d.Annotations.ReadOnly, "destructive": d.Annotations.Destructive,
		"idempotent": d.Annotations.Idempotent, "open-world": d.Annotations.OpenWorld,
	} {
		if is {
			labels = append(labels, label)
		}
	}
	slices.Sort(labels)
	for name, p := range d.InputSchema.Properties {
		var t FactType
		switch p.Type {
		case "string":
			t = FactString
		case "integer":
			t = FactLong
		case "number":
			t = FactDecimal
		case "boolean":
			t = FactBool
		case "array":
			if p.Items.Type == "string" {
				t = FactStrings
			}
		}
		if t != "" {
			if types == nil {
				types = map[string]FactType{}
			}
			types[name] = t
		}
	}
	return labels, types, nil
}
