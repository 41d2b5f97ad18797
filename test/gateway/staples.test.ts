// A gateway staples OCSP responses for its own certificates: to Node's client and to OpenSSL's.

import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect } from 'node:tls';
import t, { type Test } from 'tap';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { readOcspResponse } from '../../cert-agent/identity/ocsp.ts';
import { startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import type { Credential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';
import { tempDir, until } from '../fixtures/process.ts';
import { ca, delegated, namingResponder, ocspSigning, respond, startResponder } from '../fixtures/responder.ts';
import { haveCommand } from '../fixtures/tools.ts';

const app = await startEcho(t, 'a');

async function start(t: Test, { chainPem, keyPem }: Credential) {
  const secret = { 'tls.crt': chainPem, 'tls.key': keyPem };
  return startTestGateway(t, {
    listeners: ['shop/g:443'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: {
      'all.yaml': `${documentOf('Gateway', 'g', '{ gatewayClassName: x, listeners: [{ name: a, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: front }] } }] }')}${documentOf('HTTPRoute', 'r', '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }')}---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'front', namespace: 'shop' }, stringData: secret })}\n`,
    },
  });
}

/** The staple that a client gets: undefined for none; and whether the handshake succeeded. */
function staple(port: number, maxVersion: 'TLSv1.2' | 'TLSv1.3' = 'TLSv1.3'): Promise<Buffer | undefined | Error> {
  return new Promise((resolve) => {
    let stapled: Buffer | undefined;
    const socket = connect({
      host: '127.0.0.1',
      port,
      servername: 'a.test',
      ca: formatPem([ca.certificate]),
      requestOCSP: true,
      maxVersion,
    });
    socket.on('OCSPResponse', (response: Buffer | null) => {
      stapled = response ?? undefined;
    });
    socket.once('secureConnect', () => {
      socket.destroy();
      resolve(stapled);
    });
    socket.once('error', resolve);
  });
}

t.test("the responder's response is stapled", async (t) => {
  const responder = await startResponder(t);
  responder.answer = (request) => respond(request, { signer: delegated(ocspSigning) });
  const gateway = await start(t, namingResponder(responder.url));
  const port = gateway.port('shop/g:443');
  await until(async () => (await staple(port)) instanceof Buffer, 'the staple');
  for (const version of ['TLSv1.3', 'TLSv1.2'] as const)
    t.match(readOcspResponse((await staple(port, version)) as Buffer).answers, [{ status: 'good' }], version);
  t.equal(responder.asked, 1, 'one request for all clients');

  t.test('OpenSSL verifies the staple', async (t) => {
    if (!haveCommand('openssl')) return t.comment('openssl is not installed: skipped');
    const place = tempDir(t);
    writeFileSync(join(place, 'ca.pem'), formatPem([ca.certificate]));
    const args = [
      's_client',
      '-connect',
      `127.0.0.1:${port}`,
      '-servername',
      'a.test',
      '-CAfile',
      join(place, 'ca.pem'),
    ];
    const child = spawn('openssl', [...args, '-status'], { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => (text += part));
    await new Promise((resolve) => child.once('close', resolve));
    t.match(text, /OCSP Response Status: successful[\s\S]*Cert Status: good/);
  });
});

t.test('a responder that fails never stops serving', async (t) => {
  for (const answer of [500, Buffer.from('garbage'), Buffer.alloc(70_000), 'forged'] as const) {
    const responder = await startResponder(t);
    responder.answer = (request) =>
      answer === 'forged'
        ? respond(request, { signer: delegated(ocspSigning, namingResponder(undefined).key) })
        : answer;
    const gateway = await start(t, namingResponder(responder.url));
    await until(() => responder.asked > 0, 'the request');
    await until(
      () => gateway.lines.some(({ code }) => code === 'ocsp_invalid' || code === 'ocsp_unavailable'),
      'the failure in the log',
    );
    t.equal(await staple(gateway.port('shop/g:443')), undefined, 'served, without a staple');
  }
  const gateway = await start(t, namingResponder('http://127.0.0.1:1/'));
  t.equal(await staple(gateway.port('shop/g:443')), undefined, "the same when the responder's port is closed");
});
