// One response on its way from the backend, read by several clients while it arrives and, if it may be, stored. It is
// fetched by an exchange of its own, so that a client that leaves ends nothing for the others. A response that is not
// stored is held only as far as its slowest reader has not read it, and ends with its last client. All that is held is
// counted: by the store while it is being stored, else as what waits for slow readers.

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

/** How much of a response that is not stored may wait for its only reader. */
const windowBytes = 64 * 1024;

/**
 * Several readers of a response that is not stored get it at the pace of the slowest: it cannot be held for one that is
 * slow, and those that have begun to read it have no other way to its rest. This much each of them reads in a second, or
 * it is cut: no client can slow others down further.
 */
const leastPaceBytes = 256 * 1024;
const paceMs = 1000;

/** How long a response without a client may take to be complete, and no longer than a stream may idle. */
const unreadMs = 10_000;

/** What a fetch came to, once its head is known. */
export type Outcome =
  /** The backend's response, to be read from the fill; `entry` if it is being stored. */
  | { readonly kind: 'reply'; readonly reply: Reply; readonly entry: Entry | undefined }
  /** The stored response was validated. */
  | { readonly kind: 'validated'; readonly entry: Entry }
  /** The backend's 304 is about another response: to be fetched again. */
  | { readonly kind: 'mismatch' }
  | { readonly kind: 'failed'; readonly error: SallyportError };

/** Judges a head: what is made of it. `reply` is without the fields for one client. */
export type Judge = (reply: Reply, asked: number, fill: Fill) => Outcome;

/** What a fill uses. The callbacks are synchronous; `judge` is called once, with the head. */
export interface FillParts {
  readonly place: Place;
  readonly store: Store;
  readonly onward: Onward;
  readonly judge: Judge;
  /** Other requests may wait for its head. */
  readonly isOpen: boolean;
  /** The largest body that is stored, bytes. */
  readonly maxEntry: number;
  /** It is too large to be stored, which its head did not show. */
  readonly outgrown: () => void;
  /** Something newer has been stored since it was begun, performance.now(). */
  readonly isOutdated: (entry: Entry, begunAt: number) => boolean;
  /** A complete response has been stored. */
  readonly stored: (entry: Entry) => void;
  /** Runs once, when nothing more will come. */
  readonly ended: (fill: Fill) => void;
}

/** One fetch. It is the downstream of its own exchange. */
export class Fill implements Downstream, Source {
  readonly place: Place;
  /** Never rejects. */
  readonly head: Promise<Outcome>;
  /** What became of the head; undefined until it has come. */
  outcome: Outcome | undefined = undefined;
  /** An invalidation or a purge came meanwhile: the response is not stored. */
  isDoomed = false;
  /** Exchanges that wait for its head, or have not yet taken what they waited for. */
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
  /** It has been stored: the pieces are parts of the stored body, which is lent to each reader. */
  #lent: Entry | undefined = undefined;
  #entry: Entry | undefined = undefined;
  #bytes = 0;
  #isBlocked = false;
  /** While the backend waits for several readers: when their paces are compared. */
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

  /** Early hints go to the leader alone, while it has no response yet. */
  informational(reply: Reply): void {
    const leader = this.#leader;
    if (leader !== undefined && !leader.responded && !leader.finished) leader.downstream.informational(reply);
  }

  /** Has the head judged, and settles `head`. */
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

  /** It is complete, and stored unless the upstream is not trusted any more or something newer is stored. */
  end(trailers: Fields): void {
    if (this.isOver) return;
    this.trailers = trailers;
    const entry = this.#entry;
    // An upstream whose certificate ended meanwhile is believed no more.
    const isRefused = this.fetch.upstreamPeer?.refusal() !== undefined;
    if (isRefused || (entry !== undefined && this.#parts.isOutdated(entry, this.#begunAt))) this.#storeNothing();
    else if (entry !== undefined) {
      this.#entry = undefined;
      entry.body = this.#join();
      this.#parts.store.add(entry);
      // The store counts it, also if it drops it while they still read.
      this.#lent = entry;
      for (let i = 0; i < this.#readers.size; i++) entry.lend();
      this.#parts.stored(entry);
    }
    this.#over();
    this.#feed();
  }

  /** It broke off: nothing is stored, and its readers are cut. */
  abort(): void {
    const { failure } = this.fetch;
    this.#fail(failure ?? new SallyportError('upstream_closed', 'the response broke off'));
  }

  /** Nothing: its request has no body. */
  pause(): void {}

  /** Nothing. */
  resume(): void {}

  /** A fetch never becomes one: it is dropped. */
  tunnel(): void {
    this.drop();
  }

  // -- to its readers ----------------------------------------------------------------------------------------------

  /** Complete or failed: nothing follows from the backend. */
  get isOver(): boolean {
    return this.trailers !== undefined || this.#failure !== undefined;
  }

  /** True if requests may still begin to read it. */
  get isWhole(): boolean {
    return this.#first === 0;
  }

  /** True if other requests may wait for its head. */
  get isOpen(): boolean {
    return this.#parts.isOpen;
  }

  /** An exchange will take what becomes of its head; `forgo` follows. */
  expect(): void {
    this.#waiting++;
  }

  /** It has taken it, or wants it no more. Otherwise clients could have the backend work by requests that they reset. */
  forgo(): void {
    this.#waiting--;
    this.#endIfUnread();
    this.advanced();
  }

  /** A reader begins, at the first piece that is held. It leaves by `leave`. */
  join(reader: Reader): void {
    this.#readers.add(reader);
    this.#lent?.lend();
    deadlines.drop(this.#unread);
    this.#unread = undefined;
    // Several readers have a larger window.
    this.advanced();
  }

  /** A reader has gone. */
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

  /** What follows for a reader; undefined if it has not come yet. */
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
    // A slice of a piece that grew would keep all of that state of it alive where it waits.
    return 2 * rest.length < piece.length ? Buffer.from(rest) : rest;
  }

  /** The whole body, if it is complete and in one piece. */
  whole(): Buffer | undefined {
    if (this.trailers !== undefined && this.trailers.names.length === 0 && this.isWhole && this.#pieces.length < 2)
      return this.#pieces[0] ?? noBody;
    return undefined;
  }

  /** Why it ended before it was complete; undefined while it goes on, or after its end. */
  get failure(): SallyportError | undefined {
    return this.#failure;
  }

  /** What came is not stored: it was purged or invalidated on its way. */
  doom(): void {
    this.isDoomed = true;
    this.#storeNothing();
    this.#endIfUnread();
  }

  /** Ends it: no client reads it. */
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

  /** It is too large after all, was purged, or makes room for others: from here on only its readers hold it. */
  #storeNothing(): void {
    const entry = this.#entry;
    if (entry === undefined) return;
    this.#entry = undefined;
    entry.isGone = true;
    this.#parts.store.release(entry);
    this.#hold(this.#bytes);
  }

  /** The body in one piece, of which what readers have not read becomes a part: it is in memory once. */
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

  /** Without a client, what is not stored ends, and what is stored has a time to be complete. */
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

  /** Drops what all have read. */
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

  /** Of several readers that the backend waits for, those are cut that hardly read. */
  #watchPaces(): void {
    if (this.#pacing !== undefined || this.#readers.size < 2) return;
    const before = new Map([...this.#readers].map((reader) => [reader, reader.bytes]));
    this.#pacing = deadlines.set(paceMs, () => {
      this.#pacing = undefined;
      if (this.isOver || !this.#isBlocked) return;
      // One that has read all that came may be as fast as it likes; one that has just begun shows no pace yet.
      const isSlow = (reader: Reader): boolean =>
        reader.bytes < this.#bytes && reader.bytes - (before.get(reader) ?? Number.NaN) < leastPaceBytes;
      const slow = [...this.#readers].filter(isSlow);
      // If all are slow, none of them is there to be protected.
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

  /** Without what the path added for one client: a cookie that chooses its endpoint. */
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

/** The upstream's address and identity: what the log shows, and what a change of trust is judged by. */
export function copyUpstream(from: Exchange, to: Exchange): void {
  to.upstreamAddress = from.upstreamAddress;
  to.upstreamLocalAddress = from.upstreamLocalAddress;
  to.upstreamPeer = from.upstreamPeer;
  to.upstreamAttempts = from.upstreamAttempts;
  to.upstreamServiceMs = from.upstreamServiceMs;
  to.validUntil = Math.min(to.validUntil, from.validUntil);
}

/** A request of our own for the same resource. The hooks of responses run for each client, and not for it. */
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
    ...{ addressed: of.addressed, slots: of.slots?.slice() },
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

/** The facts alone: a fetch outlives the connection that it was begun for. */
function factsFor(connection: Exchange['connection']): Exchange['connection'] {
  const { id, requests, peer, remoteAddress, localAddress, remoteIp, localIp, tls, serverName, listener } = connection;
  return {
    ...{ id, requests, peer, remoteAddress, localAddress, remoteIp, localIp, tls, serverName, listener },
    client: connection.client,
  };
}
