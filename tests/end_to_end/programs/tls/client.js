// SPDX-License-Identifier: Apache-2.0
// HTTPS clients of Node: `client.js https|fetch|http2|wait`. Reads a job as one line of JSON, and
// prints as JSON what it has asked and got; tests/end_to_end/tls_clients.py says what is in both.
// The certificate authority is in NODE_EXTRA_CA_CERTS.
const http2 = require('http2');
const https = require('https');
const readline = require('readline');

function overHttps(job) {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
  const ask = ([method, path, size]) => new Promise((resolve, reject) => {
    const options = {
      host: '127.0.0.1', port: job.port, agent, method, path,
      headers: size || method === 'PUT' ? { 'Content-Length': size } : {},
    };
    const request = https.request(options, (response) => {
      let length = 0;
      const local = response.socket.localPort;
      response.on('data', (part) => { length += part.length; });
      response.on('end', () => resolve({
        path, status: response.statusCode, length, peer: Number(response.headers['x-peer']) || 0, local,
      }));
    });
    request.on('error', reject);
    request.end(size ? Buffer.alloc(size, 'y') : undefined);
  });
  return { ask, close: () => agent.destroy() };
}

function overFetch(job) {
  const ask = async ([method, path, size]) => {
    const body = size ? Buffer.alloc(size, 'y') : undefined;
    const response = await fetch(`https://127.0.0.1:${job.port}${path}`, { method, body });
    const { byteLength } = await response.arrayBuffer();
    const peer = Number(response.headers.get('x-peer')) || 0;
    return { path, status: response.status, length: byteLength, peer, local: 0 };
  };
  return { ask, close: () => {} };
}

function overHttp2(job) {
  const session = http2.connect(`https://127.0.0.1:${job.port}`);
  const ask = ([method, path, size]) => new Promise((resolve, reject) => {
    const stream = session.request({ ':method': method, ':path': path }, { endStream: !size });
    const done = { path, status: 0, length: 0, peer: 0, local: session.socket.localPort };
    stream.on('response', (headers) => {
      done.status = headers[':status'];
      done.peer = Number(headers['x-peer']) || 0;
    });
    stream.on('data', (part) => { done.length += part.length; });
    stream.on('error', reject);
    stream.on('close', () => resolve(done));
    if (size) stream.end(Buffer.alloc(size, 'y'));
  });
  return { ask, close: () => session.close(), ready: new Promise((done) => session.once('connect', done)) };
}

async function main(how) {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const line = async () => (await lines.next()).value;
  const job = JSON.parse(await line());
  const connections = [];
  for (let index = 0; index < job.connections; index += 1) connections.push(how(job));
  const done = [];
  const shares = connections.map((_, index) => job.asks.filter((__, at) => at % job.connections === index));
  const run = (from, to) => Promise.all(connections.map(async (connection, index) => {
    await connection.ready;
    for (const each of shares[index].slice(from, to)) done.push(await connection.ask(each));
  }));
  await run(0, job.pause);
  if (job.pause) {
    console.log('paused');
    await line();
  }
  await run(job.pause);
  console.log(JSON.stringify(done));
  for (const each of connections) each.close();
  process.exit(0);
}

if (process.argv[2] === 'wait') process.stdin.resume();
else main({ https: overHttps, fetch: overFetch, http2: overHttp2 }[process.argv[2]]);
