// The issuer of users' tokens, in place of Keycloak, Entra or the like. It is far too friendly: every client gets a
// token. `GET /keys`: its public keys. `GET /token?user=ada&group=clerks`: a token that is valid for an hour; with
// `&forged`, one with the same claims that is signed with an unknown key.

import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { createServer } from 'node:http';

const own = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const forger = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const kid = 'demo';

createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://issuer');
  const answer = (type: string, body: string): void => {
    response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' }).end(`${body}\n`);
  };
  if (pathname === '/keys') {
    const key = { ...own.publicKey.export({ format: 'jwk' }), kid, alg: 'ES256', use: 'sig' };
    return answer('application/json', JSON.stringify({ keys: [key] }));
  }
  if (pathname !== '/token') return void response.writeHead(404).end();
  const groups = searchParams.getAll('group');
  const { privateKey } = searchParams.has('forged') ? forger : own;
  answer('text/plain', tokenOf({ sub: searchParams.get('user') ?? 'nobody', groups }, privateKey));
}).listen(Number(process.env['PORT'] ?? 8084), '127.0.0.1');

/** A JWT (RFC 7519), signed with ES256. */
function tokenOf(claims: object, key: KeyObject): string {
  const iat = Math.floor(Date.now() / 1000);
  const all = { iss: 'https://login.demo.test', aud: 'shop', iat, exp: iat + 3600, ...claims };
  const text = [{ alg: 'ES256', typ: 'JWT', kid }, all]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.');
  // JOSE puts the two numbers of a signature side by side, not in ASN.1 (RFC 7518 section 3.4).
  return `${text}.${sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}
