// `sallyport inspect` of what is no certificate: it says what the file is, and what to type next.

import { generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { lookAtFile } from '../../sidecar/analyze/endpoint.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { tempDir } from '../fixtures/process.ts';

const dir = tempDir(t);
const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
const locked = { cipher: 'aes-256-cbc', passphrase: 'x' } as const;
const pem = (label: string): string => `-----BEGIN ${label}-----\nAAAA\n-----END ${label}-----\n`;
/** A SEQUENCE of about a kilobyte that begins with this. */
const der = (content: string): Buffer => Buffer.concat([Buffer.from(`30820400${content}`, 'hex'), Buffer.alloc(1000)]);

const files: readonly [text: string | Buffer, what: string, hint: RegExp][] = [
  [der('020103'), 'PKCS#12', /^'openssl pkcs12 -in \S+\/file -nokeys -out chain\.pem'/],
  [der('06092a864886f70d010702'), 'PKCS#7', /^'openssl pkcs7 -inform DER -print_certs -in \S+\/file /],
  [pem('PKCS7'), 'PKCS#7', /^'openssl pkcs7 -print_certs -in /],
  [privateKey.export({ type: 'pkcs8', format: 'pem', ...locked }), 'an encrypted private key', /^'openssl pkey -in /],
  [privateKey.export({ type: 'sec1', format: 'pem', ...locked }), 'an encrypted private key', /^'openssl pkey -in /],
  [
    privateKey.export({ type: 'pkcs8', format: 'der', ...locked }),
    'an encrypted private key',
    /^'openssl pkey -inform DER -in /,
  ],
  [privateKey.export({ type: 'pkcs8', format: 'pem' }), 'a private key', /--key \S+\/file'/],
  [privateKey.export({ type: 'pkcs8', format: 'der' }), 'a private key', /--key /],
  [privateKey.export({ type: 'sec1', format: 'der' }), 'a private key', /--key /],
  [rsa.export({ type: 'pkcs8', format: 'der' }), 'a private key', /--key /],
  [rsa.export({ type: 'pkcs1', format: 'der' }), 'a private key', /--key /],
  [rsa.export({ type: 'pkcs1', format: 'pem' }), 'a private key', /--key /],
  [publicKey.export({ type: 'spki', format: 'pem' }), 'a public key', /^'openssl pkey -pubin /],
  [pem('CERTIFICATE REQUEST'), 'a request for a certificate', /^'openssl req -noout /],
  [pem('NEW CERTIFICATE REQUEST'), 'a request for a certificate', /^'openssl req -noout /],
  [der('308203000201003000'), 'a request for a certificate', /^'openssl req -inform DER /],
  [pem('X509 CRL'), 'a CRL', /^'openssl crl /],
  [pem('OPENSSH PRIVATE KEY'), 'an SSH key', /ssh-keygen -lf/],
  ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA a@b\n', 'an SSH key', /ssh-keygen -lf/],
  ['eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln\n', 'a JWT', /base64 -d 2>\/dev\/null' prints its claims/],
];

t.test('what holds no certificate is named, with the command for it', async (t) => {
  const file = join(dir, 'file');
  for (const [text, what, hint] of files) {
    writeFileSync(file, text);
    t.throws(() => lookAtFile(file), {
      code: 'certificate_unreadable',
      message: `${file} contains no certificate: it is ${what}`,
      hint,
    });
  }
  writeFileSync(file, 'anything else\n');
  t.throws(() => lookAtFile(file), { message: `${file} contains no certificate`, hint: /^expected PEM/ });
});

t.test('a certificate is one, also beside its key', async (t) => {
  const file = join(dir, 'chain');
  const { chain } = await createCredential(await createAuthority('demo.test'), 'spiffe://demo.test/a');
  writeFileSync(file, chain[0]!);
  t.strictSame(lookAtFile(file), { chain: [chain[0]] });
  const body = chain[0]!.toString('base64');
  writeFileSync(
    file,
    `${privateKey.export({ type: 'pkcs8', format: 'pem' })}-----BEGIN CERTIFICATE-----\n${body}\n-----END CERTIFICATE-----\n`,
  );
  t.strictSame(lookAtFile(file), { chain: [chain[0]] });
});
