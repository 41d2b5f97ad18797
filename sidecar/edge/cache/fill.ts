// One response from the backend, read by several clients while it arrives and stored if allowed. It is
// fetched by an exchange of its own, so that a client that leaves does not affect the others. A response that is not
// stored is held only until its slowest reader has read it, and ends with its last client. All held bytes are
// counted: by the store while the response is being stored, otherwise as bytes that wait for slow readers.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { noBody } from '../../exchange/answer.ts';
import type { Downstream } from '../../exchange/ends.ts';
import { Exchange } from '../../exchange/exchange.ts';
import { addFields, filterFields } from '../../exchange/fields.ts';
import { hold, pile } from '../../exchange/held-bytes.ts';
import { emptyFields, type Fields, type Reply } from '../../exchange/message.ts';
import type { Onward } from '../../exchange/onward.ts';
import { type Deadline, deadlines } from '../../upstream/deadlines.ts';
import type { Reader, Source } from './reader.ts';
import { conditional } from './request.ts';
import type { Entry, Place, Store } from './store.ts';

/** How much of a response that is not stored may wait for its only reader, bytes. */
const windowBytes = 64 * 1024;

/**
 * Several readers of a response that is not stored get it at the pace of the slowest: it cannot be held for a slow
 * one, and readers that have begun cannot get the rest elsewhere. A reader that reads less than this per second
 * is cut: no client can slow the others down further.
 */
const leastPaceBytes = 256 * 1024;
const paceMs = 1000;

/** How long a response without a client may take to complete; at most the idle limit of a stream. */
const unreadMs = 10_000;

/** The outcome of a fetch, once its head has arrived. */
export type Outcome =
  /** The backend's response, to be read from the fill; `entry` if it is being stored, else `why` it is not. */
  | { readonly kind: 'reply'; readonly reply: Reply; readonly entry: Entry; readonly why?: undefined }
  | { readonly kind: 'reply'; readonly reply: Reply; readonly entry: undefined; readonly why: string }
  /** The stored response was validated. */
  | { readonly kind: 'validated'; readonly entry: Entry }
  /** The backend's 304 is about another response: to be fetched again. */
  | { readonly kind: 'mismatch' }
  | { readonly kind: 'failed'; readonly error: SallyportError };

/** Decides what to do with a response once its head has arrived. `reply` is without the fields for one client. */
export type Judge = (reply: Reply, asked: number, fill: Fill) => Outcome;

/** A fill's dependencies. The callbacks are synchronous; `judge` is called once, with the head. */
export interface FillParts {
  readonly place: Place;
  readonly store: Store;
  readonly onward: Onward;
  readonly judge: Judge;
  /** Other requests may wait for its head. */
  readonly isOpen: boolean;
  /** The largest body that is stored, bytes. */
  readonly maxEntry: number;
  /** The response turned out too large to be stored, which its head did not show. */
  readonly outgrown: () => void;
  /** A newer response has been stored since this one was begun, performance.now(). */
  readonly isOutdated: (entry: Entry, begunAt: number) => boolean;
  /** A complete response has been stored. */
  readonly stored: (entry: Entry) => void;
  /** Runs once, when no more bytes will arrive. */
  readonly ended: (fill: Fill) => void;
}

/** One fetch. It is the downstream of its own exchange. */
export class Fill implements Downstream, Source {
  readonly place: Place;
  /** Never rejects. */
  readonly head: Promise<Outcome>;
  /** The outcome for the head; undefined until the head has arrived. */
  outcome: Outcome | undefined = undefined;
  /** The URL was invalidated or purged meanwhile: the response is not stored. */
  isDoomed = false;
  /** Exchanges that wait for the head, or have not taken it yet. */
  #waiting = 0;
  readonly fetch: Exchange;
  readonly #parts: FillParts;
  readonly #leader: Exchange | undefined;
  readonly #clientCert: string | undefined;
  #settle: (outcome: Outcome) => void = () => {};
  readonly #readers = new Set<Reader>();
  #pieces: Buffer[] = [];
  /** The number of the first piece that is still held. */
  #first = 0;
  /** Bytes held here and counted as such. */
  #held = 0;
  /** The response has been stored: the pieces are parts of the stored body, which is lent to each reader. */
  #lent: Entry | undefined = undefined;
  #entry: Entry | undefined = undefined;
  #bytes = 0;
  #isBlocked = false;
  /** While the backend waits for several readers: when their paces are next compared. */
  #pacing: Deadline | undefined = undefined;
  trailers: Fields | undefined = undefined;
  #failure: SallyportError | undefined = undefined;
  readonly #begunAt = performance.now();
  #movedAt = this.#begunAt;
  #asked = 0;
  #idle: Deadline | undefined = undefined;
  #unread: Deadline | undefined = undefined;

  /**
   * @param of the request that it is made for
   * @param conditions in place of the request's own conditions and range; undefined: those are forwarded
   * @param leader gets early hints, and the facts of the upstream for its log; undefined in the background
   */
  constructor(
    of: Exchange,
    clientCert: string | undefined,
    conditions: readonly (readonly [string, string])[] | undefined,
    leader: Exchange | undefined,
    parts: FillParts,
  ) {
    this.place = parts.place;
    this.#parts = parts;
    this.#leader = leader;
    this.#clientCert = clientCert;
    this.head = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.fetch = fetchFor(of, this, conditions);
  }

  /** Sends the request. Call it once. */
  start(): void {
    this.#asked = Date.now();
    this.#watch();
    this.#parts.onward.forward(this.fetch, this.#clientCert);
  }

  // -- from the backend --------------------------------------------------------------------------------------------

  /** Early hints go only to the leader, and only before its response has begun. */
  informational(reply: Reply): void {
    const leader = this.#leader;
    if (leader !== undefined && !leader.responded && !leader.finished) leader.downstream.informational(reply);
  }

  /** Evaluates the head, and settles `head`. */
  respond(reply: Reply, whole: Buffer | undefined): void {
    const { fetch } = this;
    this.#tellLeader();
    if (fetch.failure !== undefined) return this.#fail(fetch.failure);
    fetch.responded = true;
    this.#movedAt = performance.now();
    const outcome = this.#parts.judge(this.#withoutOwn(reply), this.#asked, this);
    if (outcome.kind === 'reply' && outcome.entry !== undefined) this.#store(outcome.entry);
    this.#settleAs(outcome);
    if (whole !== undefined) {
      this.write(whole);
      this.end(emptyFields);
    } else this.#endIfUnread();
  }

  /** False: the window is full, and the carrier waits for `downstreamDrained`. More than `maxEntry` is not stored. */
  write(chunk: Buffer): boolean {
    if (this.isOver || chunk.length === 0) return true;
    this.#movedAt = performance.now();
    pile(this.#pieces, chunk);
    this.#bytes += chunk.length;
    const entry = this.#entry;
    if (entry === undefined) this.#hold(chunk.length);
    else if (this.#bytes > this.#parts.maxEntry) {
      this.#storeNothing();
      this.#parts.outgrown();
    } else if (!this.#parts.store.grow(entry, chunk.length)) this.#storeNothing();
    this.#feed();
    this.#endIfUnread();
    if (this.isOver) return true;
    this.#trim();
    this.#isBlocked = this.#held >= this.#windowBytes;
    if (this.#isBlocked) this.#watchPaces();
    return !this.#isBlocked;
  }

  /** The response is complete. It is stored unless the upstream is no longer trusted or a newer one is stored. */
  end(trailers: Fields): void {
    if (this.isOver) return;
    this.trailers = trailers;
    const entry = this.#entry;
    // An upstream whose certificate expired meanwhile is no longer trusted.
    const isRefused = this.fetch.upstreamPeer?.refusal() !== undefined;
    if (isRefused || (entry !== undefined && this.#parts.isOutdated(entry, this.#begunAt))) this.#storeNothing();
    else if (entry !== undefined) {
      this.#entry = undefined;
      entry.body = this.#join();
      this.#parts.store.add(entry);
      // The store counts it, even if the store drops it while clients still read.
      this.#lent = entry;
      for (let i = 0; i < this.#readers.size; i++) entry.lend();
      this.#parts.stored(entry);
    }
    this.#over();
    this.#feed();
  }

  /** The response broke off: nothing is stored, and its readers are cut. */
  abort(): void {
    const { failure } = this.fetch;
    this.#fail(failure ?? new SallyportError('upstream_closed', 'the response broke off'));
  }

  /** Does nothing: the request has no body. */
  pause(): void {}

  /** Does nothing. */
  resume(): void {}

  /** A fetch never becomes a tunnel: the connection is dropped. */
  tunnel(): void {
    this.drop();
  }

  // -- to its readers ----------------------------------------------------------------------------------------------

  /** Complete or failed: the backend sends nothing more. */
  get isOver(): boolean {
    return this.trailers !== undefined || this.#failure !== undefined;
  }

  /** True if requests may still start to read the response. */
  get isWhole(): boolean {
    return this.#first === 0;
  }

  /** True if other requests may wait for its head. */
  get isOpen(): boolean {
    return this.#parts.isOpen;
  }

  /** An exchange starts to wait for the outcome of the head; `forgo` follows. */
  expect(): void {
    this.#waiting++;
  }

  /** The exchange has taken the outcome or stopped waiting. Otherwise reset requests would keep the backend working. */
  forgo(): void {
    this.#waiting--;
    this.#endIfUnread();
    this.advanced();
  }

  /** Adds a reader, at the first piece that is still held. It leaves by `leave`. */
  join(reader: Reader): void {
    this.#readers.add(reader);
    this.#lent?.lend();
    deadlines.drop(this.#unread);
    this.#unread = undefined;
    // Several readers have a larger window.
    this.advanced();
  }

  /** A reader has left. */
  leave(reader: Reader): void {
    if (this.#readers.delete(reader)) this.#lent?.giveBack();
    this.#endIfUnread();
    this.advanced();
  }

  /** A reader has read on. */
  advanced(): void {
    this.#trim();
    if (this.isOver || !this.#isBlocked) return;
    if (this.#held >= this.#windowBytes) return this.#watchPaces();
    this.#isBlocked = false;
    this.fetch.carrier?.downstreamDrained();
  }

  /** The next bytes for a reader; undefined if they have not arrived yet. */
  next(reader: Reader): Buffer | undefined {
    const needed = this.#needed(reader);
    // The last piece may still grow.
    if (needed > reader.piece && needed < this.#first + this.#pieces.length) {
      reader.piece = needed;
      reader.taken = 0;
    }
    const piece = this.#pieces[reader.piece - this.#first];
    if (piece === undefined || piece.length === reader.taken) return undefined;
    const rest = piece.subarray(reader.taken);
    reader.taken = piece.length;
    // A slice of a piece that grew later would keep that earlier copy alive while the slice waits.
    return 2 * rest.length < piece.length ? Buffer.from(rest) : rest;
  }

  /** The whole body, if it is complete and in one piece. */
  whole(): Buffer | undefined {
    if (this.trailers !== undefined && this.trailers.names.length === 0 && this.isWhole && this.#pieces.length < 2)
      return this.#pieces[0] ?? noBody;
    return undefined;
  }

  /** Why the response ended before it was complete; undefined while it arrives, and after a complete end. */
  get failure(): SallyportError | undefined {
    return this.#failure;
  }

  /** Keeps the response from being stored: it was purged or invalidated while it arrived. */
  doom(): void {
    this.isDoomed = true;
    this.#storeNothing();
    this.#endIfUnread();
  }

  /** Ends the fetch: no client reads it. */
  drop(): void {
    if (this.isOver) return;
    const { carrier } = this.fetch;
    this.#fail(new SallyportError('upstream_closed', 'no client reads the response'));
    carrier?.downstreamGone();
  }

  // -- inside ------------------------------------------------------------------------------------------------------

  get #windowBytes(): number {
    return this.#readers.size > 1 ? Math.max(windowBytes, this.#parts.maxEntry) : windowBytes;
  }

  #store(entry: Entry): void {
    const begun = this.#parts.store.begin(entry, () => {
      this.#storeNothing();
      this.#endIfUnread();
    });
    if (begun) this.#entry = entry;
    else entry.isGone = true;
  }

  /** Stops storing: the response is too large, was purged, or makes room for others. Only its readers hold it then. */
  #storeNothing(): void {
    const entry = this.#entry;
    if (entry === undefined) return;
    this.#entry = undefined;
    entry.isGone = true;
    this.#parts.store.release(entry);
    this.#hold(this.#bytes);
  }

  /** Joins the body into one piece. Unread pieces become parts of it, so that it is in memory once. */
  #join(): Buffer {
    const [only] = this.#pieces;
    if (this.#pieces.length < 2) return only ?? noBody;
    const body = Buffer.allocUnsafeSlow(this.#bytes);
    let at = 0;
    this.#pieces = this.#pieces.map((piece) => {
      piece.copy(body, at);
      at += piece.length;
      return body.subarray(at - piece.length, at);
    });
    return body;
  }

  /** Without a client, a response that is not stored ends, and one being stored gets a time limit. */
  #endIfUnread(): void {
    if (this.#readers.size > 0 || this.#waiting > 0) return;
    if (this.isOver) {
      this.#pieces = [];
      this.#hold(-this.#held);
    } else if (this.#entry === undefined) this.drop();
    else
      this.#unread ??= deadlines.set(Math.min(unreadMs, this.fetch.rules.limits.streamIdleMs), () => {
        this.#storeNothing();
        this.#endIfUnread();
      });
  }

  #feed(): void {
    for (const reader of this.#readers) reader.pump();
  }

  /** Drops the pieces that all readers have read. */
  #trim(): void {
    // Parts of a stored body are in memory until the last reader has gone.
    if (this.#entry !== undefined || this.#lent !== undefined || this.#waiting > 0 || this.#readers.size === 0) return;
    let least = this.#first + this.#pieces.length;
    for (const reader of this.#readers) least = Math.min(least, this.#needed(reader));
    const read = this.#pieces.splice(0, least - this.#first);
    this.#first = least;
    for (const { length } of read) this.#hold(-length);
  }

  /** The number of the first piece that a reader has not read to its end. */
  #needed({ piece, taken }: Reader): number {
    const { length } = this.#pieces[piece - this.#first] ?? noBody;
    return Math.max(this.#first, taken > 0 && taken === length ? piece + 1 : piece);
  }

  /** Cuts the slow readers when the backend waits for several readers. */
  #watchPaces(): void {
    if (this.#pacing !== undefined || this.#readers.size < 2) return;
    const before = new Map([...this.#readers].map((reader) => [reader, reader.bytes]));
    this.#pacing = deadlines.set(paceMs, () => {
      this.#pacing = undefined;
      if (this.isOver || !this.#isBlocked) return;
      // A reader that has read everything so far cannot be too slow; one that has just begun has no pace yet.
      const isSlow = (reader: Reader): boolean =>
        reader.bytes < this.#bytes && reader.bytes - (before.get(reader) ?? Number.NaN) < leastPaceBytes;
      const slow = [...this.#readers].filter(isSlow);
      // If all readers are slow, there is none to protect.
      if (slow.length < this.#readers.size) for (const reader of slow) reader.cut(tooSlow());
      if (this.#isBlocked) this.#watchPaces();
    });
  }

  #hold(bytes: number): void {
    this.#held += bytes;
    hold(bytes);
  }

  #tellLeader(): void {
    if (this.#leader !== undefined) copyUpstream(this.fetch, this.#leader);
  }

  /** Drops fields that the path added for one client, such as a cookie that chooses its endpoint. */
  #withoutOwn(reply: Reply): Reply {
    const { replyFields } = this.fetch;
    if (replyFields === undefined) return reply;
    const own = replyFields.names.length;
    const leader = this.#leader;
    if (leader !== undefined && !leader.responded)
      leader.replyFields = addFields(
        leader.replyFields ?? emptyFields,
        replyFields.names.map(({ lower }, i) => [lower, replyFields.values[i]!] as const),
      );
    const { names, values } = reply.fields;
    return { ...reply, fields: { names: names.slice(0, -own), values: values.slice(0, -own) } };
  }

  #settleAs(outcome: Outcome): void {
    this.outcome ??= outcome;
    this.#settle(this.outcome);
  }

  #fail(error: SallyportError): void {
    if (this.isOver) return;
    this.#failure = error;
    this.#storeNothing();
    this.#settleAs({ kind: 'failed', error });
    this.#over();
    this.#feed();
  }

  #over(): void {
    this.fetch.finished = true;
    deadlines.drop(this.#idle);
    deadlines.drop(this.#unread);
    deadlines.drop(this.#pacing);
    this.#parts.ended(this);
    this.#endIfUnread();
  }

  /** No codec watches this exchange. */
  #watch(): void {
    const { streamIdleMs } = this.fetch.rules.limits;
    const left = this.#movedAt + streamIdleMs - performance.now();
    this.#idle = deadlines.set(Math.max(left, 1), () => {
      if (this.isOver) return;
      if (this.#isBlocked || performance.now() - this.#movedAt < streamIdleMs) return this.#watch();
      this.fetch.carrier?.idle();
      if (!this.isOver) this.drop();
    });
  }
}

function tooSlow(): SallyportError {
  const pace = `${leastPaceBytes} bytes a second`;
  return new SallyportError('stream_idle', `the client reads less than ${pace}, and others wait for the same response`);
}

/** The upstream's address and identity: for the log, and to re-evaluate it after a change of trust. */
export function copyUpstream(from: Exchange, to: Exchange): void {
  to.upstreamAddress = from.upstreamAddress;
  to.upstreamLocalAddress = from.upstreamLocalAddress;
  to.upstreamPeer = from.upstreamPeer;
  to.upstreamAttempts = from.upstreamAttempts;
  to.upstreamServiceMs = from.upstreamServiceMs;
  to.validUntil = Math.min(to.validUntil, from.validUntil);
}

/** A request of our own for the same resource. Response hooks run for each client, not for this request. */
function fetchFor(
  of: Exchange,
  downstream: Downstream,
  conditions: readonly (readonly [string, string])[] | undefined,
): Exchange {
  const { connection, rules, fields, phases } = of;
  const fetch = new Exchange({ ...factsFor(connection), requests: 0 }, downstream, rules, fields);
  Object.assign(fetch, {
    ...{ method: 'GET', target: of.target, path: of.path, authority: of.authority, minor: of.minor },
    ...{ taken: of.taken, judges: of.judges, userAgent: of.userAgent, forwardedFor: of.forwardedFor },
    ...{ requestId: of.requestId, requestIdGiven: of.requestIdGiven, hopFields: of.hopFields },
    ...{ route: of.route, listener: of.listener, edge: of.edge, scheme: of.scheme },
    ...{ decision: of.decision, auth: of.auth, tokenValidUntil: of.tokenValidUntil, clientId: of.clientId },
    ...{ authMethod: of.authMethod, clientIp: of.clientIp, received: of.received },
    slots: of.slots?.slice(),
    phases:
      phases === undefined
        ? undefined
        : {
            ...phases,
            before: [],
            serve: [],
            received: [],
            reply: [],
            watch: [],
            denial: [],
            body: undefined,
            finished: [],
          },
  });
  if (conditions !== undefined)
    fetch.fields = addFields(
      filterFields(fields, ({ lower }) => !conditional.has(lower)),
      conditions,
    );
  return fetch;
}

/** Only the facts: a fetch outlives the connection for which it was started. */
function factsFor(connection: Exchange['connection']): Exchange['connection'] {
  const { id, requests, peer, remoteAddress, localAddress, remoteIp, localIp, tls, serverName, listener } = connection;
  return {
    ...{ id, requests, peer, remoteAddress, localAddress, remoteIp, localIp, tls, serverName, listener },
    client: connection.client,
  };
}
