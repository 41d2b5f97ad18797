// A self-signed certificate for the gateway's HTTPS listener, in place of the two files that an ACME client or your
// company's CA would write. `node certificate.ts run/front localhost` writes run/front.pem and run/front.key.

import { createPublicKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { formatKey, generateKey } from '../../cert-agent/identity/keys.ts';
import { randomSerial, signCertificate } from '../../cert-agent/identity/x509.ts';

const dayMs = 24 * 3_600_000;

/** Writes `path`.pem and `path`.key; clients that are to trust it use the first as an authority. */
export async function writeCertificate(path: string, host: string): Promise<void> {
  const key = generateKey();
  const certificate = await signCertificate(
    {
      subject: `CN=${host}`,
      publicKey: createPublicKey(key).export({ type: 'spki', format: 'der' }),
      serial: randomSerial(),
      notBefore: Date.now() - 60_000,
      notAfter: Date.now() + dayMs,
      dns: [host],
      ca: { pathLength: 0 },
      keyUsage: ['digitalSignature', 'keyCertSign'],
      tlsUsage: ['serverAuth'],
    },
    { key },
  );
  writeFileSync(`${path}.key`, formatKey(key), { mode: 0o600 });
  writeFileSync(`${path}.pem`, formatPem([certificate]));
}

if (import.meta.main) {
  const [path, host] = process.argv.slice(2);
  if (path === undefined || host === undefined) throw new Error('usage: node certificate.ts PATH HOST');
  await writeCertificate(path, host);
}
