// SPDX-License-Identifier: Apache-2.0
// Node's http client with a keep-alive agent: `client.js PORT NUMBER PATH`. Prints as JSON
// what each request took and what crossed its sockets.
const http = require('http');

const [port, number, path] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4]];
const agent = new http.Agent({ keepAlive: true, maxSockets: 2 });
const sockets = new Map();

function ask(index) {
  return new Promise((resolve, reject) => {
    const options = { port, host: '127.0.0.1', agent, path: `${path}/${index}` };
    const request = http.get(options, (response) => {
      const status = response.statusCode;
      response.resume();
      response.on('end', () => resolve(status));
    });
    request.on('socket', (socket) => {
      const note = () => sockets.set(socket.localPort, socket);
      if (socket.connecting) socket.once('connect', note); else note();
    });
    request.on('error', reject);
  });
}

async function main() {
  const statuses = await Promise.all([...Array(number).keys()].map(ask));
  const all = [...sockets.values()];
  console.log(JSON.stringify({
    statuses,
    ports: [...sockets.keys()],
    sent: all.reduce((sum, each) => sum + each.bytesWritten, 0),
    received: all.reduce((sum, each) => sum + each.bytesRead, 0),
  }));
  agent.destroy();
}
main();
