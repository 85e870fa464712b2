// SPDX-License-Identifier: Apache-2.0
// Node's http2 in clear text: `h2.js server` prints its port, `h2.js client PORT PATH` prints as
// JSON what it has asked and got, `h2.js busy PORT PATH SECONDS` goes on for so long.
const http2 = require('http2');

const BIG = 10_000_000;

function serve() {
  const server = http2.createServer();
  server.on('stream', (stream, headers) => {
    const path = headers[':path'];
    stream.on('error', () => {});
    stream.resume();
    const answer = (body, extra = {}) => {
      if (stream.destroyed) return;
      stream.respond({ ':status': 200, 'content-type': 'text/plain', ...extra });
      if (headers[':method'] === 'HEAD') stream.end(); else stream.end(body);
    };
    if (path.includes('/missing')) answer('', { ':status': 404 });
    else if (path.includes('/big')) answer(Buffer.alloc(BIG));
    else if (path.includes('/slow')) setTimeout(answer, 5000, 'late\n').unref();
    else if (path.includes('/pause')) setTimeout(answer, 300, 'hello\n');
    else if (path.includes('/put')) stream.on('end', () => answer('hello\n'));
    else if (path.includes('/trailers')) {
      stream.respond({ ':status': 200 }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'x-checksum': '1' }));
      stream.end('hello\n');
    } else if (path.includes('/push') && stream.pushAllowed) {
      stream.pushStream({ ':path': `${path}ed` }, (error, pushed) => {
        if (error) throw error;
        pushed.on('error', () => {});
        pushed.respond({ ':status': 200 });
        pushed.end('pushed\n');
        answer('hello\n');
      });
    } else answer('hello\n');
  });
  server.listen(0, '127.0.0.1', () => console.log(server.address().port));
  process.on('SIGTERM', () => process.exit(0));
}

function ask(session, method, path, body, cancelAfter) {
  return new Promise((resolve) => {
    const stream = session.request({ ':method': method, ':path': path }, { endStream: !body });
    const done = { path, method, status: 0, body: 0 };
    stream.on('response', (headers) => { done.status = headers[':status']; });
    stream.on('data', (part) => { done.body += part.length; });
    stream.on('error', () => {});
    stream.on('close', () => resolve(done));
    if (body) stream.end(body);
    if (cancelAfter) setTimeout(() => stream.close(http2.constants.NGHTTP2_CANCEL), cancelAfter);
  });
}

// Until its protocol is known, only the first bytes of each transfer of a connection are captured.
const recognised = () => new Promise((resolve) => setTimeout(resolve, 200));

async function client(port, prefix) {
  const all = [];
  let session = http2.connect(`http://127.0.0.1:${port}`);
  const one = async (...what) => all.push(await ask(session, ...what));
  session.on('stream', (pushed) => pushed.resume());
  for (let index = 0; index < 10; index += 1) await one('GET', `${prefix}/one/${index}`);
  await recognised();
  await one('GET', `${prefix}/missing`);
  await one('HEAD', `${prefix}/head`);
  await one('GET', `${prefix}/trailers`);
  await one('GET', `${prefix}/push`);
  await one('GET', `${prefix}/slow`, undefined, 100);
  await Promise.all([...Array(100).keys()].map((each) => one('GET', `${prefix}/many/${each}`)));
  session.close();

  session = http2.connect(`http://127.0.0.1:${port}`);
  await one('GET', `${prefix}/large/before`);
  await recognised();
  await one('GET', `${prefix}/large/big`);
  await one('PUT', `${prefix}/large/put`, Buffer.alloc(BIG));
  for (let index = 0; index < 3; index += 1) await one('GET', `${prefix}/large/after/${index}`);
  console.log(JSON.stringify(all));
  session.close();
}

async function busy(port, prefix, seconds) {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  const until = Date.now() + seconds * 1000;
  const all = [];
  for (let index = 0; Date.now() < until; index += 1) {
    all.push(await ask(session, index % 2 ? 'GET' : 'POST', `${prefix}/busy/${index}`));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  console.log(JSON.stringify(all));
  session.close();
}

const [mode, port, prefix, seconds] = process.argv.slice(2);
({ server: serve, client, busy })[mode](port, prefix, Number(seconds));
