// A body that came in chunks, and is whole when the client gets its head, is sent with its length. Bytes of a body must
// never be read as chunks, or as another response.

import { connect } from 'node:net';
import t from 'tap';
import { startCached } from '../../fixtures/cached.ts';

const injected = '0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nEVIL!';

t.test('chunked bodies of all sizes arrive unchanged', async (t) => {
  const world = await startCached(t);
  for (const body of ['', 'short', 'x'.repeat(2000), 'y'.repeat(200_000), injected])
    for (const cacheControl of ['max-age=60', 'no-store']) {
      const path = `/${cacheControl.slice(0, 3)}/${body.length}`;
      world.say((_, answer) => {
        answer.writeHead(200, { 'cache-control': cacheControl });
        // In one write, which Node sends as a chunk; and an empty one as none.
        if (body === '') answer.flushHeaders();
        answer.end(body);
      });
      for (const turn of ['first', 'second']) {
        const { status, body: got } = await world.get(path);
        t.equal(status, 200);
        t.ok(got.toString() === body, `${turn} of ${body.length} bytes, ${cacheControl}`);
      }
    }
});

t.test('a body cannot become another response on the same connection', async (t) => {
  const world = await startCached(t);
  world.say((asked, answer) => {
    answer.writeHead(200, { 'cache-control': 'max-age=60' });
    answer.end(asked.url === '/a' ? injected : 'good');
  });
  const socket = connect(world.gateway.port('default/g:80'), '127.0.0.1');
  t.teardown(() => socket.destroy());
  let text = '';
  const request = (path: string, more = ''): string => `GET ${path} HTTP/1.1\r\nhost: a.test\r\n${more}\r\n`;
  socket.write(request('/a') + request('/b', 'connection: close\r\n'));
  for await (const part of socket.setEncoding('utf8')) text += part;
  const heads = text.match(/HTTP\/1\.1 \d+|content-length: \d+|transfer-encoding/gi) ?? [];
  t.match(
    heads.map((one) => one.toLowerCase()),
    ['http/1.1 200', `content-length: ${injected.length}`, 'http/1.1 200', 'content-length: 5', 'http/1.1 200'],
  );
});
