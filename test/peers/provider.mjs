// A real OpenID provider (npm oidc-provider) with two people and one client.
//   node provider.mjs PORT
// Its login form takes any password: this is a provider to try things with.
import Provider from 'oidc-provider';

const port = Number(process.argv[2] ?? 4400);
const people = {
  alice: { email: 'alice@example.org', email_verified: true, groups: ['accounts-payable'] },
  bob: { email: 'bob@example.org', email_verified: true, groups: ['finance-leads'] },
};

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{
    client_id: 'mayfly',
    token_endpoint_auth_method: 'none',
    application_type: 'native',
    redirect_uris: ['http://127.0.0.1/callback'],
  }],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], groups: ['groups'] },
  scopes: ['openid', 'email', 'groups'],
  conformIdTokenClaims: false, // put the claims into the ID token
  ttl: { IdToken: 600, AccessToken: 600, AuthorizationCode: 60, Grant: 600, Interaction: 600, Session: 600 },
  findAccount: (_, id) => people[id] && { accountId: id, claims: () => ({ sub: id, ...people[id] }) },
});

provider.listen(port, '127.0.0.1', () => console.log(`http://127.0.0.1:${port}`));
