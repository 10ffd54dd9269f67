// Logs a person in at the provider by the authorization code flow with PKCE, as a
// browser would, and prints the ID token.
//   node login.mjs ISSUER PERSON
import { createHash, randomBytes } from 'node:crypto';

const [issuer, person] = process.argv.slice(2);
const redirect = 'http://127.0.0.1/callback';
const verifier = randomBytes(32).toString('base64url');
const state = randomBytes(16).toString('base64url');
const cookies = new Map();

// step sends one request with the cookies so far, and keeps those of the answer.
async function step(url, form) {
  const answer = await fetch(url, {
    method: form ? 'POST' : 'GET',
    body: form && new URLSearchParams(form),
    redirect: 'manual',
    headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
  });
  for (const line of answer.headers.getSetCookie()) {
    const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
    if (value) cookies.set(name, value); else cookies.delete(name);
  }
  return answer;
}

// follow goes from redirect to redirect until there is a page, or our callback.
async function follow(answer, at) {
  while (answer.status >= 300 && answer.status < 400) {
    const next = new URL(answer.headers.get('location'), at);
    if (next.href.startsWith(redirect)) return { done: next };
    at = next.href;
    answer = await step(at);
  }
  if (!answer.ok) throw new Error(`${at}: ${answer.status} ${await answer.text()}`);
  return { page: await answer.text(), at };
}

const configuration = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
const start = new URL(configuration.authorization_endpoint);
start.search = new URLSearchParams({
  client_id: 'mayfly', response_type: 'code', redirect_uri: redirect, scope: 'openid email groups', state,
  code_challenge: createHash('sha256').update(verifier).digest('base64url'), code_challenge_method: 'S256',
});
let { page, at, done } = await follow(await step(start.href), start.href);
for (let forms = 0; !done && forms < 3; forms++) { // the login form, then the consent form
  const action = page.match(/<form[^>]*action="([^"]+)"/)[1];
  const prompt = page.match(/name="prompt" value="([^"]+)"/)[1];
  const form = prompt === 'login' ? { prompt, login: person, password: 'any' } : { prompt };
  const url = new URL(action, at).href;
  ({ page, at, done } = await follow(await step(url, form), url));
}
if (!done || done.searchParams.get('state') !== state) throw new Error('the login did not come back with a code');
const answer = await fetch(configuration.token_endpoint, {
  method: 'POST',
  body: new URLSearchParams({
    grant_type: 'authorization_code', client_id: 'mayfly', code: done.searchParams.get('code'), redirect_uri: redirect, code_verifier: verifier,
  }),
});
const tokens = await answer.json();
if (!tokens.id_token) throw new Error(JSON.stringify(tokens));
console.log(tokens.id_token);
