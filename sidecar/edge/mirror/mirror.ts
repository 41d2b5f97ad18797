// RequestMirror (Gateway API, HTTPRequestMirrorFilter): a copy of a request goes to another backend as well, and its answer to
// nobody. The copy is never felt: it waits for nothing that the request does not wait for, holds little, and is dropped when
// its backend is slow.

import type { Carrier } from '../../exchange/ends.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { filterFields, withoutJudged, withoutTaken } from '../../exchange/fields.ts';
import { hold, pile } from '../../exchange/held-bytes.ts';
import type { Call, Fields } from '../../exchange/message.ts';
import type { Choice, Route, UpstreamConnection, UpstreamEvents } from '../../exchange/upstream.ts';
import { countMirrored, type MirrorOutcome } from '../../observe/mirrored.ts';
import { transactionTokenField } from '../../policy/transaction-token.ts';
import { type Deadline, deadlines } from '../../upstream/deadlines.ts';

/** What of a body one copy may hold for a mirror that does not take it. */
const heldBytes = 64 * 1024;
/** From the request's end until its mirror must have answered. */
const answerMs = 15_000;
/** Copies in flight, all together: a mirror that hangs must not fill us with its connections. */
const maxCopies = 256;
const copies = new Set<Copy>();

/** The process leaves: nobody waits for a mirror then, who may have fallen silent. */
export function dropCopies(): void {
  for (const copy of copies) copy.drop();
}

/** Sends the copies of a request that is being forwarded. `draw` gives a number from 0 to 1. */
export function mirrorRequest(
  exchange: Exchange,
  clientCert: string | undefined,
  draw: () => number = Math.random,
): void {
  const mirrors = exchange.edge?.filters.mirrors;
  // What a tunnel carries cannot be said twice.
  if (mirrors === undefined || exchange.webSocket || exchange.method === 'CONNECT') return;
  const { framing, wholeBody, carrier } = exchange;
  const hasAll = framing === 0 || wholeBody !== undefined;
  // A request that has ended already brings no more of its body.
  if (!hasAll && carrier === undefined) return;
  const begun: Copy[] = [];
  for (const { route, share } of mirrors) {
    if (share < 1 && draw() >= share) continue;
    if (copies.size >= maxCopies) countMirrored('dropped');
    else begun.push(new Copy(exchange, route, clientCert));
  }
  if (begun.length === 0 || hasAll) return;
  exchange.carrier = new Teed(carrier!, begun);
  const before = exchange.whenFinished;
  // Of a request that was answered before it had said all nothing more comes, and nobody else would tell its copies.
  exchange.whenFinished = () => {
    before?.();
    for (const copy of begun) copy.abandon();
  };
}

/** The request as the copy has it. Our word on who asks is addressed to the backend, and to nobody else. */
function callOf(exchange: Exchange, clientCert: string | undefined): Omit<Call, 'authority'> {
  return {
    method: exchange.method,
    path: exchange.path,
    fields: filterFields(exchange.fields, ({ folded }) => folded !== transactionTokenField),
    hopFields: exchange.hopFields,
    clientCert,
    requestId: exchange.requestIdGiven ? undefined : exchange.requestId,
    framing: exchange.framing,
    webSocket: false,
    // The copy's body goes when the request's does.
    expectContinue: false,
  };
}

/** What is forwarded, and told to each copy as well. */
class Teed implements Carrier {
  readonly #carrier: Carrier;
  readonly #copies: readonly Copy[];

  constructor(carrier: Carrier, begun: readonly Copy[]) {
    this.#carrier = carrier;
    this.#copies = begun;
  }

  requestData(chunk: Buffer): boolean {
    for (const copy of this.#copies) copy.data(chunk);
    return this.#carrier.requestData(chunk);
  }

  get waitingBytes(): number {
    return this.#carrier.waitingBytes ?? 0;
  }

  requestEnd(trailers: Fields): void {
    for (const copy of this.#copies) copy.end(trailers);
    this.#carrier.requestEnd(trailers);
  }

  downstreamDrained(): void {
    this.#carrier.downstreamDrained();
  }

  downstreamGone(): void {
    for (const copy of this.#copies) copy.abandon();
    this.#carrier.downstreamGone();
  }

  idle(): void {
    this.#carrier.idle();
  }
}

class Copy implements UpstreamEvents, Choice {
  readonly hash = undefined;
  readonly avoid: readonly string[] = [];
  over = false;
  readonly #exchange: Exchange;
  readonly #call: Omit<Call, 'authority'>;
  readonly #whole: Buffer | undefined;
  #upstream: UpstreamConnection | undefined = undefined;
  #held: Buffer[] = [];
  #heldBytes = 0;
  /** The mirror's connection takes no more for now. */
  #isBlocked = true;
  #trailers: Fields | undefined = undefined;
  #deadline: Deadline | undefined = undefined;

  constructor(exchange: Exchange, { destination }: Route, clientCert: string | undefined) {
    this.#exchange = exchange;
    this.#call = callOf(exchange, clientCert);
    this.#whole = exchange.wholeBody;
    copies.add(this);
    if (exchange.framing === 0 || this.#whole !== undefined) this.#awaitAnswer();
    // Its backend's troubles are none of the request's, at whatever moment they come.
    Promise.resolve()
      .then(() => destination.acquire(false, false, this))
      .then((upstream) => (this.over ? upstream.destroy() : this.#send(upstream)))
      .catch(() => this.#finish('failed'));
  }

  data(chunk: Buffer): void {
    if (this.over) return;
    if (!this.#isBlocked) {
      this.#isBlocked = !this.#upstream!.write(chunk);
      return;
    }
    if (this.#heldBytes + chunk.length > heldBytes) return this.drop();
    pile(this.#held, chunk);
    this.#heldBytes += chunk.length;
    hold(chunk.length);
  }

  end(trailers: Fields): void {
    if (this.over) return;
    this.#trailers = withoutJudged(this.#exchange, withoutTaken(this.#exchange, trailers));
    this.#awaitAnswer();
    if (!this.#isBlocked) this.#upstream!.end(this.#trailers);
  }

  /** Whoever asked has gone before he had said all. */
  abandon(): void {
    if (this.#trailers === undefined && this.#whole === undefined) this.drop();
  }

  #send(upstream: UpstreamConnection): void {
    this.#upstream = upstream;
    const { authority } = this.#exchange;
    upstream.send({ ...this.#call, authority: authority === '' ? upstream.address : authority }, this.#whole, this);
    this.upstreamDrained();
  }

  #awaitAnswer(): void {
    this.#deadline = deadlines.set(answerMs, () => this.drop());
  }

  // -- the mirror's answer, which is nobody's ------------------------------------------------------------------------

  upstreamInformational(): void {}

  upstreamReply(_reply: unknown, whole: Buffer | undefined): void {
    if (whole !== undefined) this.#finish('answered');
  }

  upstreamData(): boolean {
    return true;
  }

  upstreamEnd(): void {
    this.#finish('answered');
  }

  upstreamDrained(): void {
    if (this.over) return;
    this.#isBlocked = false;
    for (const chunk of this.#takeHeld()) this.data(chunk);
    if (this.#trailers !== undefined && !this.#isBlocked) this.#upstream!.end(this.#trailers);
  }

  upstreamFailed(): void {
    this.#upstream = undefined;
    this.#finish('failed');
  }

  // -- how it ends ---------------------------------------------------------------------------------------------------

  #takeHeld(): Buffer[] {
    hold(-this.#heldBytes);
    this.#heldBytes = 0;
    return this.#held.splice(0);
  }

  drop(): void {
    const upstream = this.#upstream;
    this.#finish('dropped');
    upstream?.destroy();
  }

  #finish(outcome: MirrorOutcome): void {
    if (this.over) return;
    this.over = true;
    copies.delete(this);
    deadlines.drop(this.#deadline);
    this.#takeHeld();
    this.#upstream = undefined;
    countMirrored(outcome);
  }
}
