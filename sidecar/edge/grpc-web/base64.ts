// Base64 that arrives in pieces. A client may end any piece of its own with padding, so padding may be in the middle.

import { SallyportError } from '../../../cert-agent/base/errors.ts';

const groups = /^(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)*$/;

/** Decodes one body. */
export class Base64Reader {
  /** The start of a group of four characters. */
  #rest = '';

  /** The bytes that are complete. @throws SallyportError `grpc_web_malformed`. */
  read(piece: Buffer): Buffer {
    const text = this.#rest + piece.toString('latin1');
    const whole = text.length - (text.length % 4);
    this.#rest = text.slice(whole);
    const complete = text.slice(0, whole);
    if (!groups.test(complete)) throw new SallyportError('grpc_web_malformed', 'the body is not base64');
    // A padded group ends what Buffer decodes at once.
    const parts = complete.match(/[^=]+=*/g) ?? [];
    return parts.length === 1
      ? Buffer.from(complete, 'base64')
      : Buffer.concat(parts.map((part) => Buffer.from(part, 'base64')));
  }

  /** @throws SallyportError `grpc_web_malformed` if it ends within a group. */
  end(): void {
    if (this.#rest !== '') throw new SallyportError('grpc_web_malformed', 'the base64 of the body is truncated');
  }
}
