// Hostile requests through the running proxy, in front of a backend that records every byte: a refused request never
// arrives, and nothing after it is read.

import t from 'tap';
import { codes } from '../../cert-agent/base/errors.ts';
import { requestVectors as vectors } from '../fixtures/codec.ts';
import { asArrived, exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';

t.test('requests that the codec refuses', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const mesh = await startMesh(t, { app: backend.port });
  // The codec alone does not know it; the proxy recognises it as HTTP/2.
  const hostile = vectors.filter(({ name, verdict }) => verdict in codes && name !== 'the preface of HTTP/2');
  t.ok(hostile.length > 40);
  for (const { name, bytes, verdict } of hostile) {
    const before = backend.received.length;
    const smuggled = `${bytes}GET /smuggled HTTP/1.1\r\nHost: orders\r\n\r\n`.replace(
      /Host: a\r\n/g,
      'Host: orders\r\n',
    );
    const got = await exchangeBytes(mesh.outPort, Buffer.from(smuggled, 'latin1'));
    t.match(got, new RegExp(`^HTTP/1\\.1 ${codes[verdict as keyof typeof codes].status} `), name);
    t.equal(got.split('HTTP/1.1 ').length, 2, `${name}: one response, and the connection closes`);
    const arrived = backend.received.slice(before).join('');
    t.notMatch(arrived, /smuggled/, `${name}: nothing after it is served`);
    // A truncated body was already begun when the error was found; it must not look complete.
    if (arrived !== '') t.notMatch(arrived, /\r\n0\r\n\r\n$/, `${name}: the received part is visibly truncated`);
  }
  const records = await mesh.records('web', hostile.length);
  for (const [index, { name, verdict }] of hostile.entries())
    t.equal(records[index]?.['code'], verdict, `${name} is on record`);
});

t.test('accepted requests arrive with the same meaning, byte by byte', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => {
    const body = soFar.slice(soFar.indexOf('\r\n\r\n') + 4);
    if (!/transfer-encoding/i.test(soFar) || /(?:^|\r\n)0\r\n(?:[^\r\n]+\r\n)*\r\n$/.test(body))
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: backend.port });
  const odd = vectors.filter(({ arrives }) => arrives !== undefined);
  t.ok(odd.length > 20);
  for (const { name, bytes, arrives } of odd) {
    const before = backend.received.length;
    t.match(await exchangeBytes(mesh.fixedPort, Buffer.from(bytes, 'latin1'), /ok$/), /^HTTP\/1\.1 200 /, name);
    t.equal(asArrived(backend.received.slice(before)), arrives, `${name}: the received bytes`);
  }
});

t.test('paths are normalised before policy, and the app gets the path that policy saw', async (t) => {
  const policy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: public, namespace: shop }
spec: { action: ALLOW, rules: [{ to: [{ operation: { paths: ["/public/*", "/a b", "/*.txt"] } }] }] }
`;
  const backend = await startBackend(t, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const mesh = await startMesh(t, { app: backend.port, policy });
  const cases: [string, number, string?][] = [
    ['/public/x', 200, '/public/x'],
    ['/public/../admin', 403],
    ['/public/%2e%2e/admin', 403],
    ['/public/%2E./admin', 403],
    ['/public/..\\admin', 403],
    ['/public\\..\\admin', 403],
    ['/public/./x/../y?q=../z', 200, '/public/y?q=../z'],
    ['/p%75blic/x', 200, '/public/x'],
    ['/public/%252e%252e/admin', 200, '/public/%252e%252e/admin'],
    ['/public/..%2fadmin', 200, '/public/..%2fadmin'],
    ['/public/%00', 400],
    ['/public/%zz', 400],
    ['/public/%4', 400],
    ['/../public/x', 400],
    ['/public/x#y', 400],
  ];
  for (const [path, status, arrives] of cases) {
    const before = backend.received.length;
    const got = await exchangeBytes(mesh.outPort, `GET ${path} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n`);
    t.match(got, new RegExp(`^HTTP/1\\.1 ${status} `), path);
    const arrived = backend.received.slice(before).map((one) => one.toString('latin1').split(' ')[1]);
    t.strictSame(arrived, arrives === undefined ? [] : [arrives], `what the app got of ${path}`);
  }
});
