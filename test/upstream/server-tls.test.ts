// TLS to a server that is no peer: which certificates are accepted, by which CA, and nothing else.

import type { AddressInfo } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import t from 'tap';
import { dialPlain } from '../../sidecar/upstream/dial.ts';
import { Pool } from '../../sidecar/upstream/pool.ts';
import { Resolver } from '../../sidecar/upstream/resolve.ts';
import { createServerTlsDial, type ServerTls } from '../../sidecar/upstream/server-tls.ts';
import { poolLimits, startForwarder } from '../fixtures/forwarder.ts';
import { exchangeBytes, logTo } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { until } from '../fixtures/process.ts';

const tls: ServerTls['tls'] = { minVersion: 'TLSv1.2', groups: ['X25519', 'P-256'] };
const authority = await createAuthority('backend.test');
const stranger = await createAuthority('backend.test');
const uri = 'spiffe://backend.test/ns/shop/sa/pay';
const plain = await createCredential(authority, uri, { dns: ['pay.test', '*.wild.test'], subject: 'CN=cn.test' });
const onlyName = await createCredential(authority, uri, { uris: [], subject: 'CN=cn.test' });

interface Case {
  readonly name: string;
  readonly credential?: typeof plain;
  readonly hostname?: string;
  readonly ca?: string;
  readonly subjectAltNames?: ServerTls['subjectAltNames'];
  readonly maxVersion?: 'TLSv1.1' | 'TLSv1.2';
  /** A code and a message, or undefined if it is accepted. */
  readonly refused?: [string, RegExp];
}

const cases: Case[] = [
  { name: 'its name, by its CA' },
  { name: 'a wildcard for one label', hostname: 'a.wild.test' },
  { name: 'TLS 1.2', maxVersion: 'TLSv1.2' },
  {
    ...{ name: 'another name', hostname: 'other.test' },
    refused: ['upstream_identity', /^the server's certificate is not for other\.test: .*DNS:pay\.test/],
  },
  {
    name: 'two labels for a wildcard',
    hostname: 'a.b.wild.test',
    refused: ['upstream_identity', /not for a\.b\.wild/],
  },
  { name: 'the common name does not count', hostname: 'cn.test', refused: ['upstream_identity', /not for cn\.test/] },
  {
    ...{ name: 'nor where there is no other name', credential: onlyName, hostname: 'cn.test' },
    refused: ['upstream_identity', /it has no alternative names/],
  },
  {
    name: 'an unrelated CA of the same name',
    ca: stranger.bundlePem,
    refused: ['upstream_tls', /handshake .* failed/],
  },
  {
    name: 'the machine does not know this CA',
    ca: 'System',
    refused: ['upstream_tls', /handshake|no CA certificates/],
  },
  { name: 'no CA at all', ca: 'nonsense', refused: ['upstream_tls', /./] },
  { name: 'TLS 1.1', maxVersion: 'TLSv1.1', refused: ['upstream_tls', /handshake .* failed/] },
  { name: 'a URI in place of the name', hostname: 'sni.test', subjectAltNames: [{ type: 'URI', value: uri }] },
  {
    ...{ name: 'any of several', hostname: 'sni.test' },
    subjectAltNames: [
      { type: 'URI', value: 'spiffe://x' },
      { type: 'Hostname', value: 'pay.test' },
    ],
  },
  {
    ...{ name: 'with alternative names the name itself is only for SNI', hostname: 'pay.test' },
    subjectAltNames: [{ type: 'URI', value: 'spiffe://backend.test/other' }],
    refused: ['upstream_identity', /not for spiffe:\/\/backend\.test\/other/],
  },
  {
    ...{ name: 'a URI is compared as a whole', hostname: 'pay.test' },
    subjectAltNames: [{ type: 'URI', value: uri.slice(0, -1) }],
    refused: ['upstream_identity', /not for/],
  },
];

for (const { name, credential = plain, hostname = 'pay.test', ca, subjectAltNames, maxVersion, refused } of cases) {
  t.test(name, async (t) => {
    let served: TLSSocket | undefined;
    const old = maxVersion === 'TLSv1.1' ? { minVersion: 'TLSv1' as const, ciphers: 'DEFAULT@SECLEVEL=0' } : {};
    const server = createServer(
      {
        key: credential.keyPem,
        cert: credential.chainPem,
        requestCert: true,
        rejectUnauthorized: false,
        ...old,
        ...(maxVersion && { maxVersion }),
      },
      (socket) => {
        served = socket.on('error', () => {});
      },
    );
    server.on('tlsClientError', () => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      served?.destroy();
      server.close();
    });
    const facts: string[] = [];
    const dial = createServerTlsDial({
      ...{ hostname, ca: ca ?? authority.bundlePem, tls },
      ...(subjectAltNames === undefined ? {} : { subjectAltNames }),
      dialed: ({ version }) => facts.push(version),
    });
    const { port } = server.address() as AddressInfo;
    const dialed = dial({ host: '127.0.0.1', port }, 5000, []);
    if (refused !== undefined) {
      await t.rejects(dialed, { code: refused[0], message: refused[1] });
      t.same(facts, []);
      return;
    }
    const { socket, peer } = await dialed;
    t.teardown(() => socket.destroy());
    await until(() => served !== undefined, 'the server to have it');
    t.equal(peer, undefined);
    t.equal(served!.servername, hostname);
    t.same(served!.getPeerCertificate(), {}, 'we present no certificate');
    t.same(facts, [maxVersion ?? 'TLSv1.3']);
  });
}

t.test('requests over TLS to a server', async (t) => {
  const { createServer: createHttps } = await import('node:https');
  const server = createHttps({ key: plain.keyPem, cert: plain.chainPem }, (request, response) =>
    response.end(`hello ${request.headers.host}`),
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const resolver = new Resolver(logTo([]));
  const dial = createServerTlsDial({ hostname: 'pay.test', ca: authority.bundlePem, tls });
  const common = {
    endpoints: [{ host: '127.0.0.1', port }],
    http2: false,
    awaited: false,
    limits: poolLimits,
    idleMs: 4000,
  };
  const pool = new Pool({ ...common, name: 'pay', dial, secure: true, alpn: ['h2', 'http/1.1'], resolver });
  const open = new Pool({ ...common, name: 'open', dial: dialPlain, secure: false, alpn: [], resolver });
  t.teardown(() => {
    pool.close();
    open.close();
    resolver.close();
    server.closeAllConnections();
    server.close();
  });
  const ask = async (destination: Pool): Promise<string> => {
    const forwarder = await startForwarder(t, { destination });
    return exchangeBytes(forwarder.port, 'GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n');
  };
  t.match(await ask(pool), /^HTTP\/1\.1 200 [\s\S]*hello shop\.test/);
  t.notMatch(await ask(open), /^HTTP\/1\.1 200/, 'in plaintext it gives no valid response');
});
