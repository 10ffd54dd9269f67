package mayfly

// FactType is the type that a fact has in policies.
type FactType string

// The types of facts. Each is a type of Cedar's; a decimal has at most four
// decimals, a long is a whole number of 64 bits.
const (
	FactString  FactType = "string"
	FactDecimal FactType = "decimal"
	FactLong    FactType = "long"
	FactBool    FactType = "bool"
	FactStrings FactType = "strings" // a set of strings
)

// Fact is one argument that policies may see and records keep.
type Fact struct {
	Name string // a top-level name or JSON Pointer, as in a [Where]
	Type FactType
	// Soft is a fact that no one declared, but a grant names: where a call's
	// argument is of another type it is left out. A declared one refuses the call.
	Soft bool
}

// Facts are the declared arguments of one call, by name.
type Facts map[string]FactValue

// FactValue is one fact. Exactly the field that Type names is set.
type FactValue struct {
	Type    FactType
	String  string
	Decimal int64 // in ten-thousandths
	Long    int64
	Bool    bool
	Strings []string // sorted, each once
}
