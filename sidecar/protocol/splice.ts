// Joins two ends: bytes in both directions, half-close passed on, paced by the slower side. From the hand-over on the
// splice owns both ends and closes both.

import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { readBytes } from '../../cert-agent/base/heap.ts';
import type { SpliceEnd } from '../exchange/upstream.ts';
import { encryptsAtOnce, keepLent, LentReads } from './lent-reads.ts';
import { resetSocket } from './reset.ts';

/** The byte counts; an Exchange has them. */
export interface SpliceCount {
  /** From the downstream. */
  bytesReceived: number;
  /** To the downstream. */
  bytesSent: number;
}

/** Sees each chunk before it passes. */
export interface SpliceWatch {
  toUpstream(chunk: Buffer): void;
  toDownstream(chunk: Buffer): void;
}

/** The final bytes for each side, once nothing else may pass. */
export interface LastWords {
  readonly toUpstream?: Buffer | undefined;
  readonly toDownstream?: Buffer | undefined;
}

/** Two joined ends. `cut` may follow `finish`, and both may be repeated. */
export interface Splice {
  /** performance.now() of the last byte either way. */
  lastActive(): number;
  /** Bytes that were written to either side and not yet taken. */
  waitingBytes(): number;
  /** Cuts both sides, so that each sees that something is missing. */
  cut(): void;
  /** Stops the traffic: each side gets its final bytes and its end, and is closed soon after. */
  finish(words: LastWords): void;
  /** Resolves when both ends are closed, with the first error if there was one. */
  readonly closed: Promise<Error | undefined>;
}

/** How long the other end may take to close after one was closed properly. */
const lingerMs = 1000;

/** Joins the two ends. */
export function splice(downstream: SpliceEnd, upstream: SpliceEnd, count: SpliceCount, watch?: SpliceWatch): Splice {
  let last = performance.now();
  let failure: Error | undefined;
  const state = { over: false };
  const a = downstream.socket;
  const b = upstream.socket;
  const cut = (): void => {
    resetSocket(a);
    resetSocket(b);
  };
  const fail = (error: Error): void => {
    if (!state.over) failure ??= error;
    cut();
  };
  pass(a, b, downstream.rest, state, (chunk) => {
    count.bytesReceived += chunk.length;
    last = performance.now();
    watch?.toUpstream(chunk);
  });
  pass(b, a, upstream.rest, state, (chunk) => {
    count.bytesSent += chunk.length;
    last = performance.now();
    watch?.toDownstream(chunk);
  });
  a.on('error', fail);
  b.on('error', fail);
  const closed = Promise.all([whenClosed(a, b, state), whenClosed(b, a, state)]).then(() => failure);
  const finish = (words: LastWords): void => {
    if (state.over) return;
    state.over = true;
    for (const [end, word] of [
      [a, words.toDownstream],
      [b, words.toUpstream],
    ] as const) {
      if (word !== undefined && end.writable) end.write(word);
      end.end();
      // Later bytes are read and dropped, so that the other side can close cleanly.
      end.resume();
    }
    setTimeout(() => {
      a.destroy();
      b.destroy();
    }, lingerMs).unref();
  };
  const waitingBytes = (): number => a.writableLength + b.writableLength;
  return { lastActive: () => last, waitingBytes, cut, finish, closed };
}

/** Copies `from` to `to` until it ends, then half-closes `to`. */
function pass(
  from: Duplex,
  to: Duplex,
  rest: Buffer | undefined,
  state: { readonly over: boolean },
  moved: (chunk: Buffer) => void,
): void {
  const take = (chunk: Buffer, isLent: boolean): void => {
    if (state.over) return;
    moved(chunk);
    if (!to.write(isLent && !encryptsAtOnce(to) ? keepLent(chunk) : chunk)) from.pause();
  };
  if (from instanceof Socket) new LentReads(from, take);
  else
    from.on('data', (chunk: Buffer) => {
      readBytes(chunk.length);
      take(chunk, false);
    });
  to.on('drain', () => from.resume());
  from.on('end', () => to.end());
  if (rest !== undefined && rest.length > 0) {
    moved(rest);
    to.write(rest);
  }
  from.resume();
}

/** An end that closed without having ended was reset: the other side must not see a proper end. */
function whenClosed(end: Duplex, other: Duplex, state: { readonly over: boolean }): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      if (!end.readableEnded && !state.over) resetSocket(other);
      resolve();
    };
    if (end.closed) done();
    else end.once('close', done);
  });
}
