// Bytes that arrive in pieces and make no sense before they are together. A client that sends one byte at a time must not have
// all that it has sent copied with each.

/** Joins pieces in room that grows by doubling, so that a byte is copied twice on average however many pieces there are. */
export class Gatherer {
  #room: Buffer | undefined = undefined;

  /**
   * `held` with `chunk` behind it. `held` is what is left of the last result, up to its end; undefined when nothing is. Nothing in
   * front of its end is ever written again, so parts of earlier results stay as they are.
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
