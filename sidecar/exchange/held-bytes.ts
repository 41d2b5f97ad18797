// Counts the bytes in memory that wait for a slow reader, for all connections together. Each
// place has a limit of its own; this limits their sum. Measured against the real memory of the process: see `pile` for
// the bytes that were missing.

import type { Socket } from 'node:net';

let held = 0;
let inSockets = 0;
const sockets = new Set<Pick<Socket, 'readableLength' | 'writableLength' | 'destroyed'>>();

/** Adds `bytes` that wait; a negative number for those that no longer do. */
export function hold(bytes: number): void {
  held += bytes;
}

/**
 * Counts what waits in a socket, in both directions, until it is closed. Bytes read but not taken are in memory as
 * well.
 */
export function holdSocket(socket: Socket): void {
  sockets.add(socket);
  socket.once('close', () => sockets.delete(socket));
}

/** Reads all sockets: once per tick, and when it matters. */
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

/**
 * Each piece has an overhead of some 160 bytes (measured). A few do not matter; of many, each is merged up to this
 * size.
 */
const crumbBytes = 4096;
const fewPieces = 8;

/**
 * Adds `chunk` to waiting `pieces`, so that they take as much memory as they count. A slice of a large read would keep
 * all of that read alive, and many small pieces cost ten times their bytes.
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
