// The server's response on its way to the client: JSON as a whole, events one by one, without names that the caller
// may not use.

import { asSallyportError, type SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { filterFields } from '../../exchange/fields.ts';
import { hold, pile } from '../../exchange/held-bytes.ts';
import { emptyFields, type Fields, type Reply } from '../../exchange/message.ts';
import { PassingDownstream } from '../../exchange/passing.ts';
import { isInUtf8, isJson, isPlain, readContentType } from '../content.ts';
import { EventReader, type EventRules } from './events.ts';
import { filterMessages, malformed, type Sees } from './filter.ts';

/** How a response is changed. */
export interface ReplyRules extends Pick<EventRules, 'id' | 'limit'> {
  readonly sees: Sees;
  /** Ends the exchange with an error, and the request at the server. */
  readonly fail: (error: SallyportError) => void;
}

/** Wraps the client's codec. */
export class McpReply extends PassingDownstream {
  readonly #exchange: Exchange;
  readonly #rules: ReplyRules;
  #events: EventReader | undefined = undefined;
  /** The head of a JSON response, or of one without a message, whose body is not complete. */
  #head: Reply | undefined = undefined;
  /** How a body that is no message is treated: refused, or left out where clients expect no message. */
  #other: 'refused' | 'left out' | undefined = undefined;
  #pieces: Buffer[] = [];
  #bytes = 0;
  #isOver = false;

  constructor(exchange: Exchange, rules: ReplyRules) {
    super(exchange.downstream);
    this.#exchange = exchange;
    this.#rules = rules;
  }

  override respond(reply: Reply, whole: Buffer | undefined): void {
    // Our own refusals are sent unchanged, and so are responses without a body.
    const isEmpty = whole === undefined ? reply.framing === 0 : whole.length === 0;
    if (this.#exchange.failure !== undefined || isEmpty) return this.inner.respond(reply, whole);
    try {
      this.#begin(reply, whole);
    } catch (error) {
      this.#giveUp(error);
    }
  }

  #begin(reply: Reply, whole: Buffer | undefined): void {
    const written = headerOf(this.#exchange, 'content-type', reply.fields);
    const type = readContentType(written ?? '');
    const isEvents = type?.type === 'text/event-stream';
    if (!isEvents && (type === undefined || !isJson(type.type))) {
      // An error page of the server or of a proxy before it.
      if (reply.status >= 400) return this.inner.respond(reply, whole);
      this.#other = isWithoutMessage(this.#exchange.method, reply.status) ? 'left out' : 'refused';
    }
    if (reply.status === 206) throw malformed('is a part of a response');
    if (this.#other !== undefined) return this.#gatherFor(reply, whole);
    if (!isInUtf8(type!) || !isPlain(headerOf(this.#exchange, 'content-encoding', reply.fields)))
      throw malformed('has an encoding that was not requested');
    if (!isEvents) return this.#gatherFor(reply, whole);
    const { sees, id, limit } = this.#rules;
    this.#events = new EventReader({ data: (text) => filterMessages(text, sees), id, limit });
    if (whole === undefined)
      return this.inner.respond({ ...reply, framing: 'chunked', declaredLength: undefined }, undefined);
    const body = this.#events.read(whole);
    this.#events.drop();
    this.inner.respond({ ...reply, framing: body.length, declaredLength: body.length }, body);
  }

  #gatherFor(head: Reply, whole: Buffer | undefined): void {
    this.#head = head;
    if (whole !== undefined) this.#finish(whole);
  }

  override write(chunk: Buffer): boolean {
    if (this.#isOver) return true;
    try {
      if (this.#head !== undefined) return this.#gather(chunk);
      if (this.#events === undefined) return this.inner.write(chunk);
      const out = this.#events.read(chunk);
      return out.length === 0 || this.inner.write(out);
    } catch (error) {
      this.#giveUp(error);
      return true;
    }
  }

  #gather(chunk: Buffer): true {
    if (this.#other === 'refused') throw malformed(noMessage);
    pile(this.#pieces, chunk);
    this.#bytes += chunk.length;
    hold(chunk.length);
    if (this.#bytes > this.#rules.limit) throw malformed(`has more than ${this.#rules.limit} bytes`);
    return true;
  }

  override end(trailers: Fields): void {
    if (this.#isOver) return;
    if (this.#head === undefined) {
      if (this.#events === undefined) return this.inner.end(trailers);
      // The rest is not a complete event: clients drop it. Trailers described other bytes, or hold a session's ID.
      this.#events.drop();
      return this.inner.end(emptyFields);
    }
    try {
      const body = Buffer.concat(this.#pieces);
      this.drop();
      this.#finish(body);
    } catch (error) {
      this.#giveUp(error);
    }
  }

  /** A JSON response. Its trailers described other bytes. */
  #finish(body: Buffer): void {
    if (body.length > this.#rules.limit) throw malformed(`has more than ${this.#rules.limit} bytes`);
    if (this.#other !== undefined) return this.#finishWithout(body);
    const kept = filterMessages(body, this.#rules.sees) ?? emptyBatch;
    this.#isOver = true;
    this.inner.respond({ ...this.#head!, framing: kept.length, declaredLength: kept.length }, kept);
  }

  /** A response without a message: only its head goes on. */
  #finishWithout(body: Buffer): void {
    if (this.#other === 'refused' && body.length > 0) throw malformed(noMessage);
    this.#isOver = true;
    const { fields, ...head } = this.#head!;
    const kept = filterFields(fields, ({ lower }) => lower !== 'content-type' && lower !== 'content-encoding');
    this.inner.respond({ ...head, fields: kept, framing: 0, declaredLength: 0 }, none);
  }

  #giveUp(error: unknown): void {
    this.#isOver = true;
    this.drop();
    this.#rules.fail(asSallyportError(error, 'internal', 'the response could not be filtered'));
  }

  /** Releases the bytes of a response that did not end. */
  drop(): void {
    this.#events?.drop();
    hold(-this.#bytes);
    this.#bytes = 0;
    this.#pieces = [];
  }

  override abort(): void {
    this.#isOver = true;
    this.drop();
    this.inner.abort();
  }
}

const none = Buffer.alloc(0);
const noMessage = 'is neither JSON nor a stream of events';

/** True where clients read no body: servers write `Accepted` or a page there. */
function isWithoutMessage(method: string, status: number): boolean {
  return status === 202 || method === 'DELETE' || (status >= 300 && status < 400);
}

const emptyBatch = Buffer.from('[]');
