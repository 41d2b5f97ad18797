// Where access-log lines go: gathered for 100 ms, written asynchronously, bounded. kill -9 may lose those 100 ms. Past
// the bound, lines of allowed requests are dropped and counted; a refusal waits for room, it is never dropped.
//
// Lines are copied into buffers that are used again and again: held as strings they would live long enough to be moved
// to the old generation, which cost 80 MB of memory and a fifth of the CPU time of a request (measured).

import { closeSync, openSync, write, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '../../cert-agent/base/errors.ts';

const flushMs = 100;
const maxHeldBytes = 8 * 1024 * 1024;
const blockBytes = 256 * 1024;
/** A pipe that is full says EAGAIN; asked again after this. */
const retryMs = 10;
const closeMs = 1000;
const pipeBytes = 4096;

export class LogFile {
  readonly #file: number;
  readonly #onDrop: () => void;
  /** Full blocks that wait, oldest first; the one being written is the first. */
  readonly #full: Buffer[] = [];
  readonly #spare: Buffer<ArrayBufferLike>[] = [];
  #block: Buffer = Buffer.allocUnsafeSlow(blockBytes);
  #used = 0;
  #heldBytes = 0;
  #writing = false;
  #closing = false;
  readonly #most: number;
  #whenWritten: (() => void) | undefined = undefined;
  /** How much of the first full block is written already. */
  #written = 0;
  readonly #waiting: (() => void)[] = [];
  readonly #timer: NodeJS.Timeout;

  /**
   * `target` is a path, or `stdout`. Where several processes share it, pieces are written that a pipe takes whole (PIPE_BUF), so
   * that no line of one ends up inside of another's; a file that is appended to takes any length whole.
   */
  constructor(target: string, onDrop: () => void, shared = false) {
    this.#most = shared && target === 'stdout' ? pipeBytes : Number.POSITIVE_INFINITY;
    this.#file = target === 'stdout' ? 1 : openSync(target, 'a', 0o640);
    this.#onDrop = onDrop;
    this.#timer = setInterval(() => this.#flush(), flushMs);
    this.#timer.unref();
  }

  get full(): boolean {
    return this.#heldBytes + this.#used > maxHeldBytes;
  }

  /** Takes one line, newline included, in ASCII. `droppable` lines go when there is no room. */
  add(line: string, droppable: boolean): void {
    if (droppable && this.full) {
      this.#onDrop();
      return;
    }
    if (this.#used + line.length > this.#block.length) this.#turnOver(line.length);
    this.#used += this.#block.write(line, this.#used, 'latin1');
  }

  /** Calls `run` once there is room again; at once when there is. */
  whenRoom(run: () => void): void {
    if (this.full) this.#waiting.push(run);
    else run();
  }

  /** Writes what is held; for the end of the process. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#turnOver(0);
    this.#closing = true;
    // What is being written must not be written twice; a reader that takes nothing is not waited for.
    if (this.#writing)
      await Promise.race([
        new Promise<void>((done) => (this.#whenWritten = done)),
        sleep(closeMs, undefined, { ref: false }),
      ]);
    const rest = Buffer.concat(this.#full).subarray(this.#written);
    this.#full.length = 0;
    let at = 0;
    // Bounded: a reader that is gone for good must not keep the process from ending.
    let waits = 0;
    while (at < rest.length && waits < 1000) {
      try {
        at += writeSync(this.#file, rest, at, this.#pieceOf(rest, at));
      } catch (error) {
        if (errnoOf(error) !== 'EAGAIN') break;
        waits++;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      }
    }
    if (this.#file !== 1 && !this.#writing) closeSync(this.#file);
  }

  /** Puts the block aside to be written and begins another, large enough for `next` bytes. */
  #turnOver(next: number): void {
    if (this.#used > 0) {
      this.#full.push(this.#block.subarray(0, this.#used));
      this.#heldBytes += this.#used;
      this.#block = this.#spare.pop() ?? Buffer.allocUnsafeSlow(blockBytes);
      this.#used = 0;
    }
    if (next > this.#block.length) this.#block = Buffer.allocUnsafeSlow(next);
  }

  #flush(): void {
    this.#turnOver(0);
    if (!this.#writing) this.#writeNext();
  }

  #writeNext(): void {
    const block = this.#full[0];
    this.#writing = block !== undefined;
    if (block === undefined) return;
    write(this.#file, block, this.#written, this.#pieceOf(block, this.#written), null, (error, bytes) => {
      // close() has given up on it.
      if (this.#full[0] !== block) return;
      if (error !== null && errnoOf(error) === 'EAGAIN' && !this.#closing) {
        setTimeout(() => this.#writeNext(), retryMs).unref();
        return;
      }
      // The reader is gone (EPIPE) or the disk is full: these lines are lost, and that is counted.
      const again = errnoOf(error) === 'EAGAIN';
      if (error !== null && !again) this.#onDrop();
      this.#written += error === null ? bytes : again ? 0 : block.length;
      if (this.#closing) {
        this.#writing = false;
        this.#whenWritten?.();
        return;
      }
      if (this.#written >= block.length) this.#release(block);
      this.#writeNext();
    });
  }

  /** How much is written at once: all of it, or as many whole lines as a pipe takes whole. */
  #pieceOf(block: Buffer, from: number): number {
    const left = block.length - from;
    if (left <= this.#most) return left;
    const end = block.lastIndexOf(10, from + this.#most - 1);
    // A line that is longer than that cannot be helped.
    return (end < from ? block.indexOf(10, from) : end) + 1 - from;
  }

  #release(block: Buffer): void {
    this.#full.shift();
    this.#written = 0;
    this.#heldBytes -= block.length;
    const whole = Buffer.from(block.buffer);
    // A few are enough for the usual tide; after a jam the rest goes back to the system.
    if (whole.length === blockBytes && this.#spare.length < 4) this.#spare.push(whole);
    if (!this.full) for (const run of this.#waiting.splice(0)) run();
  }
}
