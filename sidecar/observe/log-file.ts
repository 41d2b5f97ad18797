// Where access-log lines go: gathered for 100 ms, written asynchronously, bounded. kill -9 may lose those 100 ms. Past
// the bound, lines of allowed requests are dropped and counted; a refusal waits for room, it is never dropped.

import { openSync, write, writeSync } from 'node:fs';
import { errnoOf } from '../../cert-agent/base/errors.ts';

const flushMs = 100;
const maxHeldBytes = 8 * 1024 * 1024;
/** A pipe that is full says EAGAIN; asked again after this. */
const retryMs = 10;

export class LogFile {
  readonly #file: number;
  readonly #onDrop: () => void;
  #held = '';
  #writing: Buffer | undefined = undefined;
  readonly #waiting: (() => void)[] = [];
  readonly #timer: NodeJS.Timeout;

  /** `target` is a path, or `stdout`. */
  constructor(target: string, onDrop: () => void) {
    this.#file = target === 'stdout' ? 1 : openSync(target, 'a', 0o640);
    this.#onDrop = onDrop;
    this.#timer = setInterval(() => this.#flush(), flushMs);
    this.#timer.unref();
  }

  get full(): boolean {
    return this.#held.length + (this.#writing?.length ?? 0) > maxHeldBytes;
  }

  /** Takes one line, newline included. `droppable` lines go when there is no room. */
  add(line: string, droppable: boolean): void {
    if (droppable && this.full) this.#onDrop();
    else this.#held += line;
  }

  /** Calls `run` once there is room again; at once when there is. */
  whenRoom(run: () => void): void {
    if (this.full) this.#waiting.push(run);
    else run();
  }

  /** Writes what is held before it returns; for the end of the process. */
  close(): void {
    clearInterval(this.#timer);
    const rest = Buffer.concat([this.#writing ?? Buffer.alloc(0), Buffer.from(this.#held)]);
    this.#held = '';
    this.#writing = undefined;
    let at = 0;
    // Bounded: a reader that is gone for good must not keep the process from ending.
    for (let tries = 0; at < rest.length && tries < 1000; tries++) {
      try {
        at += writeSync(this.#file, rest, at);
      } catch (error) {
        if (errnoOf(error) !== 'EAGAIN') return;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      }
    }
  }

  #flush(): void {
    if (this.#writing !== undefined || this.#held === '') return;
    this.#writing = Buffer.from(this.#held);
    this.#held = '';
    this.#write(this.#writing);
  }

  #write(buffer: Buffer): void {
    write(this.#file, buffer, 0, buffer.length, null, (error, written) => {
      // close() has taken over what was being written.
      if (this.#writing === undefined) return;
      if (error !== null && errnoOf(error) !== 'EAGAIN') {
        // The reader is gone (EPIPE) or the disk is full: these lines are lost, and that is counted.
        this.#onDrop();
        this.#writing = undefined;
      } else {
        const rest = buffer.subarray(error === null ? written : 0);
        this.#writing = rest.length === 0 ? undefined : rest;
        if (rest.length > 0) {
          setTimeout(() => this.#writing === rest && this.#write(rest), error === null ? 0 : retryMs).unref();
        }
      }
      if (!this.full) for (const run of this.#waiting.splice(0)) run();
    });
  }
}
