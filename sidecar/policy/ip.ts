// IP addresses and blocks, as numbers: they are compared for every request, so nothing is parsed or allocated twice.

import { isIPv4, isIPv6 } from 'node:net';

/** An address as 32-bit words, most significant first. An IPv4 address has one, in `a`. */
export interface Ip {
  readonly family: 4 | 6;
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly d: number;
  readonly text: string;
}

/** Whether an address is in one of the blocks. Allocates nothing. */
export type IpMatch = (ip: Ip) => boolean;

/**
 * The address in `text`, without zone; an IPv4-mapped address (`::ffff:10.0.0.1`) is IPv4. Undefined if it is no
 * address.
 */
export function parseIp(text: string): Ip | undefined {
  if (isIPv4(text)) return { family: 4, a: readIpv4(text), b: 0, c: 0, d: 0, text };
  const zone = text.indexOf('%');
  const bare = zone === -1 ? text : text.slice(0, zone);
  if (!isIPv6(bare)) return undefined;
  const [a = 0, b = 0, c = 0, d = 0] = readIpv6(bare);
  if (a === 0 && b === 0 && c === 0xffff) return { family: 4, a: d, b: 0, c: 0, d: 0, text: formatIpv4(d) };
  return { family: 6, a, b, c, d, text: bare };
}

/** The host of `host:port` or `[host]:port`, as sockets and logs write places. */
export function ipOfPlace(place: string): Ip | undefined {
  return parseIp(place.replace(/:\d+$/, '').replace(/^\[|\]$/g, ''));
}

/**
 * The network that counts as one client: for IPv6 a network of 64 bits, since the holder of one address has all of it.
 * '' for an unknown address.
 */
export function networkOf(ip: Ip | undefined): string {
  if (ip === undefined) return '';
  return ip.family === 4 ? ip.text : `${ip.a}:${ip.b}`;
}

/** Is `text` an address or a block of them, as Istio's validation reads it? */
export function isIpBlock(text: string): boolean {
  return parseBlock(text) !== undefined;
}

/** Is every address of the block `narrow` in the block `wide`? False if one of them is no block. */
export function blockCovers(wide: string, narrow: string): boolean {
  const [a, b] = [parseBlock(wide), parseBlock(narrow)];
  if (a === undefined || b === undefined || a.family !== b.family) return false;
  const isWithin = a.masks.every((mask, i) => (mask & b.masks[i]!) >>> 0 === mask);
  return isWithin && compileIpBlocks([wide])({ ...b, text: narrow });
}

/** In any of `blocks`, each an address or a CIDR block. IPv4 blocks hold no IPv6 address, and vice versa. */
export function compileIpBlocks(blocks: readonly string[]): IpMatch {
  const parsed = blocks.map(parseBlock).filter((one) => one !== undefined);
  return function matchIp(ip) {
    for (const { family, a, b, c, d, masks } of parsed) {
      if (ip.family !== family || (ip.a & masks[0]) >>> 0 !== a) continue;
      if ((ip.b & masks[1]) >>> 0 === b && (ip.c & masks[2]) >>> 0 === c && (ip.d & masks[3]) >>> 0 === d) return true;
    }
    return false;
  };
}

type Masks = readonly [number, number, number, number];

interface Block extends Omit<Ip, 'text'> {
  readonly masks: Masks;
}

function parseBlock(text: string): Block | undefined {
  const slash = text.indexOf('/');
  const address = slash === -1 ? text : text.slice(0, slash);
  const ip = parseIp(address);
  if (ip === undefined || address.includes('%')) return undefined;
  const mapped = ip.family === 4 && address.includes(':');
  const bits = ip.family === 4 && !mapped ? 32 : 128;
  const prefix = slash === -1 ? String(bits) : text.slice(slash + 1);
  if (!/^(?:0|[1-9]\d{0,2})$/.test(prefix) || Number(prefix) > bits) return undefined;
  // A block within ::ffff:0:0/96 is one of IPv4; a wider one would include both kinds of addresses.
  const length = mapped ? Number(prefix) - 96 : Number(prefix);
  if (length < 0) return undefined;
  const masks = [0, 32, 64, 96].map((from) => maskOf(length - from)) as unknown as Masks;
  return {
    family: ip.family,
    a: (ip.a & masks[0]) >>> 0,
    b: (ip.b & masks[1]) >>> 0,
    c: (ip.c & masks[2]) >>> 0,
    d: (ip.d & masks[3]) >>> 0,
    masks,
  };
}

/** The first `bits` of 32; a shift by 32 would shift by none. */
function maskOf(bits: number): number {
  if (bits <= 0) return 0;
  return bits >= 32 ? 0xffffffff : (0xffffffff << (32 - bits)) >>> 0;
}

function readIpv4(text: string): number {
  return text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
}

function formatIpv4(word: number): string {
  return [24, 16, 8, 0].map((shift) => (word >>> shift) & 255).join('.');
}

function readIpv6(text: string): number[] {
  const embedded = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  const plain =
    embedded === null
      ? text
      : `${embedded[1]}${(readIpv4(embedded[2]!) >>> 16).toString(16)}:${(readIpv4(embedded[2]!) & 0xffff).toString(16)}`;
  const [head = '', tail] = plain.split('::');
  const read = (part: string): number[] => (part === '' ? [] : part.split(':').map((one) => Number.parseInt(one, 16)));
  const before = read(head);
  const after = tail === undefined ? [] : read(tail);
  const parts = [...before, ...Array<number>(8 - before.length - after.length).fill(0), ...after];
  return [0, 2, 4, 6].map((i) => ((parts[i]! << 16) | parts[i + 1]!) >>> 0);
}
