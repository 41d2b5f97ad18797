// Reads of sockets without memory of their own. Node allocates 64 KB for each read and passes the bytes through a stream.
// Here all connections read into one buffer instead: its bytes are lent to the reader for the time of one call. What a
// reader keeps it copies (`owned`), which is mostly nothing: a head becomes strings, and a short body goes into what is
// written.
//
// Node offers this as `onread`, but not to sockets that were accepted, so it is set as `onread` sets it. That rests on
// Node's internals. `proveLentReads` tries it once at start; without a proof, sockets are read as usual.

import { once } from 'node:events';
import { connect, createServer, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { readBytes } from '../../cert-agent/base/heap.ts';
import { Views } from '../../cert-agent/base/views.ts';

/** As much as Node reads at once. */
const bytesOfRead = 64 * 1024;

/** What a socket with `onread` has: where bytes go, who gets them, and who gives the next buffer. */
interface ReadsInto {
  readonly buffer: symbol;
  readonly callback: symbol;
}

type Inner = Socket & {
  [key: symbol]: unknown;
  readonly _handle?: { readonly useUserBuffer?: (buffer: Buffer) => void } | null;
};

let shared: Buffer | undefined;
/** The memory of that buffer: lent bytes are known by it. */
let sharedMemory: ArrayBufferLike | undefined;
const views = new Views();
let symbols: ReadsInto | undefined;
/** A call is using the buffer. */
let isLent = false;

/** Gets bytes that are valid until it returns if they are lent, else its own. */
export type TakeBytes = (chunk: Buffer, isLent: boolean) => void;

/** What arrives at one socket, from now on. It listens to 'data' too: bytes that came before arrive that way. */
export class LentReads {
  readonly #socket: Socket;
  readonly #take: TakeBytes;
  #isStopped = false;

  constructor(socket: Socket, take: TakeBytes) {
    this.#socket = socket;
    this.#take = take;
    socket.on('data', this.#onData);
    if (symbols === undefined) return;
    readInto(socket as Inner, symbols, this.#onRead);
    // Such a socket stops at once, and would not notice that its peer is gone. As usual it is read on until its own buffer
    // is full.
    socket.on('pause', () => socket.read(0));
  }

  /** Other listeners to 'data' get what arrives from now on. */
  stop(): void {
    this.#isStopped = true;
    this.#socket.off('data', this.#onData);
  }

  #onData = (chunk: Buffer): void => {
    readBytes(chunk.length);
    this.#take(chunk, false);
  };

  /** False asks Node to stop reading: what a paused socket may hold is full. */
  #onRead = (length: number, buffer: Buffer): boolean => {
    const socket = this.#socket;
    if (isLent) {
      // A read within a read has overwritten what the first one has not finished with.
      socket.destroy(new Error('a socket was read while another one was'));
      return true;
    }
    // In order behind what waits there, and where others may take it.
    if (this.#isStopped || socket.readableLength > 0 || socket.isPaused()) {
      const own = keepLent(buffer.subarray(0, length));
      buffer.fill(0, 0, length);
      return socket.push(own);
    }
    isLent = true;
    try {
      this.#take(views.first(buffer, length), true);
    } finally {
      isLent = false;
      // Nothing of one connection is left to another, and what was not copied shows.
      buffer.fill(0, 0, length);
    }
    return true;
  };
}

/** A copy of lent bytes, in memory of its own: one byte in a block of Node's pool would keep 64 KB that nobody counts. */
export function keepLent(chunk: Buffer): Buffer {
  readBytes(chunk.length);
  const own = Buffer.allocUnsafeSlow(chunk.length);
  own.set(chunk);
  return own;
}

/** These bytes, to be kept for longer than the call that they came with: a copy if they are lent. */
export function owned(bytes: Buffer): Buffer {
  return bytes.buffer === sharedMemory ? keepLent(bytes) : bytes;
}

/**
 * True if a socket encrypts what it is given before `write` returns: lent bytes may be written as they are. A write that
 * has to wait would wait as a reference.
 */
export function encryptsAtOnce(socket: Duplex): boolean {
  return socket instanceof TLSSocket && socket.writableLength === 0 && socket.writableCorked === 0;
}

function readInto(
  socket: Inner,
  { buffer, callback }: ReadsInto,
  read: (length: number, buffer: Buffer) => boolean,
): void {
  const handle = socket._handle;
  if (shared === undefined || typeof handle?.useUserBuffer !== 'function') return;
  socket[buffer] = shared;
  socket[callback] = read;
  handle.useUserBuffer(shared);
}

/**
 * Tries it on a connection to ourselves: bytes, a pause, the end. From then on sockets are read this way if it has worked.
 * Takes some 20 ms, which is the price of the first connection of a process. Never rejects; false if sockets are read as usual.
 */
export async function proveLentReads(): Promise<boolean> {
  if (symbols !== undefined) return true;
  const found = findSymbols();
  if (found === undefined) return false;
  shared = Buffer.alloc(bytesOfRead);
  sharedMemory = shared.buffer;
  symbols = (await isProven(found)) ? found : undefined;
  return symbols !== undefined;
}

function findSymbols(): ReadsInto | undefined {
  const model = new Socket({ onread: { buffer: Buffer.alloc(1), callback: () => true } });
  const own = Object.getOwnPropertySymbols(model);
  const [buffer, callback] = ['kBuffer', 'kBufferCb'].map((name) => own.find((one) => one.description === name));
  return buffer === undefined || callback === undefined ? undefined : { buffer, callback };
}

async function isProven(found: ReadsInto): Promise<boolean> {
  const server = createServer();
  const ends: Socket[] = [];
  try {
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const accepted = once(server, 'connection') as Promise<[Socket]>;
    const address = server.address();
    const client = connect(typeof address === 'object' ? address!.port : 0, '127.0.0.1');
    ends.push(client);
    await once(client, 'connect');
    const [socket] = await accepted;
    ends.push(socket);
    return await passesTest(client, socket, found);
  } catch {
    return false;
  } finally {
    for (const end of ends) end.destroy();
    server.close();
  }
}

/** Reads `one`, nothing during a pause, `two` after it, and the end. @throws AbortError after a second. */
async function passesTest(client: Socket, socket: Socket, found: ReadsInto): Promise<boolean> {
  const signal = AbortSignal.timeout(1000);
  const ended = once(socket, 'end', { signal });
  // Rejected before it is waited for, it must not end the process.
  ended.catch(() => {});
  const lent: string[] = [];
  let isUsual = false;
  let arrived = (): void => {};
  socket.on('data', () => {
    isUsual = true;
  });
  readInto(socket as Inner, found, (length, buffer) => {
    lent.push(buffer.toString('latin1', 0, length));
    arrived();
    return true;
  });
  const next = (): Promise<void> =>
    new Promise((resolve, reject) => {
      arrived = resolve;
      signal.addEventListener('abort', reject, { once: true });
    });
  const first = next();
  client.write('one');
  await first;
  socket.pause();
  await new Promise((resolve) => client.write('two', resolve));
  // It would be read in these turns.
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
  if (lent.join('') !== 'one') return false;
  const second = next();
  socket.resume();
  await second;
  client.end();
  await ended;
  return lent.join('') === 'onetwo' && !isUsual;
}
