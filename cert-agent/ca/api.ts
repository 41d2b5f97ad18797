// The CA's HTTP API as a table of routes. server.ts serves it over TLS; openapi.ts describes it, and a test compares
// the two.

import { z } from 'zod';
import type { ClusterTokens, Evidence, SvidEvidence } from '../attestation/contract.ts';
import { enrolments } from '../attestation/kinds.ts';
import { verifySvid } from '../attestation/svid.ts';
import { formatTime } from '../base/clock.ts';
import { asSallyportError, SallyportError } from '../base/errors.ts';
import type { Live } from '../base/live.ts';
import type { Log } from '../base/log.ts';
import { readCertificateFacts } from '../identity/certificate.ts';
import { deniedBy } from '../identity/denied.ts';
import type { Presented } from '../identity/peer-chain.ts';
import type { Agents, Receiver, Sink } from './agents.ts';
import { backdateMs } from './authority.ts';
import { type BundleAnswer, matchesEtag } from './bundle-answer.ts';
import { mostNames } from './dns/name.ts';
import { expiredTokenError, refuseDenied } from './evidence.ts';
import { type Issued, type IssueParts, issueSvid } from './issue.ts';
import type { Ledger } from './ledger/ledger.ts';
import type { CaMetrics } from './metrics.ts';
import { openapiDocument } from './openapi.ts';
import type { CrlFile, CrlMaker, MadeCrls } from './revocation/crl.ts';
import { type OcspAnswer, type OcspResponder, readGetRequest } from './revocation/ocsp.ts';
import type { Revocations } from './revocation/revoke.ts';

/** What the routes use. The caller owns and closes all of it. */
export interface ApiParts extends IssueParts {
  /** How long after its expiry an SVID can be renewed, milliseconds. */
  readonly graceMs: number;
  /** The cluster whose pods may enrol. */
  readonly cluster?: ClusterTokens | undefined;
  readonly revocations: Revocations;
  readonly bundleAnswer: Live<BundleAnswer>;
  readonly metrics: CaMetrics;
  readonly ledger: Ledger;
  readonly agents: Agents;
  readonly crl: CrlMaker;
  readonly ocsp: OcspResponder;
  readonly log: Log;
}

/** A request as a route sees it. Nothing in it is verified: routes check body and evidence themselves. */
export interface ApiRequest {
  /** The client's certificates from the handshake, unverified. */
  readonly presented: Presented;
  readonly ifNoneMatch: string | undefined;
  readonly remote: string;
  /** The body as JSON, or its bytes where the route reads those; undefined with GET. */
  readonly body: unknown;
  /** What stands in the place of the path's `{...}`, as it was sent; empty for a path without one. */
  readonly rest: string;
}

/** A response; `status` is 200 by default. Refusals are thrown as SallyportError, and server.ts answers them. */
export interface ApiAnswer {
  readonly status?: number;
  /** Default `application/json`. */
  readonly type?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: string | Buffer;
  /**
   * True for a text that grows and that anybody may ask for: it is sent in gzip to clients that take it, and few of them are
   * unread at a time.
   */
  readonly isScrape?: boolean;
}

/** One row of the table. Paths are compared as sent, without decoding. */
export interface Route {
  readonly method: 'GET' | 'POST';
  /** Exact, or a beginning with a last part `{...}` for everything that follows. */
  readonly path: string;
  /** With POST: the body as bytes, up to this many, instead of JSON. */
  readonly maxBytes?: number;
  /** The body is undefined with GET; with POST it is JSON, not yet checked, or bytes if `maxBytes` is set. */
  answer(request: ApiRequest): Promise<ApiAnswer> | ApiAnswer;
}

/** A route that leaves HTTP (RFC 9110 section 7.8): lines of JSON, both ways, until one side ends it. */
export interface StreamRoute {
  readonly method: 'GET';
  readonly path: string;
  /** The protocol in `Upgrade`. */
  readonly upgrade: string;
  /** @throws SallyportError before anything is sent. */
  open(request: ApiRequest, sink: Sink): Receiver;
}

/** Every route of the CA. */
export function createRoutes(parts: ApiParts): readonly (Route | StreamRoute)[] {
  const openapi = JSON.stringify(openapiDocument());
  return [
    { method: 'POST', path: '/v1/svid', answer: (request) => enrol(parts, request) },
    { method: 'POST', path: '/v1/svid/renew', answer: (request) => renew(parts, request) },
    { method: 'GET', path: '/v1/watch', upgrade: watchProtocol, open: (request, sink) => watch(parts, request, sink) },
    { method: 'GET', path: '/v1/bundle', answer: (request) => answerBundle(parts.bundleAnswer.current(), request) },
    { method: 'GET', path: '/v1/ledger/{sequence}', answer: (request) => answerRecord(parts, request) },
    ...publicRoutes(parts),
    { method: 'GET', path: '/v1/openapi.json', answer: () => ({ body: openapi }) },
    { method: 'GET', path: '/healthz', answer: () => answerHealth(parts) },
    { method: 'GET', path: '/metrics', answer: () => answerMetrics(parts) },
  ];
}

/** The routes about revocation, whose responses are signed: also for clients that do not speak TLS. */
export function publicRoutes({ crl, ocsp }: Pick<ApiParts, 'crl' | 'ocsp'>): readonly Route[] {
  const answerOf = async (request: Uint8Array, { remote }: ApiRequest): Promise<ApiAnswer> =>
    answerOcsp(await ocsp.answer(request, remote));
  return [
    {
      ...{ method: 'GET', path: '/v1/crl' },
      answer: async (request) => answerCrl((await crl.current()).der, 'application/pkix-crl', request),
    },
    {
      ...{ method: 'GET', path: '/v1/crl/{keyId}' },
      answer: async (request) => answerCrl(listOf(await crl.current(), request.rest), 'application/pkix-crl', request),
    },
    {
      ...{ method: 'GET', path: '/v1/crl.pem' },
      answer: async (request) => answerCrl((await crl.current()).pem, 'application/x-pem-file', request),
    },
    {
      ...{ method: 'POST', path: '/ocsp', maxBytes: maxOcspBytes },
      answer: (request) => answerOf(request.body as Buffer, request),
    },
    {
      ...{ method: 'GET', path: '/ocsp/{request}' },
      // What is not base64 is malformed as well: the responder says so.
      answer: (request) => answerOf(readGetRequest(request.rest) ?? Buffer.alloc(0), request),
    },
  ];
}

/** More is not read; the responder refuses less than this as malformed. */
const maxOcspBytes = 16_384;

function listOf({ byKeyId }: MadeCrls, keyId: string): CrlFile {
  const found = byKeyId.get(keyId);
  if (found !== undefined) return found;
  throw new SallyportError('not_found', 'no issuer with this key identifier has valid certificates', {
    hint: 'the authority key identifier of a certificate, in lower-case hex',
  });
}

function answerCrl({ body, etag }: CrlFile, type: string, request: ApiRequest): ApiAnswer {
  const headers = { etag, 'cache-control': 'no-cache' };
  return matchesEtag(request.ifNoneMatch, etag) ? { status: 304, type, headers, body: '' } : { type, headers, body };
}

/** RFC 5019 section 6.2. */
function answerOcsp({ body, freshMs }: OcspAnswer): ApiAnswer {
  const seconds = Math.floor(freshMs / 1000);
  const cached = seconds > 0 ? `max-age=${seconds}, public, no-transform, must-revalidate` : 'no-store';
  return { type: 'application/ocsp-response', headers: { 'cache-control': cached }, body };
}

/** The protocol of `/v1/watch`. */
export const watchProtocol = 'sallyport-watch/1';

const base64 = z.string().regex(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/, 'is not base64');
const renewal = { csr: base64.min(1), ttlSeconds: z.int().optional() };
const renewSchema = z.strictObject(renewal);
const enrolSchema = z
  .strictObject({
    ...renewal,
    ...Object.fromEntries(
      enrolments.map(({ field, maxLength }) => [field, z.string().min(1).max(maxLength).optional()]),
    ),
  })
  .refine(
    (body) => enrolments.filter(({ field }) => field in body).length === 1,
    `needs exactly one of ${enrolments.map(({ field }) => `'${field}'`).join(' and ')}`,
  );

async function enrol(parts: ApiParts, request: ApiRequest): Promise<ApiAnswer> {
  const { csr, ttlSeconds, ...proofs } = parseBody(enrolSchema, request.body);
  const { trustDomain } = parts.authority;
  const verifiers = {
    findToken: (hash: string) => parts.store.findToken(hash),
    ...{ trustDomain, now: () => parts.clock.now(), cluster: parts.cluster },
  };
  const kind = enrolments.find(({ field }) => field in proofs)!;
  const issued = await onRecord(parts, request, async (prove) => {
    const evidence = await kind.verify((proofs as Record<string, string>)[kind.field]!, verifiers);
    // A token that has expired proves nothing, but a denial ends tokens too.
    const isDenied = parts.revocations.denied.current().ids.has(evidence.id.uri);
    if (evidence.kind === 'token' && !isDenied && evidence.expiresAt <= parts.clock.now()) throw expiredTokenError();
    prove(evidence);
    refuseDenied(evidence, parts.revocations.denied.current());
    return issue(parts, evidence, { csr, ttlSeconds }, request);
  });
  if (issued.again) await parts.ledger.repeat(request.remote, issued.id, issued.serial);
  parts.metrics.issued(issued.again);
  return answerIssued(parts, issued);
}

async function renew(parts: ApiParts, request: ApiRequest): Promise<ApiAnswer> {
  const asked = parseBody(renewSchema, request.body);
  const issued = await onRecord(parts, request, async (prove) => {
    const evidence = await readRenewable(parts, request.presented);
    prove(evidence);
    refuseDenied(evidence, parts.revocations.denied.current());
    return issue(parts, evidence, asked, request);
  });
  parts.metrics.renewed();
  return answerIssued(parts, issued);
}

function watch(parts: ApiParts, { presented, ifNoneMatch }: ApiRequest, sink: Sink): Receiver {
  const evidence = readPresentedSvid(parts, presented);
  refuseDenied(evidence, parts.revocations.denied.current());
  const { id, serial, expired, notBefore, notAfter } = evidence;
  if (expired) throw new SallyportError('svid_expired', `the SVID of ${id.uri} has expired: renew it first`);
  const client = { id: id.uri, serial, issuedAt: notBefore + backdateMs, until: notAfter };
  return parts.agents.open(client, sink, ifNoneMatch);
}

/** Runs `work`, which proves the identity first. A refusal is in the ledger before the client gets it. */
async function onRecord(
  { ledger }: ApiParts,
  { remote, presented }: ApiRequest,
  work: (prove: (evidence: Evidence) => void) => Promise<Issued>,
): Promise<Issued> {
  let proved: Evidence | undefined;
  try {
    return await work((evidence) => {
      proved = evidence;
    });
  } catch (error) {
    const { code } = asSallyportError(error, 'internal', 'the request failed');
    await ledger.refuse({ caller: remote, code, id: proved?.id.uri, claims: claimOf(presented) });
    throw error;
  }
}

/** The ID in the client's certificate, unverified. */
function claimOf({ chain }: Presented): string | undefined {
  const [leaf] = chain;
  if (leaf === undefined) return undefined;
  try {
    return readCertificateFacts(leaf).uris[0]?.slice(0, longestClaim);
  } catch {
    return undefined;
  }
}

const longestClaim = 512;

/**
 * What makes a client known: a valid SVID. The result says whether it still is, neither expired nor denied since.
 * Undefined for every other client, also one whose expired SVID can be renewed: it may be revoked, or not on record.
 */
export function knownBy(parts: EvidenceParts, presented: Presented): (() => boolean) | undefined {
  if (presented.chain.length === 0) return undefined;
  try {
    const evidence = readPresentedSvid(parts, presented);
    const { id, serial, expired, notAfter } = evidence;
    const { clock, revocations } = parts;
    refuseDenied(evidence, revocations.denied.current());
    if (expired) return undefined;
    return () => clock.now() <= notAfter && deniedBy(revocations.denied.current(), { id, serial }) === undefined;
  } catch {
    // The renewal itself reports why.
    return undefined;
  }
}

type EvidenceParts = Pick<ApiParts, 'authority' | 'revocations' | 'clock' | 'graceMs'>;

function readPresentedSvid(
  { authority, clock, graceMs }: EvidenceParts,
  { chain, complaint }: Presented,
): SvidEvidence {
  const [leaf, ...above] = chain;
  // Clients need not send our own intermediate. If they do, ours is the one that is parsed already.
  const presented = { chain: leaf === undefined ? [] : [leaf, ...authority.issuers, ...above], complaint };
  return verifySvid(presented, authority.bundles, { now: clock.now(), graceMs, mostNames });
}

/**
 * An expired SVID must be on record, byte by byte: the deny list has dropped expired serials, and the record says which
 * were revoked. The key of an issuer that has expired as well could sign another certificate with a recorded serial. Of
 * one that has not expired the signature is enough: the key of an issuer in use can sign any.
 */
async function readRenewable(parts: ApiParts, presented: Presented): Promise<SvidEvidence> {
  const evidence = readPresentedSvid(parts, presented);
  if (!evidence.expired) return evidence;
  const found = await parts.store.findCertificate(evidence.serial);
  if (found !== undefined && presented.chain[0]?.equals(found.certificate) === true) return evidence;
  throw new SallyportError('svid_expired', `the SVID of ${evidence.id.uri} has expired and is not on record here`, {
    hint: 'create a join token: sallyport ca token create --dir DIR --spiffe-id ID --ttl 10m',
  });
}

async function issue(
  parts: ApiParts,
  evidence: Evidence,
  asked: { csr: string; ttlSeconds?: number | undefined },
  request: ApiRequest,
): Promise<Issued> {
  const lifeMs = asked.ttlSeconds === undefined ? undefined : asked.ttlSeconds * 1000;
  const order = { csr: Buffer.from(asked.csr, 'base64'), lifeMs, caller: request.remote };
  const issued = await issueSvid(parts, evidence, order);
  const { id, serial, again } = issued;
  const code = evidence.kind === 'svid' ? 'renewed' : again ? 'repeated' : 'issued';
  parts.log.info({ code, id, serial, notAfter: formatTime(issued.notAfter), remote: request.remote }, code);
  return issued;
}

function answerIssued(parts: ApiParts, issued: Issued): ApiAnswer {
  return {
    body: JSON.stringify({
      id: issued.id,
      serial: issued.serial,
      notBefore: formatTime(issued.notBefore),
      notAfter: formatTime(issued.notAfter),
      chain: issued.chain.map((one) => Buffer.from(one).toString('base64')),
      bundle: parts.bundleAnswer.current().document,
    }),
  };
}

function answerBundle({ body, etag }: BundleAnswer, request: ApiRequest): ApiAnswer {
  // no-cache: a cache must revalidate each time, since a stale deny list would let denied identities in.
  const headers = { etag, 'cache-control': 'no-cache' };
  return matchesEtag(request.ifNoneMatch, etag) ? { status: 304, headers, body: '' } : { headers, body };
}

/**
 * The hash of one record, so that an agent can check that the ledger still has an end that it saw. Public, as the hash of
 * the newest one is in the bundle: records are salted, so that it tells nothing about them.
 */
async function answerRecord({ store }: ApiParts, { rest }: ApiRequest): Promise<ApiAnswer> {
  const sequence = /^[1-9]\d{0,14}$/.test(rest) ? Number(rest) : undefined;
  if (sequence === undefined)
    throw new SallyportError('body_invalid', 'a record is named by its number, from 1', {
      hint: 'GET /v1/openapi.json describes it',
    });
  const [first, [record]] = await Promise.all([store.firstOfLedger(), store.readLedger(sequence, 1)]);
  const hash = record?.sequence === sequence ? { hash: record.hash } : {};
  const headers = { 'cache-control': 'no-store' };
  return { headers, body: JSON.stringify({ sequence, ...hash, first }) };
}

/**
 * Healthy means able to issue: the store is writable and the intermediate is valid. The check writes nothing, because
 * any client may request it.
 */
async function answerHealth(parts: ApiParts): Promise<ApiAnswer> {
  const now = parts.clock.now();
  await parts.store.findToken('');
  const trouble = parts.store.trouble();
  if (trouble !== undefined) throw new SallyportError('store_failed', `the store failed: ${trouble}`);
  if (now > parts.authority.notAfter) throw new SallyportError('issuer_expired', 'the intermediate has expired');
  return { body: JSON.stringify({ status: 'ok', time: formatTime(now) }) };
}

async function answerMetrics({ metrics }: ApiParts): Promise<ApiAnswer> {
  return { type: metrics.registry.contentType, body: await metrics.registry.metrics(), isScrape: true };
}

function parseBody<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const where = issue === undefined || issue.path.length === 0 ? 'the body' : `'${issue.path.join('.')}'`;
  throw new SallyportError('body_invalid', `${where}: ${issue?.message ?? 'invalid'}`, {
    hint: 'GET /v1/openapi.json describes it',
  });
}
