// Joins bytes that arrive in pieces and can only be parsed together. A client that sends one byte at a time must not
// cause a copy of everything that it has sent with each byte.

/**
 * Joins pieces in a buffer that grows by doubling, so that a byte is copied twice on average, however many pieces there
 * are.
 */
export class Gatherer {
  #room: Buffer | undefined = undefined;

  /**
   * `held` followed by `chunk`. `held` is the rest of the last result, up to its end; undefined if nothing is left.
   * Nothing before its end is ever written again, so parts of earlier results stay unchanged.
   */
  append(held: Buffer | undefined, chunk: Buffer): Buffer {
    if (held === undefined) {
      this.#room = undefined;
      return chunk;
    }
    const total = held.length + chunk.length;
    const room = this.#room;
    const at = room === undefined || held.buffer !== room.buffer ? -1 : held.byteOffset - room.byteOffset;
    if (room !== undefined && at >= 0 && at + total <= room.length) {
      chunk.copy(room, at + held.length);
      return room.subarray(at, at + total);
    }
    const made = Buffer.allocUnsafeSlow(Math.max(1024, 2 * total));
    held.copy(made);
    chunk.copy(made, held.length);
    this.#room = made;
    return made.subarray(0, total);
  }
}
