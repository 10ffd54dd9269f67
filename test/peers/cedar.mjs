// Cedar as those who define it wrote it. The tests of internal/policy ask it what
// they ask Mayfly, one question a line, and get one line of answer for each: which
// policies, each alone, say something to a request, and which err; or, of a
// question with a schema, which policies do not fit it.
import { createInterface } from 'node:readline';
import cedar from '@cedar-policy/cedar-wasm/nodejs';

const refused = (errors) => ({ refused: errors.map((e) => e.message).join('; ') || 'for no reason' });

function authorize({ policies, ...request }) {
  const said = { satisfied: [], erred: [] };
  for (const [id, policy] of Object.entries(policies)) {
    const answer = cedar.isAuthorized({ ...request, policies: { staticPolicies: { [id]: policy } } });
    if (answer.type !== 'success') return refused(answer.errors);
    const { reason, errors } = answer.response.diagnostics;
    if (errors.length > 0) said.erred.push(id);
    else if (reason.length > 0) said.satisfied.push(id);
  }
  return said;
}

function validate({ policies, schema }) {
  const parsed = cedar.checkParseSchema(schema);
  if (parsed.type !== 'success') return refused(parsed.errors);
  const said = cedar.validate({ schema, policies: { staticPolicies: policies } });
  if (said.type !== 'success') return refused(said.errors);
  const problems = {};
  for (const { policyId, error } of said.validationErrors) problems[policyId] = error.message;
  return { problems };
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const question = JSON.parse(line);
  const answer = question.schema === undefined ? authorize(question) : validate(question);
  process.stdout.write(JSON.stringify(answer) + '\n');
}
