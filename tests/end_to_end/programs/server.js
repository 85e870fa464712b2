// SPDX-License-Identifier: Apache-2.0
// Node's http server; prints the port that it listens on.
const http = require('http');

const BIG = 30_000_000;

const server = http.createServer((request, response) => {
  let received = 0;
  request.on('data', (data) => { received += data.length; });
  request.on('end', () => {
    const path = request.url;
    if (path.startsWith('/chunked')) {
      response.write('one');
      response.write('and two');
      response.end('x'.repeat(path.includes('large') ? 100_000 : 1_000));
      return;
    }
    if (path.startsWith('/big')) {
      response.setHeader('Content-Length', BIG);
      response.end(request.method === 'HEAD' ? undefined : Buffer.alloc(BIG));
      return;
    }
    const posted = request.method === 'POST' || request.method === 'PUT';
    const body = posted ? `${received}\n` : 'hello\n';
    response.statusCode = path.startsWith('/missing') ? 404 : 200;
    response.setHeader('Content-Length', body.length);
    response.end(request.method === 'HEAD' ? undefined : body);
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
