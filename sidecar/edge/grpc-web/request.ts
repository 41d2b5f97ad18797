// The body of a gRPC-Web request on its way to the backend: base64 is decoded, and a truncated body never looks
// complete there.

import { asSallyportError, SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Carrier } from '../../exchange/ends.ts';
import type { Fields } from '../../exchange/message.ts';
import { MessageCounter } from '../../protocol/grpc.ts';
import { Base64Reader } from './base64.ts';

/** Reads the body of one call. All methods throw a SallyportError `grpc_web_malformed`. */
export class WebBody {
  readonly #messages = new MessageCounter();
  readonly #base64: Base64Reader | undefined;

  constructor(isText: boolean) {
    this.#base64 = isText ? new Base64Reader() : undefined;
  }

  /** The bytes for the backend. */
  read(piece: Buffer): Buffer {
    const bytes = this.#base64 === undefined ? piece : this.#base64.read(piece);
    this.#messages.read(bytes);
    // PROTOCOL-WEB has trailers in responses only (flag 0x80). gRPC itself has no flag but 1.
    if (this.#messages.flags > 1)
      throw new SallyportError('grpc_web_malformed', 'a message of the body has an unknown flag');
    return bytes;
  }

  /** Call it once, after the last piece. */
  end(): void {
    this.#base64?.end();
    if (!this.#messages.isBetween) throw new SallyportError('grpc_web_malformed', 'the body ends within a message');
  }

  /** A whole body at once. */
  readWhole(body: Buffer): Buffer {
    const bytes = this.read(body);
    this.end();
    return bytes;
  }
}

/** Wraps the carrier of a body that arrives in pieces. */
export class WebRequest implements Carrier {
  readonly #inner: Carrier;
  readonly #body: WebBody;
  readonly #fail: (error: SallyportError) => void;

  /** `fail` refuses the call. */
  constructor(inner: Carrier, body: WebBody, fail: (error: SallyportError) => void) {
    this.#inner = inner;
    this.#body = body;
    this.#fail = fail;
  }

  /** Passes the decoded bytes on. A malformed body is refused, and the rest of it is dropped. */
  requestData(chunk: Buffer): boolean {
    try {
      const bytes = this.#body.read(chunk);
      return bytes.length === 0 || this.#inner.requestData(bytes);
    } catch (error) {
      return this.#refuse(error);
    }
  }

  /** Passes the end on only if the body is complete. */
  requestEnd(trailers: Fields): void {
    try {
      this.#body.end();
    } catch (error) {
      this.#refuse(error);
      return;
    }
    this.#inner.requestEnd(trailers);
  }

  /** The backend must see that the call is cut, not that it has ended. */
  #refuse(error: unknown): true {
    this.#inner.downstreamGone();
    this.#fail(asSallyportError(error, 'internal', 'the body could not be read'));
    return true;
  }

  /** The bytes that wait behind it: it holds at most a part of a base64 group. */
  get waitingBytes(): number {
    return this.#inner.waitingBytes ?? 0;
  }

  /** Unchanged. */
  downstreamDrained(): void {
    this.#inner.downstreamDrained();
  }

  /** Unchanged. */
  downstreamGone(): void {
    this.#inner.downstreamGone();
  }

  /** Unchanged. */
  idle(): void {
    this.#inner.idle();
  }
}
