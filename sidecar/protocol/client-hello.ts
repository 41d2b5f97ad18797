// The first message of a TLS client, read without consuming it, before any answer: the server name that it requests
// (RFC 6066 section 3), so that a gateway can choose the listener, and the protocols that it offers (ALPN, RFC 7301),
// so that a sidecar knows whether the TLS is its own. It peeks only; the next reader of the connection reads the bytes
// anew.

import type { Socket } from 'node:net';
import type { Limits } from '../exchange/limits.ts';

/** What the client says before it is authenticated. Anyone may say anything here. */
export interface ClientHello {
  /** In lower case; undefined if the client names none. */
  readonly serverName: string | undefined;
  /** The protocols that it offers, in its order; empty if it sends no ALPN. */
  readonly alpn: readonly string[];
}

/** The result of reading: a whole hello, not yet one, or none at all. */
export type HelloRead = ClientHello | 'more' | 'none';

/** A hello with every known extension, including post-quantum keys, is some 2 KB. */
const maxBytes = 16_384;

/** Reads a ClientHello from the first bytes of a connection (RFC 8446 sections 5.1 and 4.1.2). Throws nothing. */
export function readClientHello(bytes: Buffer): HelloRead {
  return new HelloReader().read(bytes);
}

/**
 * The same, piece by piece. A hello may be cut into records of one byte, and each byte may arrive alone: every byte is
 * looked at once, so that a client that sends tiny pieces costs us no more.
 */
class HelloReader {
  readonly #head = Buffer.alloc(5);
  #headSize = 0;
  /** Bytes left of the current record. */
  #left = 0;
  /** First the message's type and length, then all of it. */
  #message = Buffer.alloc(4);
  #size = 0;

  /** The result after these bytes. It is not called again after 'none' or a hello. */
  read(bytes: Buffer): HelloRead {
    let at = 0;
    while (at < bytes.length) {
      if (this.#left === 0) {
        if (!this.#readHead(bytes[at++]!)) return 'none';
        continue;
      }
      const copied = bytes.copy(this.#message, this.#size, at, Math.min(bytes.length, at + this.#left));
      at += copied;
      this.#left -= copied;
      this.#size += copied;
      if (this.#message[0] !== 1) return 'none';
      if (this.#size < this.#message.length) continue;
      if (this.#message.length > 4) return readHello(this.#message.subarray(4));
      const wanted = this.#message.readUIntBE(1, 3);
      if (wanted === 0 || wanted > maxBytes) return 'none';
      this.#message = Buffer.concat([this.#message], 4 + wanted);
    }
    return 'more';
  }

  /** One more byte of a record's head; false if it is not a handshake record. */
  #readHead(byte: number): boolean {
    const index = this.#headSize++;
    this.#head[index] = byte;
    if (index === 0) return byte === 22;
    if (index === 1) return byte === 3;
    if (index < 4) return true;
    this.#headSize = 0;
    this.#left = this.#head.readUInt16BE(3);
    return this.#left > 0 && this.#left <= maxBytes;
  }
}

/** Walks over everything before the extensions: version, random, session, suites, compressions. */
function readHello(hello: Buffer): HelloRead {
  let at = 34;
  const skip = (lengthBytes: 1 | 2): boolean => {
    if (at + lengthBytes > hello.length) return false;
    at += lengthBytes + hello.readUIntBE(at, lengthBytes);
    return at <= hello.length;
  };
  if (!skip(1) || !skip(2) || !skip(1)) return 'none';
  if (at === hello.length) return { serverName: undefined, alpn: [] };
  if (at + 2 > hello.length || at + 2 + hello.readUInt16BE(at) !== hello.length) return 'none';
  at += 2;
  let serverName: string | undefined;
  let alpn: readonly string[] | undefined;
  while (at + 4 <= hello.length) {
    const type = hello.readUInt16BE(at);
    const size = hello.readUInt16BE(at + 2);
    const body = hello.subarray(at + 4, at + 4 + size);
    if (body.length < size) return 'none';
    // RFC 8446 section 4.2: no extension comes twice. The server behind us might read the other one.
    if (type === extension.serverName) {
      if (serverName !== undefined) return 'none';
      serverName = readServerName(body);
      if (serverName === undefined) return 'none';
    } else if (type === extension.alpn) {
      if (alpn !== undefined) return 'none';
      alpn = readProtocols(body);
      if (alpn === undefined) return 'none';
    }
    at += 4 + size;
  }
  return at === hello.length ? { serverName, alpn: alpn ?? [] } : 'none';
}

/** IANA's numbers of TLS extensions. */
const extension = { serverName: 0, alpn: 16 } as const;

/** RFC 6066 section 3: a list of names; `host_name` is the only kind. */
function readServerName(list: Buffer): string | undefined {
  if (list.length < 5 || list.readUInt16BE(0) !== list.length - 2 || list[2] !== 0) return undefined;
  const size = list.readUInt16BE(3);
  const name = list.toString('latin1', 5, 5 + size).toLowerCase();
  if (5 + size > list.length || !/^[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?$/.test(name)) return undefined;
  return name;
}

/** RFC 7301 section 3.1: a list of names, each preceded by its length and none of them empty. */
function readProtocols(list: Buffer): readonly string[] | undefined {
  if (list.length < 4 || list.readUInt16BE(0) !== list.length - 2) return undefined;
  const names: string[] = [];
  for (let at = 2; at < list.length; ) {
    const size = list[at]!;
    if (size === 0 || at + 1 + size > list.length) return undefined;
    names.push(list.toString('latin1', at + 1, at + 1 + size));
    at += 1 + size;
  }
  return names;
}

/**
 * Waits for a connection's hello without consuming it. `take` gets the socket paused. A connection that sends none in
 * time, or something else, is closed, and `refuse` gets the reason.
 */
export function whenHello(
  raw: Socket,
  { handshakeMs }: Pick<Limits, 'handshakeMs'>,
  take: (hello: ClientHello) => void,
  refuse: (why: string) => void,
): void {
  const reader = new HelloReader();
  let held: Buffer[] = [];
  const stop = (): void => {
    clearTimeout(timer);
    raw.off('data', onData).off('end', onEnd).off('error', ignore);
  };
  const giveUp = (why: string): void => {
    stop();
    raw.on('error', ignore).destroy();
    refuse(why);
  };
  const timer = setTimeout(() => giveUp(`no ClientHello within ${handshakeMs} ms (limit handshake)`), handshakeMs);
  const onData = (chunk: Buffer): void => {
    held.push(chunk);
    const said = reader.read(chunk);
    // Many small buffers would each retain more memory than their bytes.
    if (held.length > 64) held = [Buffer.concat(held)];
    if (said === 'more') return;
    if (said === 'none') return giveUp('its first bytes are not a TLS ClientHello');
    stop();
    raw.pause();
    raw.unshift(held.length === 1 ? held[0]! : Buffer.concat(held));
    take(said);
  };
  const onEnd = (): void => giveUp('it closed before its ClientHello');
  // The socket may be paused by an earlier reader.
  raw.on('data', onData).on('end', onEnd).on('error', ignore).resume();
  raw.once('close', () => clearTimeout(timer));
}

function ignore(): void {
  // 'close' follows; without a listener a reset would end the process.
}
