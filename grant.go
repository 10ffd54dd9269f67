package mayfly

// Grant is one thing a task may do.
type Grant struct {
	Kind   string // mcp, http
	Target string
	// Action is a tool name, or METHOD:/path. "*" alone, or at the end, stands
	// for one or more of any character.
	Action string
	Where  Where
	Budget Budget
}

// Where maps an argument (a top-level name, or a JSON Pointer) to what it must be.
type Where map[string]Constraint
type Constraint struct{}
type Budget struct{ Calls int64 }
type Arguments struct{}
