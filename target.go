package mayfly

// Target is an outside system that tasks act on, as the configuration names it.
type Target struct {
	Name string
	Kind string // "mcp" or "http"
	URL  string // where it is; never shown to an agent
	// Credential, if set, is attached to every call that is allowed.
	Credential *TargetCredential
}

// TargetCredential is what the gateway adds for a target: a header and its value.
type TargetCredential struct {
	Header string
	Value  Secret
}
