// An agent as anybody would write it: the MCP TypeScript SDK's client, pointed at
// the address that mayfly run gave it. It knows nothing of Mayfly.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const client = new Client({ name: 'agent', version: '1' });
await client.connect(new StreamableHTTPClientTransport(new URL(`${process.env.MAYFLY_MCP_URL}/everything`)));

const { tools } = await client.listTools();
console.log('tools it sees:', tools.map((t) => t.name).join(', '));

const said = await client.callTool({ name: 'echo', arguments: { message: 'hello' } });
console.log('echo:', said.content[0].text);

const sum = await client.callTool({ name: 'get-sum', arguments: { a: 1, b: 2 } }).catch((e) => ({ isError: true, content: [{ text: e.message }] }));
console.log('get-sum:', sum.isError ? 'refused,' : '', sum.content[0].text);
await client.close();
