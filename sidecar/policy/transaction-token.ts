// A gateway's assertion about a user, for the next hop: a JWT that lasts one minute at most, signed with the gateway's
// own SVID, after the OAuth Transaction Tokens draft. It is accepted only from the mTLS peer that it names as issuer
// and only for the workload that it names, so a stolen one is useless. Verified tokens are cached with the generation
// of our identity that verified them, and dropped with it: a changed bundle or deny list takes effect at once.

import type { KeyObject } from 'node:crypto';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { openCertificate } from '../../cert-agent/identity/certificate.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import { checkChainSize, maxChain } from '../../cert-agent/identity/path.ts';
import { verifyChain } from '../../cert-agent/identity/verify.ts';
import { type RequestAuth, readClaims } from './facts.ts';
import { hasDuplicateKeys } from './json-keys.ts';
import { algorithmOf, isSignedBy, type TokenAlgorithm } from './token-algorithms.ts';

/** The header field of the token, in lower case. */
export const transactionTokenField = 'txn-token';

/** Claims reserved for the gateway: a user's token must not set them, and its issuer is under `auth`. */
export const gatewayClaims: ReadonlySet<string> = new Set([
  ...['iss', 'sub', 'aud', 'exp', 'nbf', 'iat', 'jti', 'txn', 'auth', 'cnf', 'act'],
]);

/** `typ` of the header, so that no other kind of token is accepted as one (RFC 8725 section 3.11). */
export const transactionTokenType = 'txntoken+jwt';
/** Characters; a longer one is refused unread. */
export const maxTransactionTokenLength = 8192;
/** From `iat` to `exp`. */
export const maxTransactionTokenSeconds = 60;
/** A gateway's clock may be ahead of ours; no token is accepted after its end. */
const leewayMs = 10_000;
/** Memory limit of the cached tokens of one generation; the oldest are dropped first. */
const rememberedBytes = 4 * 1_048_576;
/** Memory of one entry besides its text (measured, rounded up). */
const bytesPerToken = 2048;
/** Gateways are few, and each renews its leaf from time to time. */
const maxSigners = 1024;

/** A gateway's assertion about a user, verified. */
export interface Vouched {
  /** The peer that asserts it. */
  readonly gateway: string;
  readonly auth: RequestAuth;
  /**
   * When the user's credential (for example the user's own token) expires: wall clock, milliseconds. The transaction
   * token's own end only limits how long it may be presented: a stream that it opened may last longer.
   */
  readonly validUntil: number;
  /** When it was verified, and under which generation. */
  readonly at: number;
  readonly under: Identity;
  /** The token's header as received: it identifies the signer. */
  readonly header: string;
}

interface Signer {
  readonly id: string;
  readonly key: KeyObject;
  readonly algorithm: TokenAlgorithm;
  /** How long the chain is valid: wall clock, milliseconds. */
  readonly notBefore: number;
  readonly validUntil: number;
}

interface Believed {
  readonly token: string;
  readonly vouched: Vouched;
  /** Wall clock, milliseconds. */
  readonly until: number;
}

interface Memory {
  /** By signature: hashing the whole token for the look-up would take longer than everything else. */
  readonly tokens: Map<string, Believed>;
  bytes: number;
  /** By header, as received: the same leaf, chain and algorithm. */
  readonly signers: Map<string, Signer>;
}

const memories = new WeakMap<Identity, Memory>();

/**
 * Verifies `token`, which `peer` presented at `now`, and returns what it asserts.
 * @throws SallyportError `txn_token_invalid` with the reason, which is for the log; the caller does not see it.
 */
export function verifyTransactionToken(token: string, peer: string, ours: Identity, now: number): Vouched {
  const memory = memoryOf(ours);
  const signature = token.slice(token.lastIndexOf('.') + 1);
  const known = memory.tokens.get(signature);
  if (known?.token === token && known.vouched.gateway === peer && now < known.until) return known.vouched;
  try {
    const believed = verifyNew(token, peer, ours, now);
    remember(memory, signature, believed);
    return believed.vouched;
  } catch (error) {
    throw transactionTokenRefusal(peer, error);
  }
}

/**
 * Checks whether the gateway's assertion still holds under another generation of our identity: its signer may be denied
 * since then, or its root gone. The time is that of the request: a leaf that has expired since was good when it signed.
 * @throws SallyportError `txn_token_invalid`.
 */
export function checkVouched({ gateway, header, at, under }: Vouched, ours: Identity): void {
  if (under === ours) return;
  try {
    signerOf(header, ours, at);
  } catch (error) {
    throw transactionTokenRefusal(gateway, error);
  }
}

/** The refusal of the token that `peer` presented, with the reason as a sentence for the log. */
export function transactionTokenRefusal(peer: string, cause: unknown): SallyportError {
  return new SallyportError('txn_token_invalid', `the transaction token of ${peer} is refused: ${reasonOf(cause)}`, {
    cause,
  });
}

function memoryOf(ours: Identity): Memory {
  const known = memories.get(ours);
  if (known !== undefined) return known;
  const made: Memory = { tokens: new Map(), bytes: 0, signers: new Map() };
  memories.set(ours, made);
  return made;
}

function remember(memory: Memory, signature: string, believed: Believed): void {
  forget(memory, signature);
  memory.tokens.set(signature, believed);
  memory.bytes += believed.token.length + bytesPerToken;
  for (const oldest of memory.tokens.keys()) {
    if (memory.bytes <= rememberedBytes) break;
    forget(memory, oldest);
  }
}

function forget(memory: Memory, signature: string): void {
  const known = memory.tokens.get(signature);
  if (known === undefined) return;
  memory.tokens.delete(signature);
  memory.bytes -= known.token.length + bytesPerToken;
}

function verifyNew(token: string, peer: string, ours: Identity, now: number): Believed {
  if (token.length > maxTransactionTokenLength)
    throw new Error(`it has ${token.length} characters; the limit is ${maxTransactionTokenLength}`);
  const parts = token.split('.');
  const [header = '', payload = '', signature = ''] = parts;
  if (parts.length !== 3) throw new Error('it does not have three parts with dots between them');
  // The cheap checks first: a chain takes milliseconds.
  const claims = readObject(payload, 'payload');
  const exp = checkAddress(claims, peer, ours.svid.id.uri, now);
  const validUntil = readUserEnd(claims, now);
  const signer = signerOf(header, ours, now);
  if (signer.id !== peer) throw new Error(`it is signed by ${signer.id}`);
  if (!isSignedBy(`${header}.${payload}`, readBase64Url(signature, 'signature'), signer.key, signer.algorithm))
    throw new Error('its signature was not made with the key of its leaf');
  return {
    token,
    vouched: Object.freeze({ gateway: peer, auth: readClaims(claims), validUntil, at: now, under: ours, header }),
    until: Math.min(exp * 1000, signer.validUntil, validUntil),
  };
}

/** Checks issuer, audience and lifetime (RFC 7519 section 4.1). Returns the end, in seconds. */
function checkAddress(
  { iss, aud, exp, iat, nbf, sub }: Readonly<Record<string, unknown>>,
  peer: string,
  us: string,
  now: number,
): number {
  if (iss !== peer) throw new Error('its issuer is not the peer that presented it');
  if ((Array.isArray(aud) && aud.length === 1 ? aud[0] : aud) !== us) throw new Error(`it is not for ${us} alone`);
  if (!isNumber(exp) || !isNumber(iat)) throw new Error("'exp' and 'iat' are not both numbers");
  if (exp - iat > maxTransactionTokenSeconds || exp <= iat)
    throw new Error(`its lifetime is ${exp - iat} s; the limit is ${maxTransactionTokenSeconds} s`);
  if (exp * 1000 <= now) throw new Error('it has expired');
  if (iat * 1000 > now + leewayMs) throw new Error('it was issued in the future');
  if (nbf !== undefined && !(isNumber(nbf) && nbf * 1000 <= now + leewayMs)) throw new Error('it is not valid yet');
  if (sub !== undefined && typeof sub !== 'string') throw new Error("'sub' is not a string");
  return exp;
}

/** `auth.exp`, the end of the user's credential; milliseconds, Infinity if it does not expire. */
function readUserEnd({ auth }: Readonly<Record<string, unknown>>, now: number): number {
  if (!isObject(auth) || typeof auth['method'] !== 'string') throw new Error("'auth' has no 'method'");
  const { exp } = auth;
  if (exp === undefined) return Number.POSITIVE_INFINITY;
  if (!isNumber(exp)) throw new Error("'auth.exp' is not a number");
  if (exp * 1000 <= now) throw new Error('the credential of the user has expired');
  return exp * 1000;
}

/** The signer of a header. Cached by the whole header, so that most tokens cost one signature check. */
function signerOf(header: string, ours: Identity, at: number): Signer {
  const { signers } = memoryOf(ours);
  const known = signers.get(header);
  if (known !== undefined && known.notBefore <= at && at <= known.validUntil) return known;
  const { typ, alg, crit, x5c } = readObject(header, 'header');
  if (typ !== transactionTokenType) throw new Error(`its type is not '${transactionTokenType}'`);
  // RFC 7515 section 4.1.11: a recipient that does not support a critical extension must refuse the token; we support
  // none.
  if (crit !== undefined) throw new Error("it has 'crit', and no critical extension is supported");
  const chain = readChain(x5c);
  checkChainSize(chain);
  const key = openCertificate(chain[0]!).publicKey;
  const algorithm = algorithmOf(key);
  if (algorithm === undefined || alg !== algorithm.name)
    throw new Error(`its algorithm does not match the key of its leaf (${algorithm?.name ?? 'none'})`);
  const { id, notBefore, validUntil } = verifyChain(chain, ours.bundles, ours.denied, at);
  const signer: Signer = { id: id.uri, key, algorithm, notBefore, validUntil };
  if (signers.size >= maxSigners) for (const oldest of signers.keys()) if (signers.delete(oldest)) break;
  signers.set(header, signer);
  return signer;
}

/** RFC 7515 section 4.1.6: base64 of DER, not base64url, the leaf first. */
function readChain(x5c: unknown): Buffer[] {
  if (!Array.isArray(x5c) || x5c.length === 0 || x5c.length > maxChain)
    throw new Error(`its 'x5c' is not a list of 1 to ${maxChain} certificates`);
  return x5c.map((one: unknown) => {
    const der = Buffer.from(typeof one === 'string' ? one : '', 'base64');
    if (der.length === 0 || der.toString('base64') !== one) throw new Error("its 'x5c' is not base64");
    return der;
  });
}

function readObject(part: string, what: string): Readonly<Record<string, unknown>> {
  const text = readBase64Url(part, what).toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(`its ${what} is not JSON`);
  }
  if (!isObject(value)) throw new Error(`its ${what} is not an object`);
  if (hasDuplicateKeys(text)) throw new Error(`its ${what} names a field twice`);
  return value;
}

/** RFC 7515 section 2. One spelling only: the last character has spare bits, and a token must not have two forms. */
function readBase64Url(part: string, what: string): Buffer {
  const bytes = Buffer.from(part, 'base64url');
  if (bytes.length === 0 || bytes.toString('base64url') !== part) throw new Error(`its ${what} is not base64url`);
  return bytes;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}
