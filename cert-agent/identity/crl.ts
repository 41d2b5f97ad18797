// Certificate revocation lists, RFC 5280 section 5: signed, parsed and verified. A list of 100,000 entries is parsed
// in linear time without a tree (der.ts); pkijs takes seconds and a gigabyte for one.

import type { KeyObject } from 'node:crypto';
import { formatTime } from '../base/clock.ts';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { type DerElement, DerReader, derTag, readBoolean, readOid } from './der.ts';
import {
  bitString,
  element,
  extension,
  headOf,
  integer,
  octets,
  oid,
  sequence,
  tagged,
  time,
  wholeNumber,
  writeTag,
} from './der-write.ts';
import { algorithmOf, type Issuer, isSignedBy, readIssuer } from './issuer.ts';

/** Names of CRLReason, section 5.3.1, that an operator can mean. */
export const reasonCodes = Object.freeze({
  unspecified: 0,
  keyCompromise: 1,
  affiliationChanged: 3,
  superseded: 4,
  cessationOfOperation: 5,
});
/** Reasons that lift a revocation (certificateHold, removeFromCRL) are left out: a revocation here is final. */
export type ReasonName = keyof typeof reasonCodes;

/** RFC 5280 section 5.3. */
export interface CrlEntry {
  /** Lower-case hex. */
  readonly serial: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly reason: ReasonName;
}

/** What a new list has. Entries may come in any order. */
export interface CrlSpec {
  /** Section 5.2.3; grows with every list of the same issuer. */
  readonly number: number;
  /** Milliseconds since 1970, whole seconds in the list. */
  readonly thisUpdate: number;
  readonly nextUpdate: number;
  readonly entries: readonly CrlEntry[];
}

/** A list that was read. Its signature is not verified yet: see `verifyCrl`. */
export interface Crl {
  /** The whole list, DER. */
  readonly der: Buffer;
  /** The issuer's Name, DER. */
  readonly issuer: Buffer;
  readonly issuerKeyId: Buffer | undefined;
  /** Undefined where the list has none. */
  readonly number: bigint | undefined;
  readonly thisUpdate: number;
  readonly nextUpdate: number;
  /** The serials in the form of `normalizeSerial`. */
  readonly serials: ReadonlySet<string>;
}

/** No list is larger than this: some 300,000 entries. */
export const maxCrlBytes = 16 * 1024 * 1024;

/** Entries that are written before other work gets its turn. */
const slice = 5000;

const ids = Object.freeze({
  reasonCode: '2.5.29.21',
  number: '2.5.29.20',
  authorityKey: '2.5.29.35',
  deltaBase: '2.5.29.27',
  distributionPoint: '2.5.29.28',
});

/** Signs a CRL of version 2 by the CA with this key and certificate (DER). Returns DER. */
export async function signCrl(
  spec: CrlSpec,
  { key, certificate }: { readonly key: KeyObject; readonly certificate: Uint8Array },
): Promise<Buffer> {
  const issuer = readIssuer(certificate);
  const { algorithm, sign } = algorithmOf(key);
  const entries: Buffer[] = [];
  for (let from = 0; from < spec.entries.length; from += slice) {
    if (from > 0) await new Promise((resolve) => setImmediate(resolve));
    entries.push(Buffer.concat(spec.entries.slice(from, from + slice).flatMap(entryOf)));
  }
  const extensions = [
    ...(issuer.keyId === undefined ? [] : [extension(ids.authorityKey, sequence(element(0x80, issuer.keyId)))]),
    extension(ids.number, wholeNumber(spec.number)),
  ];
  const body = sequence(
    wholeNumber(1),
    algorithm,
    issuer.subject,
    time(spec.thisUpdate),
    time(spec.nextUpdate),
    // Section 5.1.2.6: absent if nothing is revoked.
    ...(entries.length === 0 ? [] : [sequence(...entries)]),
    tagged(0, sequence(...extensions)),
  );
  return sequence(body, algorithm, bitString(sign(body)));
}

/** Section 5.3.1: `unspecified` should be absent rather than written. */
function entryOf({ serial, at, reason }: CrlEntry): Buffer[] {
  const number = integer(Buffer.from(serial, 'hex'));
  const since = time(at);
  const why = whyOf(reason);
  return [headOf(derTag.sequence, number.length + since.length + why.length), number, since, why];
}

const whys = new Map(
  Object.entries(reasonCodes).map(([name, code]) => [
    name,
    code === 0
      ? Buffer.alloc(0)
      : sequence(sequence(oid(ids.reasonCode), octets(element(writeTag.enumerated, Buffer.from([code]))))),
  ]),
);

function whyOf(reason: ReasonName): Buffer {
  return whys.get(reason)!;
}

/** The list as PEM. */
export function formatCrlPem(der: Buffer): string {
  const lines = der.toString('base64').replace(/.{64}(?=.)/g, '$&\n');
  return `-----BEGIN X509 CRL-----\n${lines}\n-----END X509 CRL-----\n`;
}

/**
 * The lists in a file: DER, or PEM with one or more. @throws SallyportError `crl_invalid` for anything else, also if
 * only a part of it is a list.
 */
export function parseCrls(content: Buffer, source: string): Crl[] {
  if (content.length > maxCrlBytes * 1.5) throw invalid(source, `larger than ${maxCrlBytes} bytes`);
  if (content[0] === derTag.sequence) return [parseCrl(content, source)];
  const text = content.toString('latin1');
  const blocks = text.split('-----BEGIN X509 CRL-----').slice(1);
  if (blocks.length === 0) throw invalid(source, 'neither DER nor PEM (BEGIN X509 CRL)');
  return blocks.map((block) => {
    const end = block.indexOf('-----END X509 CRL-----');
    if (end === -1) throw invalid(source, 'a PEM block without an end');
    const base64 = block.slice(0, end).replaceAll(/\s/g, '');
    if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64) || base64.length % 4 !== 0)
      throw invalid(source, 'a PEM block is not base64');
    return parseCrl(Buffer.from(base64, 'base64'), source);
  });
}

/** Parses one list, DER. It is not verified. @throws SallyportError `crl_invalid`. */
export function parseCrl(der: Buffer, source: string): Crl {
  if (der.length > maxCrlBytes) throw invalid(source, `larger than ${maxCrlBytes} bytes`);
  try {
    return readCrl(der);
  } catch (error) {
    throw invalid(source, reasonOf(error));
  }
}

function readCrl(der: Buffer): Crl {
  const outer = new DerReader(der);
  const list = outer.enter();
  outer.end();
  const signed = list.read(derTag.sequence);
  const algorithm = list.read(derTag.sequence);
  list.read(derTag.bitString);
  list.end();
  const body = new DerReader(signed.body);
  const version = body.readIf(derTag.integer);
  if (version !== undefined && !version.body.equals(Buffer.from([1]))) throw new TypeError('an unknown version');
  // Section 5.1.1.2: the algorithm is named twice, and only one of the two is signed.
  if (!body.read(derTag.sequence).whole.equals(algorithm.whole))
    throw new TypeError('its two signature algorithms differ');
  const issuer = body.read(derTag.sequence).whole;
  const thisUpdate = readTime(body.read());
  // Section 5.1.2.5: required, and a list without an end would be trusted for ever.
  if (body.done) throw new TypeError('it has no nextUpdate');
  const nextUpdate = readTime(body.read());
  const revoked = body.readIf(derTag.sequence);
  const extensions = body.readIf(0xa0);
  body.end();
  const serials = revoked === undefined ? new Set<string>() : readEntries(revoked.body);
  return Object.freeze({
    ...{ der, issuer, thisUpdate, nextUpdate, serials },
    ...(extensions === undefined ? { issuerKeyId: undefined, number: undefined } : readExtensions(extensions.body)),
  });
}

function readEntries(bytes: Buffer): Set<string> {
  const serials = new Set<string>();
  let like: Buffer | undefined;
  for (const list = new DerReader(bytes); !list.done; ) {
    const entry = list.enter();
    const number = entry.read(derTag.integer);
    serials.add(serialText(number.body));
    // Many entries have the same time and reason: these are checked once.
    const rest = entry.rest();
    if (like !== undefined && rest.equals(like)) continue;
    like = rest;
    readTime(entry.read());
    const extensions = entry.readIf(derTag.sequence);
    entry.end();
    // Section 5.3: with an unknown critical extension, the list must not be used. Such as an entry of another issuer.
    if (extensions !== undefined) refuseCritical(extensions.body, new Set([ids.reasonCode]));
  }
  return serials;
}

/** The content of a serial's INTEGER in the form of `normalizeSerial`. */
export function serialText(body: Buffer): string {
  let from = 0;
  while (from < body.length - 1 && body[from] === 0) from++;
  return body.toString('hex', from);
}

/** Section 5.2: with an unknown critical extension (a delta list, a list of a part), the list must not be used. */
function readExtensions(bytes: Buffer): { number: bigint | undefined; issuerKeyId: Buffer | undefined } {
  const outer = new DerReader(bytes);
  const list = outer.read(derTag.sequence);
  outer.end();
  const found = refuseCritical(list.body, new Set([ids.number, ids.authorityKey]));
  const number = found.get(ids.number);
  const authority = found.get(ids.authorityKey);
  return {
    number: number === undefined ? undefined : readNumber(new DerReader(number).read(derTag.integer)),
    issuerKeyId: authority === undefined ? undefined : new DerReader(authority).enter().readIf(0x80)?.body,
  };
}

function refuseCritical(bytes: Buffer, understood: ReadonlySet<string>): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const list = new DerReader(bytes); !list.done; ) {
    const one = list.enter();
    const id = readOid(one.read(derTag.oid));
    const critical = one.readIf(derTag.boolean);
    found.set(id, one.read(derTag.octetString).body);
    one.end();
    // They must be critical, and a list that has them is not whole even where they are not.
    if (id === ids.deltaBase || id === ids.distributionPoint)
      throw new TypeError('it is a delta list, or the list of a part');
    if (critical !== undefined && readBoolean(critical) && !understood.has(id))
      throw new TypeError(`the critical extension ${id} is not supported`);
  }
  return found;
}

function readNumber({ body }: DerElement): bigint {
  // Section 5.2.3: at most 20 octets.
  if (body.length === 0 || body.length > 21 || (body[0]! & 0x80) !== 0)
    throw new TypeError('a CRL number out of range');
  return BigInt(`0x${body.toString('hex')}`);
}

/** Section 5.1.2.4: in seconds, UTC. */
function readTime({ tag, body }: DerElement): number {
  const text = body.toString('latin1');
  const isShort = tag === writeTag.utcTime;
  const match = (isShort ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/).exec(
    text,
  );
  if (match === null || (!isShort && tag !== writeTag.generalizedTime)) throw new TypeError('a time that is not one');
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number) as [
    ...[number, number, number],
    ...[number, number, number],
  ];
  const full = isShort ? (year < 50 ? 2000 : 1900) + year : year;
  return Date.UTC(full, month - 1, day, hour, minute, second);
}

/**
 * Checks that one of `issuers` signed the list and that it holds at `now`. Returns that issuer.
 * @throws SallyportError `crl_untrusted` or `crl_expired`.
 */
export function verifyCrl(crl: Crl, issuers: readonly Issuer[], now: number, source: string): Issuer {
  const issuer = issuers.find((one) => one.mayCrl && isOf(crl, one) && isSigned(crl, one));
  if (issuer === undefined)
    throw new SallyportError('crl_untrusted', `${source}: no issuer that we trust has signed this CRL`, {
      hint: 'is it the list of another CA, or an older key?',
    });
  if (now > crl.nextUpdate)
    throw new SallyportError('crl_expired', `${source}: the CRL was to be replaced by ${formatTime(crl.nextUpdate)}`, {
      hint: 'fetch the current one from its CA',
    });
  return issuer;
}

/** True if the list names this issuer. */
export function isOf(crl: Crl, issuer: Issuer): boolean {
  if (!crl.issuer.equals(issuer.subject)) return false;
  return crl.issuerKeyId === undefined || issuer.keyId === undefined || crl.issuerKeyId.equals(issuer.keyId);
}

function isSigned(crl: Crl, { publicKey }: Issuer): boolean {
  const list = new DerReader(crl.der).enter();
  const body = list.read(derTag.sequence).whole;
  const algorithm = list.read(derTag.sequence).whole;
  const signature = list.read(derTag.bitString).body.subarray(1);
  return isSignedBy(publicKey, algorithm, body, signature);
}

/**
 * The standard reason with which a text begins (`keyCompromise: stolen laptop`); `unspecified` if it begins with none.
 */
export function reasonNamed(text: string): ReasonName {
  const word = /^[a-z]+/i.exec(text.trim())?.[0].toLowerCase();
  return (Object.keys(reasonCodes) as ReasonName[]).find((name) => name.toLowerCase() === word) ?? 'unspecified';
}

function invalid(source: string, why: string): SallyportError {
  return new SallyportError('crl_invalid', `${source} is not a CRL: ${why}`);
}
