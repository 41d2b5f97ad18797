// Two ends joined: bytes one way and the other, half-close passed on, the slower side setting the pace. From the
// hand-over on the splice owns both ends and closes both.

import type { Duplex } from 'node:stream';
import { readBytes } from '../../cert-agent/base/heap.ts';
import type { SpliceEnd } from '../exchange/upstream.ts';
import { resetSocket } from './reset.ts';

/** Counts what passes; an Exchange is that. */
export interface SpliceCount {
  /** From the downstream. */
  bytesReceived: number;
  /** To the downstream. */
  bytesSent: number;
}

/** Looks at what passes, before it does. */
export interface SpliceWatch {
  toUpstream(chunk: Buffer): void;
  toDownstream(chunk: Buffer): void;
}

/** What each side still gets when nothing else may pass. */
export interface LastWords {
  readonly toUpstream?: Buffer | undefined;
  readonly toDownstream?: Buffer | undefined;
}

export interface Splice {
  /** performance.now() of the last byte either way. */
  lastActive(): number;
  /** Bytes that either side was given and has not taken. */
  waitingBytes(): number;
  /** Cuts both sides, so that each sees that something is missing. */
  cut(): void;
  /** From here on nothing passes: each side gets its last words and its end, and is closed soon after. */
  finish(words: LastWords): void;
  /** Resolves when both ends are closed, with the first error if there was one. */
  readonly closed: Promise<Error | undefined>;
}

/** How long an end that was closed properly may take to close as well. */
const lingerMs = 1000;

/** Joins the two. */
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
      // What still comes is read and dropped, so that the other side can close in peace.
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
  from.on('data', (chunk: Buffer) => {
    readBytes(chunk.length);
    if (state.over) return;
    moved(chunk);
    if (!to.write(chunk)) from.pause();
  });
  to.on('drain', () => from.resume());
  from.on('end', () => to.end());
  if (rest !== undefined && rest.length > 0) {
    moved(rest);
    to.write(rest);
  }
  from.resume();
}

/** An end that closed without having ended was reset: the other side must not take that for a proper end. */
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
