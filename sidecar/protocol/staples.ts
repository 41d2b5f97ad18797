// OCSP responses for a gateway's own certificates, to be stapled (RFC 6066 section 8, RFC 8446 section 4.4.2.1):
// fetched in the background where a certificate names a responder, verified, and renewed at half of their life. A
// responder that fails never stops serving: clients get no staple.

import { X509Certificate } from 'node:crypto';
import { every } from '../../cert-agent/base/background.ts';
import { asSallyportError, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import {
  formatOcspRequest,
  mustStaple,
  type OcspSubject,
  responderOf,
  verifyOcspResponse,
} from '../../cert-agent/identity/ocsp-client.ts';
import { fingerprintOf } from '../../cert-agent/identity/verify.ts';

/** Fetches a response. @throws an error without a complete one in time. */
export type AskResponder = (url: string, request: Buffer) => Promise<Buffer>;

/** For tests: `ask` and `now`. */
export interface StaplesOptions {
  readonly log: Log;
  readonly ask?: AskResponder;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

const lookMs = 1000;
const firstRetryMs = 5000;
const longestRetryMs = 3_600_000;
/** Not more often, however short a responder makes the life of its responses. */
const shortestAgeMs = 60_000;
/** For a response that says nothing about its life. */
const usualAgeMs = 3_600_000;
/** However long a responder makes the life of its responses. */
const longestAgeMs = 24 * 3_600_000;

interface Entry {
  readonly about: OcspSubject;
  readonly isRequired: boolean;
  readonly name: string;
  staple: { readonly response: Buffer; readonly until: number } | undefined;
  due: number;
  failures: number;
  asking: boolean;
  /** When the responder said that it is revoked; earlier responses count no more. */
  revokedAt: number;
}

/** One for the process. It asks by itself, once a second where something is due. */
export class Staples {
  readonly #log: Log;
  readonly #ask: AskResponder;
  readonly #now: () => number;
  readonly #stop: () => void;
  /** By the leaf's fingerprint. */
  #entries = new Map<string, Entry>();
  readonly #toldOf = new Set<string>();

  constructor({ log, ask = askResponder, now = Date.now }: StaplesOptions) {
    this.#log = log;
    this.#ask = ask;
    this.#now = now;
    this.#stop = every('staples', lookMs, () => void this.tick());
  }

  /** The chains (DER, leaf first) that listeners present from now on. */
  follow(chains: readonly (readonly Buffer[])[]): void {
    const next = new Map<string, Entry>();
    for (const chain of chains) {
      const [leaf] = chain;
      if (leaf === undefined) continue;
      const key = fingerprintOf(leaf);
      const entry = this.#entries.get(key) ?? this.#entryOf(key, chain);
      if (entry !== undefined) next.set(key, entry);
    }
    this.#entries = next;
  }

  /** The response to staple for a leaf (its fingerprint); undefined if there is none that holds. */
  of(fingerprint: string): Buffer | undefined {
    const staple = this.#entries.get(fingerprint)?.staple;
    return staple !== undefined && staple.until > this.#now() ? staple.response : undefined;
  }

  /** Asks what is due. It runs every second by itself. */
  async tick(): Promise<void> {
    const now = this.#now();
    const due = [...this.#entries.values()].filter((one) => !one.asking && now >= one.due);
    await Promise.all(due.map((one) => this.#renew(one)));
  }

  /** Asks no more, and staples nothing. */
  close(): void {
    this.#stop();
    this.#entries = new Map();
  }

  #entryOf(key: string, chain: readonly Buffer[]): Entry | undefined {
    const leaf = chain[0]!;
    const name = nameOf(leaf);
    const url = responderOf(leaf);
    const certificate = new X509Certificate(leaf);
    const issuer = chain.slice(1).find((one) => certificate.checkIssued(new X509Certificate(one)));
    const isRequired = mustStaple(leaf);
    if (url !== undefined && issuer !== undefined)
      return {
        ...{
          about: { leaf, issuer, url },
          isRequired,
          name,
          staple: undefined,
          due: 0,
          failures: 0,
          asking: false,
          revokedAt: 0,
        },
      };
    if (isRequired && !this.#toldOf.has(key)) {
      this.#toldOf.add(key);
      const why = url === undefined ? 'it names no responder' : 'its issuer is not in the chain';
      this.#log.error(
        { code: 'staple_missing', certificate: name },
        `clients that check it refuse the certificate of ${name}: it must be stapled, and ${why}`,
      );
    }
    return undefined;
  }

  async #renew(entry: Entry): Promise<void> {
    const { about } = entry;
    entry.asking = true;
    try {
      const response = await this.#ask(about.url, formatOcspRequest(about));
      const now = this.#now();
      const { thisUpdate, nextUpdate } = await verifyOcspResponse(response, about, now);
      if (thisUpdate < entry.revokedAt)
        throw new SallyportError('ocsp_unavailable', 'the response is older than the one that said it is revoked');
      const until = nextUpdate ?? now + 2 * usualAgeMs;
      entry.staple = { response, until };
      // A little before the half of its life in a cache, so that it is renewed while it holds. A responder may give it
      // months: a revocation should be seen within a day all the same.
      entry.due = Math.min(now + longestAgeMs, Math.max(now + shortestAgeMs, thisUpdate + (until - thisUpdate) / 2));
      entry.failures = 0;
    } catch (error) {
      this.#failed(entry, asSallyportError(error, 'ocsp_unavailable', `the OCSP responder ${about.url}`));
    } finally {
      entry.asking = false;
    }
  }

  #failed(entry: Entry, error: SallyportError): void {
    const now = this.#now();
    const delay = Math.min(longestRetryMs, firstRetryMs * 2 ** entry.failures);
    entry.due = now + delay * (0.75 + Math.random() / 4);
    entry.failures++;
    // It is revoked now, whatever an earlier response says.
    if (error.code === 'certificate_revoked') Object.assign(entry, { staple: undefined, revokedAt: now });
    const isOpen = entry.staple === undefined || entry.staple.until <= now;
    const isGrave = error.code === 'certificate_revoked' || (entry.isRequired && isOpen);
    // The first, and then one in eight: with growing pauses, about once an hour.
    if (entry.failures % 8 !== 1) return;
    this.#log[isGrave ? 'error' : 'warn'](
      { code: error.code, certificate: entry.name, hint: error.hint },
      `no OCSP response for the certificate of ${entry.name}${
        entry.isRequired && isOpen ? ', which must be stapled: clients that check it refuse it' : ''
      }: ${error.message}`,
    );
  }
}

function nameOf(leaf: Buffer): string {
  const { subjectAltName, subject } = new X509Certificate(leaf);
  return /\bDNS:([^,\s"]+)/.exec(subjectAltName ?? '')?.[1] ?? subject ?? 'a listener';
}

const timeoutMs = 10_000;
const maxBytes = 65_536;

/** One POST, without redirects, bounded in time and size. */
async function askResponder(url: string, request: Buffer): Promise<Buffer> {
  const { request: send } = await import('undici');
  const answer = await send(url, {
    method: 'POST',
    headers: { 'content-type': 'application/ocsp-request', accept: 'application/ocsp-response' },
    body: request,
    signal: AbortSignal.timeout(timeoutMs),
  });
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of answer.body) {
    size += (part as Buffer).length;
    if (size > maxBytes)
      throw new SallyportError('ocsp_unavailable', `${url}: the response is larger than ${maxBytes} bytes`);
    parts.push(part as Buffer);
  }
  if (answer.statusCode !== 200)
    throw new SallyportError('ocsp_unavailable', `${url}: it responded with status ${answer.statusCode}`);
  return Buffer.concat(parts);
}
