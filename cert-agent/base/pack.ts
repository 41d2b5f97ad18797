// Long responses in gzip, to clients that take it: those of the health and admin ports, and the CA's metrics.

import type { IncomingMessage } from 'node:http';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';

/** The form of `plain` for the client of `request`, and the fields that say so. */
export async function packFor(
  request: IncomingMessage,
  plain: Buffer,
): Promise<{ readonly body: Buffer; readonly headers: Readonly<Record<string, string>> }> {
  if (plain.length < leastPacked || !takesGzip(request.headers['accept-encoding'])) return { body: plain, headers: {} };
  return { body: await packed(plain), headers: { 'content-encoding': 'gzip', vary: 'accept-encoding' } };
}

/** Metrics are a hundredth of their size in gzip; what is short fits into a packet anyway. */
const leastPacked = 1024;

/** In a thread of its own. */
const pack = promisify(gzip);

const packedForms = new WeakMap<Buffer, Promise<Buffer>>();

/** The same for all who are answered with this Buffer. */
function packed(plain: Buffer): Promise<Buffer> {
  let form = packedForms.get(plain);
  if (form === undefined) {
    form = pack(plain, { level: 1 });
    packedForms.set(plain, form);
  }
  return form;
}

/** RFC 9110 section 12.5.3: named or by a star, and not with the weight 0. */
function takesGzip(accepted: string | undefined): boolean {
  const weights = new Map<string, boolean>();
  for (const one of accepted?.toLowerCase().split(',') ?? []) {
    const [coding = '', ...parameters] = one.split(';').map((part) => part.trim());
    weights.set(coding, !parameters.some((parameter) => /^q=0(?:\.0{0,3})?$/.test(parameter)));
  }
  return weights.get('gzip') ?? weights.get('*') ?? false;
}
