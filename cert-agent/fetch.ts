// Step two of a certificate: CSR and evidence go to the CA; SVID, bundle and deny list come back. A response is checked
// before it is used: it must be for our key and verify against the bundle.

import type { KeyObject } from 'node:crypto';
import type { Socket } from 'node:net';
import type { Dispatcher } from 'undici';
import {
  describeRefusal,
  type Issued,
  invalidAnswer,
  readBundleDocument,
  readRecordAnswer,
  readSvidAnswer,
  type Trust,
} from './agent/answer.ts';
import { type CaConnection, createCaConnection } from './agent/connect.ts';
import type { LedgerPlace } from './agent/ledger-memory.ts';
import type { Evidence } from './attest.ts';
import { guard } from './base/background.ts';
import type { Clock } from './base/clock.ts';
import { errnoOf, reasonOf, SallyportError } from './base/errors.ts';
import { readLines } from './base/lines.ts';
import { onlyBundle } from './identity/bundle.ts';
import { emptyDenyList } from './identity/denied.ts';
import type { Svid } from './identity/svid.ts';
import { verifyChain } from './identity/verify.ts';
import { createCsr } from './identity/x509.ts';

/** One request for an SVID. Never logged: it has the key and perhaps a token. */
export interface SvidRequest {
  readonly trust: Trust;
  readonly evidence: Evidence;
  /** Already on disk. */
  readonly key: KeyObject;
  /** The requested life; the CA decides. */
  readonly ttlMs?: number;
}

/** A newer bundle and deny list, verified. */
export interface TrustNews extends Trust {
  /** For the next request, once this one was accepted. */
  readonly etag: string | undefined;
}

/** Everything that an agent asks of its CA. Each response is checked before it is returned. */
export interface CaClient {
  /** @throws SallyportError `ca_unreachable`, `ca_refused`, `ca_answer_invalid`, or the problem of a certificate. */
  fetchSvid(request: SvidRequest): Promise<Issued>;
  /** The bundle and the deny list; undefined if they have not changed since `etag`. @throws as fetchSvid does. */
  fetchBundle(trust: Trust, etag?: string): Promise<TrustNews | undefined>;
  /**
   * The CRLs, PEM, not verified; `unchanged` since `etag`; `absent` if the CA has none, being older than we are.
   * @throws as fetchSvid does.
   */
  fetchCrl(trust: Trust, etag?: string): Promise<CrlNews>;
  /** What the CA's ledger has of record `sequence`; `unknown` if the CA is older than we are. @throws as fetchSvid does. */
  fetchRecord(trust: Trust, sequence: number): Promise<LedgerPlace>;
  /**
   * Opens a stream of changes. Resolves once the CA has accepted it; then `end` is called once.
   * @throws as fetchSvid does.
   */
  watch(request: WatchRequest): Promise<Watch>;
  /** Ends its connection and all that is under way, streams too. */
  close(): Promise<void>;
}

/** `absent`: the CA is older than its clients. `text` is PEM. */
export type CrlNews = 'unchanged' | 'absent' | { readonly text: string; readonly etag: string | undefined };

/** The callbacks are called until `end`, which is called once. `etag` is that of what the agent has. */
export interface WatchRequest {
  readonly trust: Trust;
  readonly svid: Svid;
  readonly etag: string | undefined;
  /** A change, verified. */
  news(news: TrustNews): void;
  /** The CA asks for a renewal within this time, milliseconds. */
  renew(withinMs: number): void;
  /** A change that is too large for the stream: fetch it. */
  changed(): void;
  /** The stream has ended, for whatever reason; open another. */
  end(): void;
}

/** An open stream to the CA. */
export interface Watch {
  /** One line of JSON; dropped if the stream has ended. */
  send(value: object): void;
  /** Ends the stream; `end` is called. */
  close(): void;
}

/** `url` is `https://host:port`. */
export interface CaClientOptions {
  readonly url: URL;
  readonly clock: Clock;
}

/** A client of the CA at `url`. It connects on demand and keeps one connection, for the bundle. */
export function createCaClient(options: CaClientOptions): CaClient {
  const { url, clock } = options;
  const ending = new AbortController();
  const now = (): number => clock.now();
  /** For a whole response: one that trickles in must not keep the agent from asking again. */
  const within = (): AbortSignal => AbortSignal.any([ending.signal, AbortSignal.timeout(responseMs)]);
  let kept: { readonly connection: CaConnection; readonly trust: Trust } | undefined;

  /** The kept connection, if it was made with this trust and the CA's certificates are still valid. */
  function connectionFor(trust: Trust): CaConnection {
    if (kept !== undefined && isFresh(kept.connection, now()) && sameTrust(kept.trust, trust)) return kept.connection;
    forget();
    kept = { connection: createCaConnection({ url, trust: trust.bundle, denied: trust.denied, now }), trust };
    return kept.connection;
  }

  function forget(): void {
    void kept?.connection.client.destroy();
    kept = undefined;
  }

  async function fetchSvid({ trust, evidence, key, ttlMs }: SvidRequest): Promise<Issued> {
    const svid = evidence.kind === 'svid' ? evidence.svid : undefined;
    const { client } = createCaConnection({ url, trust: trust.bundle, denied: trust.denied, svid, now });
    try {
      const csr = (await createCsr(key)).toString('base64');
      const body = {
        csr,
        ...(evidence.kind === 'token' ? { token: evidence.token } : {}),
        ...(evidence.kind === 'kubernetes' ? { kubernetesToken: evidence.token } : {}),
        ...(ttlMs === undefined ? {} : { ttlSeconds: Math.round(ttlMs / 1000) }),
      };
      const answer = await ask(client, url, svid, {
        method: 'POST',
        path: evidence.kind === 'svid' ? '/v1/svid/renew' : '/v1/svid',
        headers: { 'content-type': 'application/json', accept: 'application/json' },
        body: JSON.stringify(body),
        signal: within(),
      });
      return readSvidAnswer(answer.body, key, trust.bundle.trustDomain, url);
    } finally {
      void client.destroy();
    }
  }

  async function fetchBundle(trust: Trust, etag?: string): Promise<TrustNews | undefined> {
    const connection = connectionFor(trust);
    const headers = { accept: 'application/json', ...(etag === undefined ? {} : { 'if-none-match': etag }) };
    try {
      const { client } = connection;
      const answer = await ask(client, url, undefined, {
        method: 'GET',
        path: '/v1/bundle',
        headers,
        signal: within(),
      });
      if (answer.status === 304) return undefined;
      const fresh = readBundleDocument(answer.body, trust.bundle.trustDomain, url);
      refuseLockOut(fresh, connection, now());
      return { ...fresh, etag: answer.etag };
    } catch (error) {
      forget();
      throw error;
    }
  }

  async function fetchRecord(trust: Trust, sequence: number): Promise<LedgerPlace> {
    const { client } = connectionFor(trust);
    const headers = { accept: 'application/json' };
    const request = { method: 'GET', path: `/v1/ledger/${sequence}`, headers, signal: within() } as const;
    try {
      const answer = await askText(client, url, undefined, request);
      if (answer.status === 404) return 'unknown';
      const body = readJson(answer.text);
      if (answer.status !== 200) throw describeRefusal(answer.status, body, url);
      return readRecordAnswer(body, sequence, url);
    } catch (error) {
      forget();
      throw error;
    }
  }

  async function fetchCrl(trust: Trust, etag?: string): Promise<CrlNews> {
    // A connection of its own: a large list must not keep the deny list waiting.
    const { client } = createCaConnection({ url, trust: trust.bundle, denied: trust.denied, now });
    try {
      const headers = { accept: 'application/x-pem-file', ...(etag === undefined ? {} : { 'if-none-match': etag }) };
      const request = { method: 'GET', path: '/v1/crl.pem', headers, signal: within() } as const;
      const answer = await askText(client, url, undefined, request);
      if (answer.status === 304) return 'unchanged';
      if (answer.status === 404) return 'absent';
      if (answer.status !== 200) throw describeRefusal(answer.status, readJson(answer.text), url);
      return answer;
    } finally {
      void client.destroy();
    }
  }

  async function watch({ trust, svid, etag, news, renew, changed, end }: WatchRequest): Promise<Watch> {
    const connection = createCaConnection({ url, trust: trust.bundle, denied: trust.denied, svid, now });
    const { client } = connection;
    const headers = etag === undefined ? {} : { 'if-none-match': etag };
    let socket: Socket;
    try {
      const protocol = 'sallyport-watch/1';
      const opened = await client.upgrade({ path: '/v1/watch', protocol, headers, signal: ending.signal });
      socket = opened.socket as Socket;
    } catch (error) {
      void client.destroy();
      throw describeFailure(error, url, svid);
    }
    // What the stream rests on: the certificates of both ends.
    const until = Math.min(connection.proof()?.validUntil ?? 0, svid.notAfter);
    const silence = (): unknown => socket.destroy();
    // Node's timers have 32 bits.
    const lifetime = setTimeout(silence, Math.min(Math.max(0, until - now()), 2 ** 31 - 1));
    socket.setTimeout(watchSilenceMs, silence);
    socket.once('close', () => {
      clearTimeout(lifetime);
      ending.signal.removeEventListener('abort', silence);
      void client.destroy();
      end();
    });
    ending.signal.addEventListener('abort', silence);
    readLines(socket, maxLineBytes, (line) =>
      guard('agent', () => {
        const said = readJson(line) as
          | { readonly etag?: unknown; readonly document?: unknown; readonly renewWithinMs?: unknown }
          | undefined;
        if (typeof said?.renewWithinMs === 'number') renew(said.renewWithinMs);
        if (typeof said?.etag !== 'string') return;
        if (said.document === undefined) return changed();
        const fresh = readBundleDocument(said.document, trust.bundle.trustDomain, url);
        refuseLockOut(fresh, connection, now());
        news({ ...fresh, etag: said.etag });
      }),
    );
    return {
      send: (value) => void (socket.writable && socket.write(`${JSON.stringify(value)}\n`)),
      close: () => socket.destroy(),
    };
  }

  async function close(): Promise<void> {
    ending.abort();
    await kept?.connection.client.destroy();
  }

  return { fetchSvid, fetchBundle, fetchCrl, fetchRecord, watch, close };
}

/** The CA gives a client 60 s for a large response. */
const responseMs = 60_000;

/** The CA sends something every 5 s. */
const watchSilenceMs = 15_000;

/** The CA sends documents up to 64 KB; larger ones are fetched. */
const maxLineBytes = 1_048_576;

function isFresh(connection: CaConnection, now: number): boolean {
  return now <= (connection.proof()?.validUntil ?? now);
}

function sameTrust(a: Trust, b: Trust): boolean {
  return a.bundle === b.bundle && a.denied === b.denied;
}

interface TextAnswer {
  readonly status: number;
  readonly etag: string | undefined;
  readonly text: string;
}

interface Answer extends TextAnswer {
  readonly body: unknown;
}

async function ask(
  client: Dispatcher,
  url: URL,
  svid: Svid | undefined,
  request: Dispatcher.RequestOptions,
): Promise<Answer> {
  const answer = await askText(client, url, svid, request);
  const { status } = answer;
  if (status === 304) return { ...answer, body: undefined };
  const body = readJson(answer.text);
  if (status !== 200) throw describeRefusal(status, body, url);
  if (body === undefined) throw invalidAnswer(url, 'not JSON');
  return { ...answer, body };
}

async function askText(
  client: Dispatcher,
  url: URL,
  svid: Svid | undefined,
  request: Dispatcher.RequestOptions,
): Promise<TextAnswer> {
  try {
    const response = await client.request(request);
    const tag = response.headers['etag'];
    const etag = typeof tag === 'string' ? tag : undefined;
    return { status: response.statusCode, etag, text: await response.body.text() };
  } catch (error) {
    throw describeFailure(error, url, svid);
  }
}

/** Refuses a bundle against which its own CA does not verify: it would be the last one that we could ever fetch. */
function refuseLockOut(fresh: Trust, connection: CaConnection, now: number): void {
  const chain = connection.proof()?.chain ?? [];
  try {
    verifyChain(chain, onlyBundle(fresh.bundle), emptyDenyList, now);
  } catch (error) {
    throw new SallyportError(
      'ca_answer_invalid',
      `the CA does not verify against the new bundle that it sent: ${reasonOf(error)}`,
      { cause: error },
    );
  }
}

function describeFailure(error: unknown, url: URL, svid: Svid | undefined): SallyportError {
  if (error instanceof SallyportError) return error;
  const closed = ['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE'].includes(errnoOf(error) ?? '');
  // TLS 1.3: the server checks our certificate after our side of the handshake is done, and refuses by closing.
  const hint = closed && svid !== undefined ? `is our SVID (${svid.id.uri}, ${svid.serial}) refused?` : undefined;
  return new SallyportError('ca_unreachable', `cannot reach the CA at ${url.origin}: ${causeOf(error)}`, {
    hint,
    cause: error,
  });
}

/** For a name with several addresses, connect fails with an AggregateError that has no message of its own. */
function causeOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(reasonOf).join('; ');
  return reasonOf(error) || (errnoOf(error) ?? 'no reason given');
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
