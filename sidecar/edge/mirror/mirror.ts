// Sends a copy of a request to another backend and drops its response. The request never waits for the copy, which
// holds little memory and is dropped if its backend is slow.

import type { Carrier } from '../../exchange/ends.ts';
import { type Exchange, type Route, Slot } from '../../exchange/exchange.ts';
import { filterFields, withoutJudged, withoutTaken } from '../../exchange/fields.ts';
import { hold, pile } from '../../exchange/held-bytes.ts';
import type { Call, Fields } from '../../exchange/message.ts';
import type { Choice, UpstreamConnection, UpstreamEvents } from '../../exchange/upstream.ts';
import { transactionTokenField } from '../../policy/transaction-token.ts';
import { type Deadline, deadlines } from '../../upstream/deadlines.ts';
import type { MirrorOutcome, MirrorOutcomes } from './metrics.ts';

/** How much of a body one copy may hold for a slow mirror. */
const heldBytes = 64 * 1024;
/** The time for the mirror's response after the request's end. */
const answerMs = 15_000;
/** Copies in flight in total: a mirror that hangs must not exhaust our connections. */
const maxCopies = 256;

/** The destination of a rule's copies. */
export interface Mirror {
  readonly route: Route;
  /** The share of the requests, from 0 to 1. */
  readonly share: number;
}

/** The copies of one exchange whose body is incomplete. */
const unfinished = new Slot<readonly Copy[]>();

/** The copies of one process. */
export class Copies {
  readonly outcomes: MirrorOutcomes = { answered: 0, failed: 0, dropped: 0 };
  readonly #inFlight = new Set<Copy>();
  readonly #draw: () => number;

  /** `draw` returns a number from 0 to 1. */
  constructor(draw: () => number = Math.random) {
    this.#draw = draw;
  }

  /** Sends the copies of a request that is being forwarded. */
  begin(exchange: Exchange, mirrors: readonly Mirror[], clientCert: string | undefined): void {
    // A tunnel is a dialogue: its bytes cannot be sent to a second backend.
    if (exchange.webSocket || exchange.method === 'CONNECT') return;
    const { framing, wholeBody, carrier } = exchange;
    const hasAll = framing === 0 || wholeBody !== undefined;
    // A request that has ended already brings no more of its body.
    if (!hasAll && carrier === undefined) return;
    const begun: Copy[] = [];
    for (const { route, share } of mirrors) {
      if (share < 1 && this.#draw() >= share) continue;
      if (this.#inFlight.size >= maxCopies) this.outcomes.dropped++;
      else begun.push(this.#copy(exchange, route, clientCert));
    }
    if (begun.length === 0 || hasAll) return;
    exchange.carrier = new Teed(carrier!, begun);
    unfinished.set(exchange, begun);
  }

  /** A request that got its response before its body was complete sends no more of it: its copies end. */
  finished(exchange: Exchange): void {
    for (const copy of unfinished.get(exchange) ?? []) copy.abandon();
  }

  /** The process leaves: a silent mirror must not delay it. */
  drop(): void {
    for (const copy of this.#inFlight) copy.drop();
  }

  #copy(exchange: Exchange, route: Route, clientCert: string | undefined): Copy {
    const copy = new Copy(exchange, route, clientCert, (outcome) => {
      this.#inFlight.delete(copy);
      this.outcomes[outcome]++;
    });
    this.#inFlight.add(copy);
    return copy;
  }
}

/** The copy's request: without the transaction token, which is addressed to the backend alone. */
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

/** Forwards the body, and passes it to each copy as well. */
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
  readonly #ended: (outcome: MirrorOutcome) => void;
  readonly #whole: Buffer | undefined;
  #upstream: UpstreamConnection | undefined = undefined;
  #held: Buffer[] = [];
  #heldBytes = 0;
  /** The mirror's connection is full for now. */
  #isBlocked = true;
  #trailers: Fields | undefined = undefined;
  #deadline: Deadline | undefined = undefined;

  constructor(
    exchange: Exchange,
    { destination }: Route,
    clientCert: string | undefined,
    ended: (outcome: MirrorOutcome) => void,
  ) {
    this.#exchange = exchange;
    this.#ended = ended;
    this.#call = callOf(exchange, clientCert);
    this.#whole = exchange.wholeBody;
    if (exchange.framing === 0 || this.#whole !== undefined) this.#awaitAnswer();
    // A failure of the mirror never reaches the request, whenever it comes.
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

  /** The client has gone, or has its response, before its body was complete. */
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

  // -- the mirror's response, which is dropped ------------------------------------------------------------------------

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
    deadlines.drop(this.#deadline);
    this.#takeHeld();
    this.#upstream = undefined;
    this.#ended(outcome);
  }
}
