package server

import (
	_ "embed"
	"regexp"

	"github.com/mayfly-id/mayfly"
)

// clientAlgs are the algorithms that client assertions may be signed with.
var clientAlgs = []string{"ES256", "EdDSA", "RS256"}

// metadata is the authorization server's metadata (RFC 8414 section 2). It says
// what there is and no more; scopes are left out because they name targets.
type metadata struct {
	Issuer                string   `json:"issuer"`
	TokenEndpoint         string   `json:"token_endpoint"`
	JWKS                  string   `json:"jwks_uri"`
	IntrospectionEndpoint string   `json:"introspection_endpoint"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	ResponseTypes         []string `json:"response_types_supported"` // required, and none: there is no authorization endpoint
	GrantTypes            []string `json:"grant_types_supported"`
	TokenAuth             []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgs         []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	IntrospectionAuth     []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectionAuthAlgs []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	RevocationAuth        []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAuthAlgs    []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	DPoPAlgs              []string `json:"dpop_signing_alg_values_supported"`
	DetailTypes           []string `json:"authorization_details_types_supported"`
}

// publicMaxAge is how long what is the same for all may be kept by caches. The
// key set depends on it: a key is published longer than this before it signs.
const publicMaxAge = "public, max-age=300"

// serverMetadata answers with the authorization server's metadata, under both of
// its names.
func serverMetadata(c *call) error {
	issuer := c.s.a.Bundle().Issuer
	assertion := []string{"private_key_jwt"}
	c.w.Header().Set("Cache-Control", publicMaxAge)
	c.write(c.route.status, typeJSON, metadata{
		Issuer:                issuer,
		TokenEndpoint:         issuer + "/oauth2/token",
		JWKS:                  issuer + "/oauth2/jwks",
		IntrospectionEndpoint: issuer + "/oauth2/introspect",
		RevocationEndpoint:    issuer + "/oauth2/revoke",
		ResponseTypes:         []string{},
		GrantTypes:            []string{grantExchange},
		TokenAuth:             []string{"private_key_jwt", "none"}, // none: an actor token or a ticket speaks for the agent
		TokenAuthAlgs:         clientAlgs,
		IntrospectionAuth:     assertion,
		IntrospectionAuthAlgs: clientAlgs,
		RevocationAuth:        assertion,
		RevocationAuthAlgs:    clientAlgs,
		DPoPAlgs:              []string{"ES256", "EdDSA"},
		DetailTypes:           []string{mayfly.GrantType},
	})
	return nil
}

// resource is a protected resource's metadata (RFC 9728 section 2).
type resource struct {
	Resource    string   `json:"resource"`
	Servers     []string `json:"authorization_servers"`
	Methods     []string `json:"bearer_methods_supported"`
	DPoPAlgs    []string `json:"dpop_signing_alg_values_supported"`
	DetailTypes []string `json:"authorization_details_types_supported"`
}

// targetName is what a target can be called.
var targetName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// resourceMetadata answers with the metadata of the API itself, or of one
// target at the gateway. It is asked for by strangers, so it says the same of
// every name that a target could have, whether there is one or not: which
// exist, and what they offer, is for those who may use them.
func resourceMetadata(c *call) error {
	name, perTarget := c.values["target"]
	if perTarget && !targetName.MatchString(name) {
		return mayfly.Errorf(mayfly.NotFound, "no target can have this name")
	}
	issuer := c.s.a.Bundle().Issuer
	c.w.Header().Set("Cache-Control", publicMaxAge)
	c.write(c.route.status, typeJSON, resource{
		Resource:    issuer + c.r.URL.EscapedPath()[len("/.well-known/oauth-protected-resource"):],
		Servers:     []string{issuer},
		Methods:     []string{"header"},
		DPoPAlgs:    []string{"ES256", "EdDSA"},
		DetailTypes: []string{mayfly.GrantType},
	})
	return nil
}

// jwks answers with the keys that verify our tokens (RFC 7517).
func jwks(c *call) error {
	c.w.Header().Set("Cache-Control", publicMaxAge)
	c.write(c.route.status, c.route.answer, c.s.a.JWKS())
	return nil
}

//go:embed openapi.json
var openAPIDocument []byte

// OpenAPI is the OpenAPI 3.1 document of the API. The caller must not change it.
func OpenAPI() []byte { return openAPIDocument }

// openAPI answers with the document that describes this API.
func openAPI(c *call) error {
	c.w.Header().Set("Cache-Control", publicMaxAge)
	c.writeBytes(c.route.status, typeJSON, openAPIDocument)
	return nil
}

type status struct {
	Status string `json:"status"`
}

// healthy says that the process answers.
func healthy(c *call) error {
	c.write(c.route.status, typeJSON, status{"ok"})
	return nil
}

// ready says whether this node can act: 503 says why not.
func ready(c *call) error {
	if err := c.s.a.Ready(c.ctx()); err != nil {
		return err
	}
	c.write(c.route.status, typeJSON, status{"ready"})
	return nil
}
