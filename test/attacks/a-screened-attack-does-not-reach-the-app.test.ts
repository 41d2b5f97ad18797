// Under a RequestScreening that blocks, an attack does not reach the app, in whatever part, framing, coding or
// encoding it comes: on a gateway and on a sidecar, over real sockets. Its text is not in the log.

import { connect } from 'node:net';
import { gzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { startMesh } from '../fixtures/mesh.ts';
import { serviceOf, webGateway, webRoute } from '../fixtures/plan.ts';

interface Door {
  readonly port: number;
  readonly host: string;
  records(count: number): Promise<Record<string, unknown>[]>;
}

/** Everything up to the end of the connection. */
function sendRaw(port: number, bytes: string | Buffer): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    let text = '';
    socket.setEncoding('latin1').on('data', (piece) => {
      text += piece;
    });
    socket.on('end', () => resolve(text)).on('error', reject);
  });
}

const union = "1' union select name, password from users --";
const xss = '<img src=x onerror=alert(1)>';

async function attack(t: Test, { port, host, records }: Door): Promise<void> {
  const send = (
    method: string,
    path: string,
    headers: Record<string, string>,
    body: string | Buffer,
  ): Promise<string> => {
    const fields = Object.entries(headers)
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join('');
    const head = `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n${fields}\r\n`;
    return sendRaw(port, Buffer.concat([Buffer.from(head, 'latin1'), Buffer.from(body as string)]));
  };
  const get = (path: string, headers: Record<string, string> = {}) => send('GET', path, headers, '');
  const post = (body: string | Buffer, type: string, headers: Record<string, string> = {}) =>
    send(
      'POST',
      '/a',
      { 'Content-Type': type, 'Content-Length': String(Buffer.byteLength(body as string)), ...headers },
      body,
    );
  const chunked = (body: string, type: string) => {
    const chunks = [...body].map((one) => `1\r\n${one}\r\n`).join('');
    return send('POST', '/a', { 'Content-Type': type, 'Transfer-Encoding': 'chunked' }, `${chunks}0\r\n\r\n`);
  };
  const ordinary = [
    get('/a?q=O%27Brien+or+%22union%22'),
    post(JSON.stringify({ name: "D'Angelo & Sons" }), 'application/json'),
    chunked('comment=I+%3C3+it', 'application/x-www-form-urlencoded'),
  ];
  for (const answer of ordinary) t.match(await answer, /^HTTP\/1\.1 200 /);
  const attacks: Readonly<Record<string, Promise<string>>> = {
    query: get(`/a?q=${encodeURIComponent(union)}`),
    twice: get(`/a?q=${encodeURIComponent(encodeURIComponent(union))}`),
    overlong: get('/a?q=%c0%a7%20or%201=1--'),
    split: get('/a?q=1/*&q=*/union/*&q=*/select/*&q=*/1,2'),
    header: get('/a', { 'X-Name': union }),
    cookie: get('/a', { Cookie: `c=${encodeURIComponent(xss)}` }),
    json: post(JSON.stringify({ a: [xss] }).replaceAll('<', '\\u003c'), 'application/json'),
    duplicate: post(`{"a":"${xss}","a":"x"}`, 'application/json'),
    chunks: chunked(`a=${encodeURIComponent(xss)}`, 'application/x-www-form-urlencoded'),
    gzip: post(gzipSync(JSON.stringify({ a: xss })), 'application/json', { 'Content-Encoding': 'gzip' }),
    entities: post('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', 'text/xml'),
    lie: post(xss, 'application/json'),
    large: post(JSON.stringify({ a: `${'word '.repeat(20_000)}${xss}` }), 'application/json'),
  };
  for (const [what, answer] of Object.entries(attacks)) t.match(await answer, /^HTTP\/1\.1 403 /, what);
  t.match(
    await post(gzipSync(Buffer.alloc(20_000_000)), 'text/plain', { 'Content-Encoding': 'gzip' }),
    /^HTTP\/1\.1 413 /,
  );
  const all = await records(ordinary.length + Object.keys(attacks).length + 1);
  t.equal(
    all.filter(({ upstream_host: app }) => app !== null).length,
    ordinary.length,
    'the app received no other request',
  );
  t.match(
    all.find(({ code }) => code === 'attack_detected'),
    { decision: 'deny', screening: /^\d+ query q: sql-/ },
  );
  t.notMatch(JSON.stringify(all), /password|onerror=|passwd/);
}

t.test('a gateway refuses the attack', async (t) => {
  const app = await startEcho(t, 'a');
  const document =
    '---\napiVersion: sallyport.dev/v1alpha1\nkind: RequestScreening\nmetadata: { name: s, namespace: shop }\nspec: { targetRef: { group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }, mode: Block }\n';
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: { 'all.yaml': webGateway + webRoute + serviceOf('a'), 's.yaml': document },
  });
  await attack(t, { port: gateway.port('shop/g:80'), host: 'a.test', records: gateway.records });
  const metrics = await (await fetch(`http://127.0.0.1:${gateway.admin}/stats/prometheus`)).text();
  t.match(metrics, /sallyport_screenings_total\{mode="Block",outcome="clean"\} 3/);
});

t.test('the inbound port of a sidecar refuses the attack', async (t) => {
  const app = await startEcho(t, 'a');
  const mesh = await startMesh(t, { app, ordersYaml: 'requestScreening: { mode: Block }\n' });
  await attack(t, { port: mesh.outPort, host: 'orders', records: (count) => mesh.records('orders', count) });
});
