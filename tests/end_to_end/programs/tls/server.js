// SPDX-License-Identifier: Apache-2.0
// HTTPS servers of Node: `server.js https|http2 CERTIFICATE KEY`. Prints the port. The last part
// of a path is the size of the answer, or `missing`; the header X-Peer is the client's port.
const fs = require('fs');
const http2 = require('http2');
const https = require('https');

const [how, certificate, key] = process.argv.slice(2);
const options = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };

function answer(request, response) {
  request.resume();
  request.on('end', () => {
    const last = request.url.split('/').pop();
    const put = request.method === 'PUT';
    const body = last === 'missing' ? 'missing\n' : 'x'.repeat(put ? 0 : Number(last));
    response.statusCode = last === 'missing' ? 404 : put ? 201 : 200;
    response.setHeader('Content-Length', body.length);
    response.setHeader('X-Peer', request.socket.remotePort);
    response.end(body);
  });
}

const server = how === 'https'
  ? https.createServer({ ...options, keepAliveTimeout: 60_000 }, answer)
  : http2.createSecureServer({ ...options, allowHTTP1: true }, answer);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
