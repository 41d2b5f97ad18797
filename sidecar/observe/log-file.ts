// Where access-log lines go: gathered for 100 ms, written asynchronously, bounded. kill -9 may lose those 100 ms. Past
// the bound, lines of allowed requests are dropped and counted; a refusal waits for room and is never dropped.
//
// Nothing can be written to a full disk, and an attacker who fills it must not profit: lines are kept and retried,
// refusals wait, and `trouble` makes the listeners accept no new connection. A line that was cut off is removed before
// it is written again.
//
// Lines are copied into reused buffers: as strings they would live long enough to be moved to the old generation, which
// cost 80 MB of memory and a fifth of the CPU time of a request (measured).

import { closeSync, fstatSync, ftruncateSync, openSync, readSync, statSync, write, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { every } from '../../cert-agent/base/background.ts';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { LogLine } from './log-line.ts';

const flushMs = 100;
const maxHeldBytes = 8 * 1024 * 1024;
const blockBytes = 256 * 1024;
/** A full pipe returns EAGAIN; it is retried after this. */
const retryMs = 10;
/** A full disk is retried after this. */
const troubleMs = 250;
const closeMs = 1000;
const pipeBytes = 4096;

/** Is notified of the fate of the lines. */
export interface LogObserver {
  /** Called once for each line that is lost. */
  dropped(): void;
  /** Why nothing can be written, a code of the operating system (`ENOSPC`); undefined once it works again. */
  changed?(trouble: string | undefined): void;
  /** The file could not be reopened: the old one stays in use, and the new one is retried. */
  reopenFailed?(why: string): void;
  /** The path was reopened, and lines go there. */
  reopened?(): void;
}

/** One target, opened at once. The caller closes it at the end of the process. */
export class LogFile {
  readonly #target: string;
  readonly #observer: LogObserver;
  #file: number;
  #trouble: string | undefined = undefined;
  #wantsReopen = false;
  #saidReopenFailed = false;
  /** Full blocks that wait, oldest first; the first is being written. */
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
  readonly #stop: () => void;

  /**
   * `target` is a path, or `stdout`. If several processes share it, pieces are written that a pipe takes whole
   * (PIPE_BUF), so that no line of one ends up inside another's; a file opened for appending takes any length whole.
   * `standard` is the descriptor that `stdout` stands for.
   */
  constructor(target: string, observer: LogObserver | (() => void), shared = false, standard: 1 | 2 = 1) {
    this.#target = target;
    this.#most = shared && target === 'stdout' ? pipeBytes : Number.POSITIVE_INFINITY;
    this.#file = target === 'stdout' ? standard : openLog(target);
    this.#observer = typeof observer === 'function' ? { dropped: observer } : observer;
    this.#stop = every('access_log', flushMs, () => this.#flush());
  }

  /** Past the bound, only refusals are still accepted, and their requests wait for room. */
  get full(): boolean {
    return this.#heldBytes + this.#used > maxHeldBytes;
  }

  /** Why nothing can be written; undefined while writing works. */
  get trouble(): string | undefined {
    return this.#trouble;
  }

  /** Reopens the path, between two lines: a renamed file gets no more of them. */
  reopen(): void {
    if (this.#target === 'stdout') return;
    this.#wantsReopen = true;
    this.#saidReopenFailed = false;
    if (!this.#writing) this.#swap();
  }

  /** Takes one line, newline included. `droppable` lines are dropped if there is no room. */
  add(line: LogLine, droppable: boolean): void {
    if (droppable && this.full) {
      this.#observer.dropped();
      return;
    }
    if (this.#used + line.length > this.#block.length) this.#turnOver(line.length);
    this.#used += line.bytes.copy(this.#block, this.#used, 0, line.length);
  }

  /** Calls `run` once there is room; at once if there is. */
  whenRoom(run: () => void): void {
    if (this.full || this.#trouble !== undefined) this.#waiting.push(run);
    else run();
  }

  /** Writes everything held; for the end of the process. */
  async close(): Promise<void> {
    this.#stop();
    this.#turnOver(0);
    this.#closing = true;
    // The block in progress must not be written twice; a reader that takes nothing is not waited for.
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
        if (errnoOf(error) !== 'EAGAIN') {
          at = this.#takeBack(rest, at);
          break;
        }
        waits++;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      }
    }
    this.#countLines(rest, at);
    if (this.#target !== 'stdout' && !this.#writing) closeSync(this.#file);
  }

  /** Queues the block for writing and begins another, large enough for `next` bytes. */
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
    if (this.#wantsReopen && (block === undefined || this.#isBetweenLines(block))) this.#swap();
    if (block === undefined) return;
    write(this.#file, block, this.#written, this.#pieceOf(block, this.#written), null, (error, bytes) => {
      // close() has given up on it.
      if (this.#full[0] !== block) return;
      if (error === null) {
        this.#written += bytes;
        // A nearly full disk takes a part: only a whole block shows that there is room again.
        if (this.#written >= block.length) this.#setTrouble(undefined);
      } else if (!this.#takeError(errnoOf(error) ?? 'EIO', block)) return;
      if (this.#closing) {
        this.#writing = false;
        this.#whenWritten?.();
        return;
      }
      if (this.#written >= block.length) this.#release(block);
      this.#writeNext();
    });
  }

  /** Handles a write error of the block. False if it is retried later, and nothing follows now. */
  #takeError(code: string, block: Buffer): boolean {
    if (code === 'EAGAIN') {
      if (this.#closing) return true;
      setTimeout(() => this.#writeNext(), retryMs).unref();
      return false;
    }
    if (code === 'EPIPE' || code === 'EBADF') {
      // The reader is gone for good: these lines are lost, and counted.
      this.#countLines(block, this.#written);
      this.#written = block.length;
      return true;
    }
    this.#written = this.#takeBack(block, this.#written);
    this.#setTrouble(code);
    if (this.#closing) return true;
    setTimeout(() => this.#writeNext(), troubleMs).unref();
    return false;
  }

  #setTrouble(code: string | undefined): void {
    if (this.#trouble === code) return;
    this.#trouble = code;
    this.#observer.changed?.(code);
    if (code === undefined && !this.full) for (const run of this.#waiting.splice(0)) run();
  }

  /**
   * Removes the beginning of a line that a full disk has cut off. Returns the position from which to write the block
   * again.
   */
  #takeBack(block: Buffer, written: number): number {
    const torn = written - (written === 0 ? 0 : block.lastIndexOf(10, written - 1) + 1);
    if (torn === 0) return written;
    try {
      const stat = fstatSync(this.#file);
      const end = Buffer.alloc(torn);
      // Another process may have written since: then the rest of the line follows, wherever it lands.
      if (!stat.isFile() || readSync(this.#file, end, 0, torn, stat.size - torn) !== torn) return written;
      if (!end.equals(block.subarray(written - torn, written))) return written;
      ftruncateSync(this.#file, stat.size - torn);
      return written - torn;
    } catch {
      return written;
    }
  }

  #countLines(block: Buffer, from: number): void {
    for (let at = block.indexOf(10, from); at !== -1; at = block.indexOf(10, at + 1)) this.#observer.dropped();
  }

  #isBetweenLines(block: Buffer): boolean {
    return this.#written === 0 || block[this.#written - 1] === 10;
  }

  #swap(): void {
    const old = this.#file;
    try {
      this.#file = openLog(this.#target);
    } catch (error) {
      // The old file still exists under its new name and can be written to. The next flush tries again.
      if (!this.#saidReopenFailed) this.#observer.reopenFailed?.(reasonOf(error));
      this.#saidReopenFailed = true;
      return;
    }
    this.#wantsReopen = false;
    closeSync(old);
    this.#observer.reopened?.();
  }

  /** How much is written at once: everything, or as many whole lines as a pipe takes whole. */
  #pieceOf(block: Buffer, from: number): number {
    const left = block.length - from;
    if (left <= this.#most) return left;
    const end = block.lastIndexOf(10, from + this.#most - 1);
    // A line longer than that cannot be helped.
    return (end < from ? block.indexOf(10, from) : end) + 1 - from;
  }

  #release(block: Buffer): void {
    this.#full.shift();
    this.#written = 0;
    this.#heldBytes -= block.length;
    const whole = Buffer.from(block.buffer);
    // A few are enough for normal load; after a jam the others are freed.
    if (whole.length === blockBytes && this.#spare.length < 4) this.#spare.push(whole);
    if (!this.full && this.#trouble === undefined) for (const run of this.#waiting.splice(0)) run();
  }
}

/** For appending, and for files also for reading back a cut-off line; a pipe that we also read would never end. */
function openLog(path: string): number {
  try {
    const isPipe = statSync(path, { throwIfNoEntry: false })?.isFile() === false;
    return openSync(path, isPipe ? 'a' : 'a+', 0o640);
  } catch (error) {
    throw new SallyportError(
      'config_unreadable',
      `accessLog: ${path} cannot be written: ${errnoOf(error) ?? reasonOf(error)}`,
      {
        hint: 'name a file in an existing directory that this user may write to',
        cause: error,
      },
    );
  }
}
