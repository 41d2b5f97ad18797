// The messages of a gRPC body that arrives in pieces, each up to a limit.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { hold } from '../../exchange/held-bytes.ts';

const prefixBytes = 5;

/** Reads one direction of one call. Its buffered bytes count among the process's held bytes until `drop`. */
export class MessageReader {
  readonly #limit: number;
  #pieces: Buffer[] = [];
  #bytes = 0;
  /** Of the current message with its prefix; undefined until the prefix has arrived. */
  #wanted: number | undefined = undefined;

  /** @param limit bytes of one message */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** True between two messages: a body may end here. */
  get isBetween(): boolean {
    return this.#bytes === 0;
  }

  /**
   * The messages that are complete now. @throws SallyportError `grpc_response_too_large`, or `upstream_answer_malformed`
   * for a compressed message, which was not requested.
   */
  read(chunk: Buffer): Buffer[] {
    const found: Buffer[] = [];
    this.#pieces.push(chunk);
    this.#bytes += chunk.length;
    hold(chunk.length);
    while (this.#bytes >= (this.#wanted ?? prefixBytes)) {
      const all = this.#joined();
      this.#wanted ??= this.#wantedBy(all);
      if (this.#bytes < this.#wanted) break;
      found.push(all.subarray(prefixBytes, this.#wanted));
      this.#keep(all.subarray(this.#wanted));
      this.#wanted = undefined;
    }
    return found;
  }

  #joined(): Buffer {
    if (this.#pieces.length > 1) this.#pieces = [Buffer.concat(this.#pieces)];
    return this.#pieces[0]!;
  }

  #wantedBy(all: Buffer): number {
    if (all[0] !== 0)
      throw new SallyportError('upstream_answer_malformed', 'a message has an unknown flag, or is compressed');
    const length = all.readUInt32BE(1);
    if (length > this.#limit)
      throw new SallyportError(
        'grpc_response_too_large',
        `a message of ${length} bytes (maxResponseBodySize: ${this.#limit})`,
      );
    return prefixBytes + length;
  }

  #keep(rest: Buffer): void {
    hold(rest.length - this.#bytes);
    this.#pieces = rest.length === 0 ? [] : [rest];
    this.#bytes = rest.length;
  }

  /** Drops the remaining bytes. */
  drop(): void {
    this.#keep(Buffer.alloc(0));
  }
}
