// What waits in this process's memory because its reader is slower than its writer, all connections together. Each place is
// bounded for itself; this bounds their sum. Measured against what the process really has: see `pile` for what was missing.

import type { Socket } from 'node:net';

let held = 0;
let inSockets = 0;
const sockets = new Set<Pick<Socket, 'readableLength' | 'writableLength' | 'destroyed'>>();

/** `bytes` wait (or, negative, no longer do). */
export function hold(bytes: number): void {
  held += bytes;
}

/** Counts what waits in a socket, either way, until it is closed. What was read and not taken is in memory as well. */
export function holdSocket(socket: Socket): void {
  sockets.add(socket);
  socket.once('close', () => sockets.delete(socket));
}

/** Looks at all sockets: once in a tick, and when it matters. */
export function measureSockets(): void {
  let sum = 0;
  for (const { destroyed, readableLength, writableLength } of sockets)
    if (!destroyed) sum += readableLength + writableLength;
  inSockets = sum;
}

/** How many bytes wait now; in sockets as of the last look. */
export function heldBytes(): number {
  return held + inSockets;
}

/** A piece has some 160 bytes around it (measured): of a few nobody notices that, of more each is as large as this, with the next. */
const crumbBytes = 4096;
const fewPieces = 8;

/**
 * Adds `chunk` to `pieces` that wait, so that they take the memory that they say. A piece of a large read that it shares with
 * others would keep all of that, and crumbs cost ten times their bytes.
 */
export function pile(pieces: Buffer[], chunk: Buffer): void {
  const last = pieces.length < fewPieces ? undefined : pieces.at(-1);
  if (last !== undefined && last.length + chunk.length <= crumbBytes) {
    const joined = Buffer.allocUnsafeSlow(last.length + chunk.length);
    last.copy(joined);
    chunk.copy(joined, last.length);
    pieces[pieces.length - 1] = joined;
  } else pieces.push(chunk.buffer.byteLength > 2 * chunk.length ? ownCopy(chunk) : chunk);
}

function ownCopy(chunk: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(chunk.length);
  chunk.copy(copy);
  return copy;
}
