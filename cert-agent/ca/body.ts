// Reads a request body, with a size limit.

import type { IncomingMessage } from 'node:http';
import { SallyportError } from '../base/errors.ts';

/** A CSR with a token has half a kilobyte. */
export const maxBodyBytes = 16_384;

/** Bytes to discard beyond the limit: a response during an upload would be lost to a TCP reset. */
const maxDiscardBytes = 1_048_576;

/** @throws SallyportError `body_too_large` or `body_invalid`. */
export async function readJsonBody(request: IncomingMessage): Promise<unknown> {
  const bytes = await readBytes(request, maxBodyBytes);
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    // JSON.parse quotes the invalid text, which may be a token.
    throw new SallyportError('body_invalid', 'the body is not JSON', { hint: 'GET /v1/openapi.json describes it' });
  }
}

/** @throws SallyportError `body_too_large`, or `body_invalid` for a body that ends early. */
export async function readBytes(request: IncomingMessage, limit: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    // Leaving the loop early must not destroy the request: its socket still carries the response.
    for await (const part of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += part.length;
      if (size > limit) break;
      parts.push(part);
    }
  } catch {
    throw new SallyportError('body_invalid', 'the body ended early');
  }
  if (size > limit) throw new SallyportError('body_too_large', `the body is larger than ${limit} bytes`);
  return Buffer.concat(parts);
}

/** Discards the rest of a body, up to a limit. Call it before responding to a refused request. */
export function discardBody(request: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    if (request.complete || request.destroyed) return resolve();
    let size = 0;
    request.on('data', (part: Buffer) => {
      size += part.length;
      if (size > maxDiscardBytes) resolve();
    });
    request.once('end', resolve).once('close', resolve);
    request.resume();
  });
}
