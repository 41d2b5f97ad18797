// Detects a connection's protocol by its first bytes, without consuming any and without guessing. This works only for
// protocols in which the client speaks first; others must be declared.

import type { Socket } from 'node:net';
import { type Connection, coarseNow, type Speaker } from '../connection.ts';
import type { PortRules } from '../exchange/exchange.ts';
import { preface } from './http2/frames.ts';

/** What the first bytes of a connection are; undefined while they may still become more than one thing. */
export type Sniffed = 'tls' | 'http2' | 'other' | undefined;

/** Protocols whose clients end up on HTTP ports, by what they send first. */
const foreign: readonly (readonly [name: string, isIt: (bytes: Buffer) => boolean])[] = [
  // RESP: an array of bulk strings, `*1\r\n$4\r\nPING`.
  ['Redis', (bytes) => /^\*\d{1,7}\r\n\$\d/.test(bytes.toString('latin1', 0, 16))],
  // A length of four bytes, then version 3.x, or a request for TLS or GSS encryption.
  [
    'PostgreSQL',
    (bytes) => {
      if (bytes.length < 8 || bytes.readUInt32BE(0) < 8 || bytes.readUInt32BE(0) > 10_000) return false;
      const code = bytes.readUInt32BE(4);
      return code >>> 16 === 3 || (code >= 80_877_102 && code <= 80_877_104);
    },
  ],
  // The opcode OP_MSG or OP_QUERY, little-endian, after length and two IDs.
  ['MongoDB', (bytes) => bytes.length >= 16 && [2013, 2004].includes(bytes.readUInt32LE(12))],
];

/** The protocol of a client that does not speak HTTP, by its first bytes; undefined for HTTP and what is unknown. */
export function foreignProtocol(bytes: Buffer): string | undefined {
  return foreign.find(([, isIt]) => isIt(bytes))?.[0];
}

/** A record of type handshake, version 3.x: RFC 8446 section 5.1. */
const handshake = 22;
const clientHello = 1;

/** Reads the first bytes of a connection: a TLS ClientHello, HTTP/2's preface, or neither. */
export function sniff(bytes: Buffer): Sniffed {
  if (bytes.length === 0) return undefined;
  if (bytes[0] === handshake) return sniffHello(bytes);
  const known = Math.min(bytes.length, preface.length);
  if (!bytes.subarray(0, known).equals(preface.subarray(0, known))) return 'other';
  return known === preface.length ? 'http2' : undefined;
}

/** Type, version, length, then the message's own type: bytes 0, 1, and 5. */
function sniffHello(bytes: Buffer): Sniffed {
  if (bytes.length > 1 && bytes[1] !== 3) return 'other';
  if (bytes.length > 5) return bytes[5] === clientHello ? 'tls' : 'other';
  return undefined;
}

/**
 * Tells TLS from plaintext by a connection's first bytes, without consuming them. On an HTTP port a silent client is
 * closed in time; on a port that is declared `tcp`, silence means plaintext in which the server speaks first.
 */
export function whenSniffed(
  raw: Socket,
  { limits, protocol }: Pick<PortRules, 'limits' | 'protocol'>,
  takeTls: (raw: Socket) => void,
  takePlain: (raw: Socket) => void,
): void {
  let held: Buffer = Buffer.alloc(0);
  const decide = (take: (raw: Socket) => void): void => {
    clearTimeout(timer);
    raw.off('data', onData).off('end', onEnd).off('error', ignore);
    raw.pause();
    if (held.length > 0) raw.unshift(held);
    take(raw);
  };
  const timer = setTimeout(
    () => {
      if (protocol === 'tcp' && held.length === 0) decide(takePlain);
      else raw.destroy();
    },
    protocol === 'tcp' ? limits.protocolDetectionMs : limits.handshakeMs,
  );
  const onData = (chunk: Buffer): void => {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    const said = sniff(held);
    if (said === 'tls') decide(takeTls);
    else if (said !== undefined) decide(takePlain);
    // HTTP/2's preface is plaintext long before it is complete.
    else if (held[0] !== handshake) decide(takePlain);
  };
  const onEnd = (): void => {
    raw.destroy();
  };
  raw.on('data', onData).on('end', onEnd).on('error', ignore);
  raw.once('close', () => clearTimeout(timer));
}

/** Waits for the first bytes of a plaintext connection; the speaker that replaces it gets them. */
export class FirstBytes implements Speaker {
  readonly kind = 'http';
  readonly inFlight = 0;
  readonly #connection: Connection;
  readonly #since = coarseNow();
  readonly #decide: (said: Sniffed, bytes: Buffer) => void;
  #held: Buffer = Buffer.alloc(0);

  /** `decide` replaces us with a speaker that listens to the socket. */
  constructor(connection: Connection, decide: (said: Sniffed, bytes: Buffer) => void) {
    this.#connection = connection;
    this.#decide = decide;
    // The socket may be paused by an earlier reader.
    connection.socket.on('data', this.#onData).on('end', this.#onEnd).on('error', ignore).resume();
  }

  /** A client that does not say its protocol within the limit for heads is closed. */
  tick(now: number): void {
    if (now - this.#since > this.#connection.port.rules.current().limits.headMs) this.#connection.socket.destroy();
  }

  /** Nothing: it holds a few bytes at most. */
  findHolders(): void {}

  /** What has begun to arrive is waited for. */
  drain(): void {
    if (this.#held.length === 0) this.#connection.socket.destroy();
  }

  /** Nothing: no request has begun. */
  retire(): void {}

  /** Nothing was permitted yet. */
  judge(): number {
    return 0;
  }

  /** Closes without a word: the client's protocol is unknown. */
  cut(): void {
    this.#connection.socket.destroy();
  }

  #onData = (chunk: Buffer): void => {
    const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const said = sniff(bytes);
    this.#held = bytes;
    if (said !== undefined) this.#handOver(said);
  };

  /** No more bytes will arrive: the next reader reports what is wrong with them. */
  #onEnd = (): void => {
    const { socket } = this.#connection;
    if (this.#held.length === 0) {
      socket.end();
      return;
    }
    this.#handOver('other');
    socket.emit('end');
  };

  #handOver(said: Sniffed): void {
    const { socket } = this.#connection;
    socket.off('data', this.#onData).off('end', this.#onEnd);
    this.#decide(said, this.#held);
    socket.emit('data', this.#held);
  }
}

function ignore(): void {
  // 'close' follows; without a listener a reset would end the process.
}
