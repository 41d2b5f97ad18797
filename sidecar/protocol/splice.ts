// Two sockets joined: bytes one way and the other, half-close passed on, the slower side setting the pace. From the
// hand-over on the splice owns both sockets and closes both.

import type { Socket } from 'node:net';
import { readBytes } from '../../cert-agent/base/heap.ts';
import type { SpliceEnd } from '../exchange.ts';
import { resetSocket } from './reset.ts';

/** Counts what passes; an Exchange and a TCP record are both that. */
export interface SpliceCount {
  /** From the downstream. */
  bytesReceived: number;
  /** To the downstream. */
  bytesSent: number;
}

export interface Splice {
  /** performance.now() of the last byte either way. */
  lastActive(): number;
  /** Cuts both sides. */
  cut(): void;
  /** Resolves when both sockets are closed, with the first error if there was one. */
  readonly closed: Promise<Error | undefined>;
}

/** Joins the two. */
export function splice(downstream: SpliceEnd, upstream: SpliceEnd, count: SpliceCount): Splice {
  let last = performance.now();
  let failure: Error | undefined;
  const a = downstream.socket;
  const b = upstream.socket;
  const cut = (): void => {
    resetSocket(a);
    resetSocket(b);
  };
  const fail = (error: Error): void => {
    failure ??= error;
    cut();
  };
  pass(a, b, downstream.rest, (bytes) => {
    count.bytesReceived += bytes;
    last = performance.now();
  });
  pass(b, a, upstream.rest, (bytes) => {
    count.bytesSent += bytes;
    last = performance.now();
  });
  a.on('error', fail);
  b.on('error', fail);
  const closed = Promise.all([whenClosed(a, b), whenClosed(b, a)]).then(() => failure);
  return { lastActive: () => last, cut, closed };
}

/** Copies `from` to `to` until it ends, then half-closes `to`. */
function pass(from: Socket, to: Socket, rest: Buffer | undefined, moved: (bytes: number) => void): void {
  from.on('data', (chunk: Buffer) => {
    moved(chunk.length);
    readBytes(chunk.length);
    if (!to.write(chunk)) from.pause();
  });
  to.on('drain', () => from.resume());
  from.on('end', () => to.end());
  if (rest !== undefined && rest.length > 0) {
    moved(rest.length);
    to.write(rest);
  }
  from.resume();
}

/** A socket that closed without having ended was reset: the other side must not take that for a proper end. */
function whenClosed(socket: Socket, other: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      if (!socket.readableEnded) resetSocket(other);
      resolve();
    };
    if (socket.closed) done();
    else socket.once('close', done);
  });
}
