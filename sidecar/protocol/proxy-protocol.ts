// The PROXY protocol (haproxy's proxy-protocol.txt, versions 1 and 2): a load balancer states, before anything else,
// the ends of the connection that it forwards. The configured load balancers must send it; from any other client it
// ends the connection. Parsed strictly, and before TLS: later readers never see the preface.

import { isIPv4, isIPv6, type Socket } from 'node:net';
import { formatPlace } from '../../cert-agent/base/address.ts';
import type { PortRules } from '../exchange/exchange.ts';
import type { Limits } from '../exchange/limits.ts';
import { type IpMatch, parseIp } from '../policy/ip.ts';

/** The ends of the connection that was passed on, as logs write places. */
export interface ProxiedPlace {
  readonly remote: string;
  readonly local: string;
}

/** A whole preface of `length` bytes; without a place it is for the proxy's own connection, a health check. */
export interface Preface {
  readonly length: number;
  readonly place: ProxiedPlace | undefined;
}

/** 'none': another protocol. `wrong` states what is wrong with a preface. */
export type PrefaceRead = Preface | 'more' | 'none' | { readonly wrong: string };

const signature = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
const first = Buffer.from('PROXY ', 'latin1');
/** Section 2.1: the longest line of version 1 has 107 characters. */
const maxLine = 107;
/** For version 2, including the fields after the addresses: load balancers add some hundred bytes. */
const maxBytes = 4096;

/** Reads the first bytes of a connection. Throws nothing. */
export function readPreface(bytes: Buffer): PrefaceRead {
  for (const [begin, read] of [
    [first, readLine],
    [signature, readBinary],
  ] as const) {
    const known = Math.min(bytes.length, begin.length);
    if (!bytes.subarray(0, known).equals(begin.subarray(0, known))) continue;
    return known < begin.length ? 'more' : read(bytes);
  }
  return 'none';
}

/** Version 1, section 2.1: one line of ASCII, single spaces. UNKNOWN has no place, whatever follows it. */
function readLine(bytes: Buffer): PrefaceRead {
  const end = bytes.subarray(0, maxLine).indexOf('\r\n');
  if (end === -1) return bytes.length < maxLine ? 'more' : { wrong: `its line does not end within ${maxLine} bytes` };
  const line = bytes.toString('latin1', 0, end);
  const length = end + 2;
  if (/^PROXY UNKNOWN(?: [\x20-\x7e]*)?$/.test(line)) return { length, place: undefined };
  const said = /^PROXY TCP([46]) (\S+) (\S+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})$/.exec(line);
  if (said === null) return { wrong: 'its line is not a valid TCP4, TCP6 or UNKNOWN line' };
  const [, family, source, destination, from, to] = said as unknown as [
    string,
    '4' | '6',
    string,
    string,
    string,
    string,
  ];
  const isAddress = family === '4' ? isIPv4 : (text: string) => isIPv6(text) && !text.includes('%');
  if (!isAddress(source) || !isAddress(destination)) return { wrong: `its addresses are not IPv${family}` };
  if (Number(from) > 65_535 || Number(to) > 65_535) return { wrong: 'its ports are not valid' };
  return { length, place: placeOf(source, Number(from), destination, Number(to)) };
}

/**
 * Version 2, section 2.2: version and command, family and transport, length, addresses, then fields that are skipped.
 */
function readBinary(bytes: Buffer): PrefaceRead {
  if (bytes.length < 16) return 'more';
  const [version, command, family, length] = [
    bytes[12]! >> 4,
    bytes[12]! & 15,
    bytes[13]!,
    16 + bytes.readUInt16BE(14),
  ];
  if (version !== 2 || command > 1) return { wrong: `version ${version} with command ${command} is not supported` };
  if (length > maxBytes) return { wrong: `it has ${length} bytes; the limit is ${maxBytes}` };
  const size = command === 0 || family === unspecified ? 0 : addressBytes.get(family);
  if (size === undefined) return { wrong: `its family is not TCP over IPv4 or IPv6 (0x${family.toString(16)})` };
  if (length - 16 < size) return { wrong: 'it is shorter than its addresses' };
  if (bytes.length < length) return 'more';
  // LOCAL, or an unspecified family, is for the connection itself, and its contents do not count.
  if (size === 0) return { length, place: undefined };
  if (!areFields(bytes.subarray(16 + size, length))) return { wrong: 'its fields are longer than the preface' };
  const half = (size - 4) / 2;
  const ports = 16 + 2 * half;
  return {
    length,
    place: placeOf(
      formatIp(bytes.subarray(16, 16 + half)),
      bytes.readUInt16BE(ports),
      formatIp(bytes.subarray(16 + half, ports)),
      bytes.readUInt16BE(ports + 2),
    ),
  };
}

const unspecified = 0x00;
const addressBytes = new Map([
  [0x11, 12],
  [0x21, 36],
]);

/** Section 2.2.1: type, length, value. */
function areFields(bytes: Buffer): boolean {
  let at = 0;
  while (at + 3 <= bytes.length) at += 3 + bytes.readUInt16BE(at + 1);
  return at === bytes.length;
}

function formatIp(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join('.');
  const words = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
  return new URL(`http://[${words.join(':')}]`).hostname.slice(1, -1);
}

/** A place in one spelling, for both versions. */
function placeOf(source: string, from: number, destination: string, to: number): ProxiedPlace {
  return { remote: formatPlace(spelled(source), from), local: formatPlace(spelled(destination), to) };
}

function spelled(address: string): string {
  const ip = parseIp(address)!;
  return ip.family === 4 ? ip.text : new URL(`http://[${address}]`).hostname.slice(1, -1);
}

/** The settings of a port that may be behind a load balancer. Times are milliseconds. */
export interface ProxyProtocol {
  /** The addresses that must send a preface. */
  readonly trusts: IpMatch;
  readonly limits: Pick<Limits, 'handshakeMs' | 'protocolDetectionMs'>;
  /**
   * The protocol after the preface. On a port of streams, a silent client may be waiting for the server to speak first.
   */
  readonly speaks: 'tls' | PortRules['protocol'];
}

/** `untrusted`: a preface from an address that may not send one. `invalid`: none, or a malformed one. */
export type ProxyProtocolCode = 'proxy_protocol_invalid' | 'proxy_protocol_untrusted';

/**
 * Waits for a connection's preface and consumes it; the bytes after it stay. `take` gets the socket paused. A
 * connection that does not send what it must, or sends what it must not, is closed, and `refuse` gets the reason.
 */
export function whenProxied(
  raw: Socket,
  { trusts, limits, speaks }: ProxyProtocol,
  take: (place: ProxiedPlace | undefined) => void,
  refuse: (code: ProxyProtocolCode, why: string) => void,
): void {
  const address = parseIp(raw.remoteAddress ?? '');
  const must = address !== undefined && trusts(address);
  let held: Buffer = Buffer.alloc(0);
  const stop = (): void => {
    clearTimeout(timer);
    raw.off('data', onData).off('end', onEnd).off('error', ignore);
  };
  const giveUp = (code: ProxyProtocolCode, why: string): void => {
    stop();
    raw.on('error', ignore).destroy();
    refuse(code, why);
  };
  const goOn = (used: number, place: ProxiedPlace | undefined): void => {
    stop();
    raw.pause();
    if (used < held.length) raw.unshift(held.subarray(used));
    take(place);
  };
  const mayWait = !must && speaks === 'tcp';
  const timer = setTimeout(
    () => {
      if (mayWait && held.length === 0) goOn(0, undefined);
      else
        giveUp(
          'proxy_protocol_invalid',
          `no ${must ? 'PROXY preface' : 'request'} within ${limits.handshakeMs} ms (limit handshake)`,
        );
    },
    mayWait ? limits.protocolDetectionMs : limits.handshakeMs,
  );
  const onData = (chunk: Buffer): void => {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    const said = readPreface(held);
    if (must) {
      if (said === 'more') return;
      if (said === 'none') giveUp('proxy_protocol_invalid', 'it must send a PROXY preface but sent something else');
      else if ('wrong' in said) giveUp('proxy_protocol_invalid', `its PROXY preface is invalid: ${said.wrong}`);
      else goOn(said.length, said.place);
    } else if (said === 'none') goOn(0, undefined);
    // The signature is enough: the preface of an untrusted sender is not parsed.
    else if (said !== 'more' || held.length >= first.length)
      giveUp('proxy_protocol_untrusted', 'it sent a PROXY preface but is not a trusted proxy');
  };
  const onEnd = (): void => {
    if (must) return giveUp('proxy_protocol_invalid', 'it closed before its PROXY preface');
    stop();
    raw.destroy();
  };
  raw.on('data', onData).on('end', onEnd).on('error', ignore);
  raw.once('close', () => clearTimeout(timer));
}

function ignore(): void {
  // 'close' follows; without a listener a reset would end the process.
}
