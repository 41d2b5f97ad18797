// Upstreams that move: under one of several identities, under another name of the trust domain, and without ALPN, as
// for TLS terminators.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, request as httpRequest } from 'node:http';
import { createServer as createHttp2Server } from 'node:http2';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import t from 'tap';
import { startSidecar } from '../../sidecar/process/main.ts';
import { logTo, readHere, readRecords, writeCredential } from '../fixtures/mesh.ts';
import { type Authority, type Credential, createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, type Owner, tempDir, until } from '../fixtures/process.ts';

const here = await createAuthority('demo.test');
const ids = ['orders', 'canary', 'stranger'].map((name) => `spiffe://demo.test/ns/shop/sa/${name}`);

interface Server {
  readonly port: number;
  /** HTTP versions of the received requests. */
  readonly versions: string[];
}

/** A peer that answers with `name`, in HTTP/2 if `http2` is set and the connection has no ALPN. */
async function startServer(
  t: Owner,
  name: string,
  { chainPem, keyPem }: Credential,
  options: TlsOptions & { http2?: boolean } = {},
): Promise<Server> {
  const versions: string[] = [];
  const answer = (httpVersion: string): string => {
    versions.push(httpVersion);
    return name;
  };
  const one = createHttpServer((request, response) => response.end(answer(request.httpVersion)));
  const two = createHttp2Server((request, response) => response.end(answer(request.httpVersion)));
  const tls = createTlsServer(
    { minVersion: 'TLSv1.3', cert: chainPem, key: keyPem, requestCert: true, rejectUnauthorized: false, ...options },
    (socket) => {
      const speaks2 = socket.alpnProtocol === 'h2' || (options.http2 === true && socket.alpnProtocol === false);
      // As with a terminator: the server behind it sees bytes, and no TLS.
      const behind = connect({ port: ((speaks2 ? two : one).address() as AddressInfo).port, host: '127.0.0.1' });
      behind.on('error', () => socket.destroy());
      socket.on('error', () => behind.destroy());
      socket.pipe(behind).pipe(socket);
    },
  );
  for (const server of [one, two, tls])
    await new Promise<void>((resolve) => server.listen({ port: 0, host: '127.0.0.1' }, resolve));
  t.teardown(() => {
    for (const server of [one, two, tls]) server.close();
    one.closeAllConnections();
  });
  return { port: (tls.address() as AddressInfo).port, versions };
}

interface Web {
  ask(host?: string): Promise<{ status: number; text: string }>;
  records(count: number): Promise<Record<string, unknown>[]>;
}

/** A sidecar with one outbound port; `more` is the rest of its YAML. */
async function startWeb(
  t: Owner,
  more: string,
  outbound = '',
  authorities: readonly Authority[] = [],
  lines: Record<string, unknown>[] = [],
): Promise<Web> {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'policies'));
  writeCredential(dir, 'web', await createCredential(here, 'spiffe://demo.test/ns/shop/sa/web'));
  writeFileSync(join(dir, 'bundle.pem'), here.bundlePem);
  for (const [index, one] of authorities.entries()) writeFileSync(join(dir, `other-${index}.pem`), one.bundlePem);
  const port = await freePort();
  writeFileSync(
    join(dir, 'web.yaml'),
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }
outbound: [{ port: ${port}${outbound} }]
accessLog: web.log
${more}`,
  );
  const sidecar = await startSidecar({
    ...{ configFile: join(dir, 'web.yaml'), log: logTo(lines), version: 'test', read: readHere },
  });
  t.teardown(() => sidecar.drain());
  await until(
    () =>
      new Promise<boolean>((resolve) =>
        httpRequest({ port, path: '/' }, (response) => resolve(response.resume() !== undefined))
          .on('error', () => resolve(false))
          .end(),
      ),
    'the port',
  );
  return {
    ask: (host = 'orders') =>
      new Promise((resolve, reject) => {
        const asked = httpRequest({ port, headers: { host }, agent: false }, (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (part: string) => {
            text += part;
          });
          response.once('end', () => resolve({ status: response.statusCode ?? 0, text }));
        });
        asked.once('error', reject).end();
      }),
    records: (count) => until(() => readRecords(join(dir, 'web.log'), count + 1), `${count} records`),
  };
}

t.test('a server may prove any identity of a list, and no other', async (t) => {
  const [orders, canary, stranger] = await Promise.all(
    ids.map(async (id) => startServer(t, id, await createCredential(here, id))),
  );
  const places = [orders!.port, canary!.port].map((port) => `"127.0.0.1:${port}"`).join(', ');
  const list = `[${ids[0]}, ${ids[1]}]`;
  const web = await startWeb(
    t,
    `upstreams:
  orders: { endpoints: [${places}], identity: ${list} }
  strange: { endpoints: ["127.0.0.1:${stranger!.port}"], identity: ${list} }
`,
  );
  const seen = new Set<string>();
  await until(async () => {
    const { status, text } = await web.ask();
    t.equal(status, 200);
    seen.add(text);
    return seen.size === 2;
  }, 'responses of both');
  t.strictSame([...seen].sort(), [ids[1], ids[0]]);
  t.match(await web.ask('strange'), { status: 503 });
  t.equal(stranger!.versions.length, 0, 'the server with an unknown identity gets no request');
  // How many requests it takes until both have answered is up to the balancer.
  const strange = await until(
    async () => (await web.records(1)).find((one) => one['authority'] === 'strange'),
    'the record of the refusal',
  );
  const records = await web.records(1);
  t.ok(
    records.some((one) => one['peer_id'] === ids[1]),
    'the log names its identity',
  );
  t.match(strange, { code: 'upstream_identity', reason: /expected .*orders or .*canary/ });
});

t.test('an endpoint with a wrong identity beside a good one is named', async (t) => {
  const [orders, stranger] = await Promise.all(
    [ids[0]!, ids[2]!].map(async (id) => startServer(t, id, await createCredential(here, id))),
  );
  const places = [orders!.port, stranger!.port].map((port) => `"127.0.0.1:${port}"`).join(', ');
  const lines: Record<string, unknown>[] = [];
  const admin = await freePort();
  const web = await startWeb(
    t,
    `admin: ${admin}\nupstreams: { orders: { endpoints: [${places}], identity: ${ids[0]} } }\n`,
    '',
    [],
    lines,
  );
  const said = await until(async () => {
    t.match(await web.ask(), { status: 200, text: ids[0] });
    return lines.find((one) => one['code'] === 'upstream_identity');
  }, 'the warning');
  t.match(said, {
    level: 'warn',
    msg: new RegExp(
      `127\\.0\\.0\\.1:${stranger!.port} of orders gets no requests: the upstream is .*/stranger, expected .*/orders`,
    ),
  });
  const [pool] = (await (await fetch(`http://127.0.0.1:${admin}/upstreams`)).json()) as {
    endpoints: { address: string; lastProblem: string | null }[];
  }[];
  t.match(
    pool!.endpoints.find(({ address }) => address.endsWith(String(stranger!.port))),
    { lastProblem: /the upstream is .*\/stranger/ },
  );
  t.equal(pool!.endpoints.find(({ address }) => address.endsWith(String(orders!.port)))?.lastProblem, null);
});

t.test('a server of our trust domain may prove itself by an alias of the trust domain', async (t) => {
  const old = await createAuthority('old.test');
  const foreign = await createAuthority('foreign.test');
  const of = (authority: Authority, domain: string): Promise<Credential> =>
    createCredential(authority, `spiffe://${domain}/ns/shop/sa/orders`);
  const [moved, other] = await Promise.all([
    startServer(t, 'old', await of(old, 'old.test')),
    startServer(t, 'foreign', await of(foreign, 'foreign.test')),
  ]);
  const upstreams = `federatedBundles: { old.test: other-0.pem, foreign.test: other-1.pem }
upstreams:
  orders: { endpoints: ["127.0.0.1:${moved.port}"], identity: ${ids[0]} }
  foreign: { endpoints: ["127.0.0.1:${other.port}"], identity: ${ids[0]} }
`;
  const web = await startWeb(t, `trustDomainAliases: [old.test]\n${upstreams}`, '', [old, foreign]);
  t.match(await web.ask(), { status: 200, text: 'old' });
  t.match(await web.ask('foreign'), { status: 503 }, 'a bundle alone does not make an alias');
  const without = await startWeb(t, upstreams, '', [old, foreign]);
  t.match(await without.ask(), { status: 503 }, 'without the alias it is another workload');
});

t.test('a server without ALPN gets the protocol of the port or of the upstream', async (t) => {
  const credential = await createCredential(here, ids[0]!);
  const two = await startServer(t, 'two', credential, { http2: true });
  const one = await startServer(t, 'one', credential);
  const both = await startServer(t, 'both', credential, { ALPNProtocols: ['h2', 'http/1.1'] });
  const upstream = (port: number, protocol?: string): string =>
    `{ endpoints: ["127.0.0.1:${port}"], identity: ${ids[0]}${protocol === undefined ? '' : `, protocol: ${protocol}`} }`;

  const said = await startWeb(
    t,
    `upstreams:
  two: ${upstream(two.port, 'http2')}
  grpc: ${upstream(two.port, 'grpc')}
  one: ${upstream(one.port)}
  both: ${upstream(both.port)}
  less: ${upstream(both.port, 'http')}
`,
  );
  t.match(await said.ask('two'), { status: 200, text: 'two' });
  t.match(await said.ask('grpc'), { status: 200, text: 'two' });
  t.strictSame(two.versions, ['2.0', '2.0']);
  t.match(await said.ask('one'), { status: 200, text: 'one' });
  t.strictSame(one.versions, ['1.1']);
  t.match(await said.ask('both'), { status: 200, text: 'both' });
  t.match(await said.ask('less'), { status: 200, text: 'both' });
  t.strictSame(both.versions, ['2.0', '1.1'], 'the configured protocol precedes the negotiable one');

  const port = await startWeb(t, `upstreams: { two: ${upstream(two.port)} }\n`, ', protocol: grpc');
  t.match(await port.ask('two'), { status: 200, text: 'two' });
  t.equal(two.versions.at(-1), '2.0', 'a port for gRPC uses HTTP/2 for servers without ALPN');
});
