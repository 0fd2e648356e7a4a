// Asks vaultd with node-vault: a request as JSON a line on standard input, its result on standard output.
'use strict';

const http = require('http');
const readline = require('readline');
const vault = require('node-vault');

async function ask(request) {
  const config = { endpoint: request.url, token: request.token || undefined };
  if (request.socket) {
    config.requestOptions = { httpAgent: new http.Agent({ socketPath: request.socket }) };
  }
  const client = vault(config);
  const { op, path } = request;
  if (op === 'read') {
    const found = (await client.read(`secret/data/${path}${request.version ? `?version=${request.version}` : ''}`)).data;
    return { data: found.data, version: found.metadata.version };
  }
  if (op === 'metadata') {
    const found = (await client.read(`secret/metadata/${path}`)).data;
    return { version: found.current_version, keys: Object.keys(found.versions).sort() };
  }
  if (op === 'list') {
    return { keys: (await client.list(`secret/metadata/${path}`)).data.keys };
  }
  if (op === 'lookup') {
    const found = (await client.tokenLookupSelf()).data;
    return { data: { id: found.id }, keys: found.policies };
  }
  if (op === 'renew') {
    return { data: await client.tokenRenewSelf() };
  }
  if (op === 'write') {
    return { data: await client.write(`secret/data/${path}`, { data: { a: 'b' } }) };
  }
  if (op === 'health') {
    const [health, status, init] = [await client.health(), await client.status(), await client.initialized()];
    return { data: { ready: health.initialized && !status.sealed && init.initialized } };
  }
  throw new Error(op);
}

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  let result;
  try {
    result = await ask(JSON.parse(line));
  } catch (error) {
    result = { status: error.response ? error.response.statusCode : 0, error: error.message };
  }
  console.log(JSON.stringify(result));
});
