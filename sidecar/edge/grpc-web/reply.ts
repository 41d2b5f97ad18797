// The response to a gRPC-Web call: the backend's trailers become the last frame of the body, where a browser can read
// them. Each piece is sent on as it arrives.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { addFields, filterFields } from '../../exchange/fields.ts';
import { emptyFields, type FieldName, type Fields, type Reply } from '../../exchange/message.ts';
import { PassingDownstream } from '../../exchange/passing.ts';
import { MessageCounter } from '../../protocol/grpc.ts';
import { replyTypeOf } from './media-type.ts';

/** The flag of a frame that holds trailers. */
const trailersFlag = 0x80;

/** gRPC's status of a response without one. */
const unknown: readonly (readonly [string, string])[] = [
  ['grpc-status', '2'],
  ['grpc-message', 'the response has no grpc-status'],
];

/** The trailers among the fields of a response without messages: the others are its metadata. */
const isStatus = ({ lower }: FieldName): boolean => lower.startsWith('grpc-status') || lower === 'grpc-message';

const hasStatus = ({ names }: Fields): boolean => names.some(({ lower }) => lower === 'grpc-status');

/** The last frame: trailers as lines of an HTTP/1.1 head, names in lower case. */
export function trailersFrame({ names, values }: Fields): Buffer {
  const lines = Buffer.from(names.map(({ lower }, i) => `${lower}: ${values[i]!}\r\n`).join(''), 'latin1');
  const frame = Buffer.allocUnsafe(5 + lines.length);
  frame[0] = trailersFlag;
  frame.writeUInt32BE(lines.length, 1);
  lines.copy(frame, 5);
  return frame;
}

/**
 * Stands in front of the client's codec for the whole call, so that refusals are in its form as well. A response that
 * breaks off gets no last frame: the client sees that something is missing.
 */
export class WebReply extends PassingDownstream {
  readonly #exchange: Exchange;
  readonly #isText: boolean;
  readonly #fail: (error: SallyportError) => void;
  /** Undefined for a response that is not gRPC, which passes unchanged. */
  #messages: MessageCounter | undefined = undefined;

  /** `fail` ends the response so that it cannot look complete. */
  constructor(exchange: Exchange, isText: boolean, fail: (error: SallyportError) => void) {
    super(exchange.downstream);
    this.#exchange = exchange;
    this.#isText = isText;
    this.#fail = fail;
  }

  /** A response that is not gRPC passes unchanged. A complete one gets its last frame at once. */
  override respond(reply: Reply, whole: Buffer | undefined): void {
    const type = replyTypeOf(headerOf(this.#exchange, 'content-type', reply.fields), this.#isText);
    if (type === undefined) return this.inner.respond(reply, whole);
    const isAll = whole !== undefined || reply.framing === 0 || hasStatus(reply.fields);
    const others = filterFields(reply.fields, (name) => name.lower !== 'content-type' && !(isAll && isStatus(name)));
    const fields = addFields(others, [['content-type', type]]);
    if (!isAll) {
      this.#messages = new MessageCounter();
      return this.inner.respond({ ...reply, fields, framing: 'chunked', declaredLength: undefined }, undefined);
    }
    const trailers = filterFields(reply.fields, isStatus);
    const body = this.#written(Buffer.concat([whole ?? empty, trailersFrame(this.#withStatus(trailers))]));
    this.inner.respond({ ...reply, fields, framing: body.length, declaredLength: undefined }, body);
  }

  /** As the client's codec; the bytes in base64 for `grpc-web-text`. */
  override write(chunk: Buffer): boolean {
    if (this.#messages === undefined) return this.inner.write(chunk);
    this.#messages.read(chunk);
    return this.inner.write(this.#written(chunk));
  }

  /** The trailers become the last frame. A response that ends within a message is failed instead. */
  override end(trailers: Fields): void {
    if (this.#messages === undefined) return this.inner.end(trailers);
    // A client would read the trailers as the rest of the message.
    if (!this.#messages.isBetween)
      return this.#fail(new SallyportError('upstream_answer_malformed', 'the response ends within a message'));
    this.inner.write(this.#written(trailersFrame(this.#withStatus(trailers))));
    this.inner.end(emptyFields);
  }

  /** Each piece is padded by itself: no byte waits for the next message. */
  #written(bytes: Buffer): Buffer {
    return this.#isText ? Buffer.from(bytes.toString('base64'), 'latin1') : bytes;
  }

  #withStatus(trailers: Fields): Fields {
    if (hasStatus(trailers)) return trailers;
    this.#exchange.grpcStatus = 2;
    return addFields(
      filterFields(trailers, (name) => !isStatus(name)),
      unknown,
    );
  }
}

const empty = Buffer.alloc(0);
