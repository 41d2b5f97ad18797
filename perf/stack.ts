// A stack is two proxies of one product: one at the client, plain in and mutual TLS out, and one at the app. All stacks
// get the same certificates, the same app and the same work. The work is verification of the other side, an allow list
// of 100 entries, an access log with the same fields, a request ID, and a header with the caller's identity for the
// app.

import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import type { Credential } from '../test/fixtures/pki.ts';
import type { Running } from './process.ts';

export interface Site {
  readonly dir: string;
  readonly app: { readonly http: number; readonly http2: number; readonly tcp: number; readonly log: number };
  readonly client: Credential;
  readonly server: Credential;
  readonly caPem: string;
  /** SHA-1 of the client's certificate, hex, and of 99 others: nginx and HAProxy list callers by it. */
  readonly allowed: readonly string[];
}

export interface Stack {
  readonly name: string;
  readonly outbound: Running;
  readonly inbound: Running;
  /** Plain HTTP in, at the outbound proxy. */
  readonly httpPort: number;
  /** Plain HTTP/2 in, with HTTP/2 on the hop and to the app; undefined if the stack does not support it. */
  readonly http2Port: number | undefined;
  /** Mutual TLS HTTP, at the inbound proxy. */
  readonly tlsPort: number;
  /** Plain TCP in, at the outbound proxy; undefined if this build has no TCP. */
  readonly tcpPort: number | undefined;
}

/** A checkout of this project, and the column of its figures. */
export interface Checkout {
  readonly name: string;
  readonly root: string;
}

/** A new directory for the files of one start. */
export function placeFor(site: Site, name: string): string {
  return mkdtempSync(join(site.dir, `${name}-`));
}
