// One response on its way from the backend, read by several clients while it arrives and, if it may be, stored. It is
// fetched by an exchange of its own, so that a client that leaves ends nothing for the others. A response that is not
// stored is held only as far as its slowest reader has not read it.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { noBody } from '../../exchange/answer.ts';
import type { Carrier, Downstream } from '../../exchange/ends.ts';
import { Exchange } from '../../exchange/exchange.ts';
import { addFields, filterFields } from '../../exchange/fields.ts';
import { hold } from '../../exchange/held-bytes.ts';
import { emptyFields, type Fields, type Reply } from '../../exchange/message.ts';
import type { Onward } from '../../exchange/onward.ts';
import { type Deadline, deadlines } from '../../upstream/deadlines.ts';
import { conditional } from './request.ts';
import type { Entry, Place, Store } from './store.ts';

/** How much of a response that is not stored may wait for its only reader. */
const windowBytes = 64 * 1024;

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

export interface FillParts {
  readonly place: Place;
  readonly store: Store;
  readonly onward: Onward;
  readonly judge: Judge;
  /** Other requests may wait for its head. */
  readonly isOpen: boolean;
  /** The largest body that is stored, bytes. */
  readonly maxEntry: number;
  /** A complete response has been stored. */
  readonly stored: (entry: Entry) => void;
  /** Runs once, when nothing more will come. */
  readonly ended: (fill: Fill) => void;
}

/** One fetch. It is the downstream of its own exchange. */
export class Fill implements Downstream {
  readonly place: Place;
  /** Never rejects. */
  readonly head: Promise<Outcome>;
  /** What became of the head; undefined until it has come. */
  outcome: Outcome | undefined = undefined;
  /** An invalidation or a purge came meanwhile: the response is not stored. */
  isDoomed = false;
  /** Exchanges that wait for its head. */
  waiting = 0;
  readonly fetch: Exchange;
  readonly #parts: FillParts;
  readonly #leader: Exchange | undefined;
  readonly #clientCert: string | undefined;
  #settle: (outcome: Outcome) => void = () => {};
  readonly #readers = new Set<Reader>();
  #pieces: Buffer[] = [];
  /** The number of the first piece that is still held. */
  #first = 0;
  /** Bytes held here and not counted by the store. */
  #held = 0;
  #entry: Entry | undefined = undefined;
  #bytes = 0;
  #isBlocked = false;
  trailers: Fields | undefined = undefined;
  #failure: SallyportError | undefined = undefined;
  #movedAt = performance.now();
  #asked = 0;
  #idle: Deadline | undefined = undefined;

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

  start(): void {
    this.#asked = Date.now();
    this.#watch();
    this.#parts.onward.forward(this.fetch, this.#clientCert);
  }

  // -- from the backend --------------------------------------------------------------------------------------------

  informational(reply: Reply): void {
    const leader = this.#leader;
    if (leader !== undefined && !leader.responded && !leader.finished) leader.downstream.informational(reply);
  }

  respond(reply: Reply, whole: Buffer | undefined): void {
    const { fetch } = this;
    this.#tellLeader();
    if (fetch.failure !== undefined) return this.#fail(fetch.failure);
    fetch.responded = true;
    this.#movedAt = performance.now();
    const outcome = this.#parts.judge(this.#withoutOwn(reply), this.#asked, this);
    if (outcome.kind === 'reply') this.#entry = outcome.entry;
    if (this.#entry !== undefined && !this.#reserve(this.#entry, this.#entry.headBytes)) this.#entry = undefined;
    this.#settleAs(outcome);
    if (whole !== undefined) {
      if (whole.length > 0) this.write(whole);
      this.end(emptyFields);
    }
  }

  write(chunk: Buffer): boolean {
    if (this.isOver) return true;
    this.#movedAt = performance.now();
    // A slice would keep the whole read alive that it came with.
    const piece = chunk.buffer.byteLength > 2 * chunk.length ? Buffer.from(new Uint8Array(chunk).buffer) : chunk;
    this.#pieces.push(piece);
    this.#bytes += piece.length;
    const entry = this.#entry;
    if (entry === undefined) this.#hold(piece.length);
    else if (this.#bytes > this.#parts.maxEntry || !this.#reserve(entry, piece.length)) this.#storeNothing();
    this.#feed();
    if (this.#entry === undefined) this.#trim();
    this.#isBlocked = this.#held >= this.#windowBytes;
    if (this.#isBlocked) this.#cutStragglers();
    return !this.#isBlocked;
  }

  end(trailers: Fields): void {
    if (this.isOver) return;
    this.trailers = trailers;
    const entry = this.#entry;
    if (entry !== undefined) {
      entry.body = this.#pieces.length === 1 ? this.#pieces[0]! : Buffer.concat(this.#pieces);
      this.#entry = undefined;
      // An upstream whose certificate ended meanwhile is believed no more.
      if (this.isDoomed || this.fetch.upstreamPeer?.refusal() !== undefined) this.#giveBack(entry);
      else {
        this.#parts.store.add(entry);
        this.#parts.stored(entry);
      }
    }
    this.#over();
    this.#feed();
  }

  abort(): void {
    const { failure } = this.fetch;
    this.#fail(failure ?? new SallyportError('upstream_closed', 'the response broke off'));
  }

  pause(): void {}

  resume(): void {}

  tunnel(): void {
    this.drop();
  }

  // -- to its readers ----------------------------------------------------------------------------------------------

  get isOver(): boolean {
    return this.trailers !== undefined || this.#failure !== undefined;
  }

  /** True if requests may still begin to read it. */
  get isWhole(): boolean {
    return this.#first === 0;
  }

  get isOpen(): boolean {
    return this.#parts.isOpen;
  }

  join(reader: Reader): void {
    this.#readers.add(reader);
  }

  /** A reader has gone. What is stored is completed all the same: its size has a limit. */
  leave(reader: Reader): void {
    this.#readers.delete(reader);
    if (this.#readers.size === 0 && this.#entry === undefined) this.drop();
    else this.advanced();
  }

  /** A reader has read on. */
  advanced(): void {
    if (this.#entry !== undefined || this.isOver) return;
    this.#trim();
    if (!this.#isBlocked || this.#held >= this.#windowBytes) return;
    this.#isBlocked = false;
    this.fetch.carrier?.downstreamDrained();
  }

  /** The piece of this number; undefined if it has not come yet. */
  piece(number: number): Buffer | undefined {
    return this.#pieces[number - this.#first];
  }

  /** The whole body, if it is complete and in one piece. */
  whole(): Buffer | undefined {
    if (this.trailers !== undefined && this.trailers.names.length === 0 && this.isWhole && this.#pieces.length < 2)
      return this.#pieces[0] ?? noBody;
    return undefined;
  }

  get failure(): SallyportError | undefined {
    return this.#failure;
  }

  /** What came is not stored: it was purged or invalidated on its way. */
  doom(): void {
    this.isDoomed = true;
    if (this.#entry !== undefined) this.#entry.isGone = true;
  }

  /** The client that it was fetched for has gone before its head came. */
  dropUnread(): void {
    if (this.#readers.size === 0 && this.#entry === undefined) this.drop();
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

  #reserve(entry: Entry, bytes: number): boolean {
    return !this.isDoomed && this.#parts.store.reserve(entry, bytes);
  }

  /** It is too large after all, or was purged: from here on only its readers hold it. */
  #storeNothing(): void {
    const entry = this.#entry!;
    this.#entry = undefined;
    this.#giveBack(entry);
    this.#hold(this.#bytes);
  }

  #giveBack(entry: Entry): void {
    entry.isGone = true;
    this.#parts.store.release(entry);
  }

  #feed(): void {
    for (const reader of this.#readers) reader.pump();
  }

  /** Drops what all readers have read. */
  #trim(): void {
    let least = this.#first + this.#pieces.length;
    for (const { next } of this.#readers) least = Math.min(least, next);
    if (this.#readers.size === 0) least = this.#first;
    const read = this.#pieces.splice(0, least - this.#first);
    this.#first = least;
    for (const { length } of read) this.#hold(-length);
  }

  /** Of several readers, those that are a whole window behind are cut: they would stop the others. */
  #cutStragglers(): void {
    if (!this.#hasFasterReader()) return;
    for (const reader of [...this.#readers])
      if (reader.next === this.#first)
        reader.cut(
          new SallyportError('stream_idle', 'the client is too far behind others that read the same response'),
        );
  }

  #hasFasterReader(): boolean {
    for (const { next } of this.#readers) if (next > this.#first) return true;
    return false;
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
    if (this.#entry !== undefined) this.#giveBack(this.#entry);
    this.#entry = undefined;
    this.#settleAs({ kind: 'failed', error });
    this.#over();
    this.#feed();
  }

  #over(): void {
    this.fetch.finished = true;
    deadlines.drop(this.#idle);
    this.#hold(-this.#held);
    this.#parts.ended(this);
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

/** One client that reads a fill. */
export class Reader implements Carrier {
  readonly #exchange: Exchange;
  readonly #fill: Fill;
  readonly #onward: Onward;
  /** The number of the next piece. */
  next = 0;
  #isFull = false;
  #isOver = false;
  #isPumping = false;

  constructor(exchange: Exchange, fill: Fill, onward: Onward) {
    this.#exchange = exchange;
    this.#fill = fill;
    this.#onward = onward;
    fill.join(this);
    copyUpstream(fill.fetch, exchange);
    exchange.carrier = this;
  }

  /** Passes on what has come. */
  pump(): void {
    if (this.#isPumping || !this.#exchange.responded) return;
    this.#isPumping = true;
    for (let piece = this.#next(); piece !== undefined; piece = this.#next()) {
      this.next++;
      this.#isFull = !this.#exchange.downstream.write(piece);
    }
    this.#isPumping = false;
    if (this.#isOver || this.#isFull) return;
    const { failure, trailers } = this.#fill;
    if (failure !== undefined) this.cut(failure);
    else if (trailers !== undefined) {
      this.#end();
      this.#exchange.downstream.end(trailers);
    }
  }

  cut(error: SallyportError): void {
    if (this.#isOver) return;
    this.#end();
    this.#onward.refuse(this.#exchange, error);
  }

  requestData(): boolean {
    return true;
  }

  requestEnd(): void {}

  downstreamDrained(): void {
    this.#isFull = false;
    this.pump();
    if (!this.#isOver) this.#fill.advanced();
  }

  downstreamGone(): void {
    this.#end();
  }

  idle(): void {
    const limit = this.#exchange.rules.limits.streamIdleMs;
    this.cut(new SallyportError('stream_idle', `no byte moved for ${limit} ms (limit streamIdleMs)`));
  }

  #next(): Buffer | undefined {
    return this.#isOver || this.#isFull ? undefined : this.#fill.piece(this.next);
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#fill.leave(this);
  }
}

/** The upstream's address and identity: what the log shows, and what a change of trust is judged by. */
function copyUpstream(from: Exchange, to: Exchange): void {
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
    ...{ route: of.route, listener: of.listener, edge: of.edge, session: of.session, scheme: of.scheme },
    ...{ decision: of.decision, auth: of.auth, tokenValidUntil: of.tokenValidUntil, clientId: of.clientId },
    ...{ authMethod: of.authMethod, clientIp: of.clientIp, vouched: of.vouched, received: of.received },
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
