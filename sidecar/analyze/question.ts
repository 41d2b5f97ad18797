// A hypothetical request: what would policies decide about it? `policy eval --batch` (one JSON object per line), the
// fixtures of `policy test`, and `explain`, `diff` and `replay` use this form.

import { z } from 'zod';
import { formatProblem, type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../cert-agent/base/yaml.ts';
import { parseSpiffeId, parseTrustDomain } from '../../cert-agent/identity/spiffe-id.ts';
import type { Keys } from '../compile/policies.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { readIstio } from '../documents/istio/read.ts';
import { compilePolicies, type PolicySet } from '../policy/compile.ts';
import { customOf, decide, policiesFor } from '../policy/decide.ts';
import { type Explanation, explain } from '../policy/explain.ts';
import { createFacts, type RequestAuth, type RequestFacts, readClaims } from '../policy/facts.ts';
import { normalizeHost } from '../policy/host.ts';
import { parseIp } from '../policy/ip.ts';
import { type Authentication, compileAuthentication } from '../policy/jwt.ts';
import { normalizePath, type PathNormalization, pathNormalizations } from '../policy/path.ts';
import {
  type Decision,
  isAttached,
  isPermit,
  type PolicyScope,
  type Refusal,
  type RuleName,
} from '../policy/policy.ts';
import { preflightMethod } from '../policy/preflight.ts';
import { claimText, type RequestAuthentication } from '../policy/request-authentication.ts';

const address = z.string().superRefine((value, context) => {
  if (parseIp(value) === undefined) context.addIssue({ code: 'custom', message: `'${value}' is not an IP address` });
});

const spiffeId = z.string().transform((value, context) => {
  try {
    return parseSpiffeId(value).uri;
  } catch (error) {
    context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : String(error) });
    return z.NEVER;
  }
});

const trustDomain = z.string().superRefine((value, context) => {
  try {
    parseTrustDomain(value);
  } catch (error) {
    context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : String(error) });
  }
});

/** The schema of such a request. */
export const requestFields = {
  from: spiffeId.nullish(),
  sourceIp: address.optional(),
  remoteIp: address.optional(),
  destinationIp: address.optional(),
  port: z.number().int().min(0).max(65_535).optional(),
  sni: z.string().optional(),
  protocol: z.enum(['http', 'tcp']).default('http'),
  method: z.string().default('GET'),
  host: z.string().default(''),
  path: z.string().default('/'),
  headers: z.record(z.string(), z.union([z.string(), z.array(z.string())])).default({}),
  jwt: z.string().optional(),
  claims: z.record(z.string(), z.unknown()).optional(),
};

/** Its own policies and settings, if it includes them. */
export const scopeFields = {
  workload: z
    .strictObject({
      namespace: z.string().min(1).default('default'),
      serviceAccount: z.string().default(''),
      labels: z.record(z.string(), z.string()).default({}),
    })
    .optional(),
  policies: z.array(z.unknown()).optional(),
  trustDomain: trustDomain.optional(),
  trustDomainAliases: z.array(trustDomain).optional(),
  rootNamespace: z.string().min(1).optional(),
  defaultAction: z.enum(['deny', 'allow']).optional(),
  pathNormalization: z.enum(pathNormalizations).optional(),
  /** The decision of each external authorizer; one that is not listed does not respond, which denies. */
  providers: z.record(z.string(), z.enum(['allow', 'deny'])).default({}),
};

const questionSchema = z.strictObject({
  id: z.union([z.string(), z.number()]).optional(),
  ...requestFields,
  ...scopeFields,
});

/** A request, checked, with what it may override of the scope. See `questionSchema` for defaults. */
export type Question = z.output<typeof questionSchema>;

/** The policies and settings for questions without their own. */
export interface World {
  readonly documents: IstioDocuments;
  readonly scope: PolicyScope;
  readonly pathNormalization: PathNormalization;
  readonly keys: Keys;
}

/** One decision. `policy` and `rule` are those that decided; null if no rule did. */
export interface Verdict {
  readonly allowed: boolean;
  /** Of the response: 200 stands for any response of the app; 0 on TCP, which has no response. */
  readonly status: number;
  /** `namespace/name`. */
  readonly policy: string | null;
  readonly rule: number | null;
  /** The path as policies see it; null on TCP. */
  readonly path: string | null;
  /** The reason if no policy decided: a code of the error table. */
  readonly code?: string;
  readonly reason?: string;
}

/** A decision with the data for an explanation. */
export interface Answer {
  readonly verdict: Verdict;
  /** Absent if the request was refused before any policy. */
  readonly facts?: RequestFacts;
  readonly set: PolicySet;
  readonly decision?: Decision;
}

/** The explanation; undefined if the request was refused before any policy. */
export function explainAnswer({ facts, set, decision }: Answer): Explanation | undefined {
  if (facts === undefined || decision === undefined) return undefined;
  const reason = `${decision.policy} asks an external authorizer, which does not run here, and no response denies (set its decision in 'providers' of a batch or a fixture)`;
  return explain(set, facts, { policy: decision.policy, reason });
}

/** Caches compiled documents, so that many questions to the same ones are fast. */
export class Evaluator {
  readonly #world: World;
  readonly #judges = new Map<string, Judge>();

  constructor(world: World) {
    this.#world = world;
  }

  /** @throws SallyportError `body_invalid` for an invalid question, with all of its problems. */
  async answer(input: unknown): Promise<Answer> {
    const read = questionSchema.safeParse(input);
    if (!read.success)
      throw new SallyportError(
        'body_invalid',
        read.error.issues.map(({ path, message }) => `${path.join('.') || 'the request'}: ${message}`).join('; '),
      );
    return this.ask(read.data);
  }

  /**
   * Judges as a running sidecar would, up to forwarding: path, token, CUSTOM, DENY, ALLOW. A refusal is an answer.
   * @throws SallyportError `config_invalid` for documents in the question.
   */
  async ask(question: Question): Promise<Answer> {
    const judge = this.judgeFor(question);
    const { set } = judge;
    const tcp = question.protocol === 'tcp';
    const refused = (status: number, path: string | null, error: SallyportError): Answer => ({
      set,
      verdict: { allowed: false, status, policy: null, rule: null, path, code: error.code, reason: error.message },
    });
    let path: string;
    try {
      path = tcp ? '' : meaningOf(question, question.pathNormalization ?? this.#world.pathNormalization);
    } catch (error) {
      if (!(error instanceof SallyportError)) throw error;
      return refused(error.row.status, null, error);
    }
    const plainPath = path.split('?', 1)[0]!;
    const headers = joinHeaders(question.headers);
    const auth = tcp ? undefined : await authOf(question, path, headers, judge.authentication);
    if (auth instanceof SallyportError) return refused(auth.row.status, plainPath, auth);
    const facts = factsOf(question, plainPath, headers, auth);
    const decision = customDecision(question, set, facts) ?? decide(policiesFor(set, question.from ?? null), facts);
    return { set, facts, decision, verdict: verdictOf(decision, facts) };
  }

  /** The compiled documents for a question. @throws SallyportError `config_invalid` for its own documents. */
  judgeFor(question: Pick<Question, keyof typeof scopeFields>): Judge {
    const { workload, policies, trustDomain: td, trustDomainAliases, rootNamespace, defaultAction } = question;
    const key = JSON.stringify([workload, policies, td, trustDomainAliases, rootNamespace, defaultAction]);
    const known = this.#judges.get(key);
    if (known !== undefined) return known;
    const { scope: base, documents, keys } = this.#world;
    const scope: PolicyScope = {
      trustDomain: td ?? base.trustDomain,
      trustDomainAliases: trustDomainAliases ?? base.trustDomainAliases,
      rootNamespace: rootNamespace ?? base.rootNamespace,
      workload: workload === undefined ? base.workload : workload,
      defaultAction: defaultAction ?? base.defaultAction,
    };
    const all = policies === undefined ? documents : readValues(policies);
    const made: Judge = {
      scope,
      set: compilePolicies(
        all.authorizationPolicies.filter(({ dryRun }) => !dryRun),
        scope,
      ),
      authentication: compileAuthentication(attachedTo(all.requestAuthentications, scope), (rule) =>
        keys.sourceOf(rule),
      ),
    };
    // The cache is bounded, because every line may bring its own documents.
    if (this.#judges.size >= 1000) this.#judges.clear();
    this.#judges.set(key, made);
    return made;
  }
}

/** The compiled documents that answer a question. */
export interface Judge {
  readonly scope: PolicyScope;
  readonly set: PolicySet;
  readonly authentication: Authentication | undefined;
}

function attachedTo(documents: readonly RequestAuthentication[], scope: PolicyScope): RequestAuthentication[] {
  return documents.filter((one) => isAttached(one, scope));
}

/** Parses documents that are values, not text. @throws SallyportError `config_invalid`. */
function readValues(values: readonly unknown[]): IstioDocuments {
  const placed = values.map((value, index) => ({
    file: `policies[${index}]`,
    document: documentOf(value, `policies[${index}]`),
  }));
  const { documents, problems } = readIstio(placed, 'eval');
  if (problems.length === 0) return documents;
  throw new SallyportError('config_invalid', problems.map(formatProblem).join('; '), { problems });
}

function documentOf(value: unknown, file: string): YamlDocument {
  return {
    value,
    problemAt: (_path, message, { search, hint = search?.() } = {}): Problem => ({
      file,
      line: 1,
      column: 1,
      message,
      ...(hint === undefined ? {} : { hint }),
    }),
  };
}

/**
 * The path as policies see it, with its query. @throws SallyportError if the proxy would refuse it before any policy.
 */
function meaningOf({ method, path, host }: Question, how: PathNormalization): string {
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Z]+$/.test(method))
    throw new SallyportError('method_invalid', `'${method}' is not a method: methods are written in upper case`);
  if (method === 'CONNECT') throw new SallyportError('connect_unsupported', 'CONNECT is served on outbound ports only');
  if (host !== '' && normalizeHost(host) === undefined)
    throw new SallyportError('host_invalid', `'${host}' is not a host`);
  if (path === '*' && method === 'OPTIONS') return path;
  if (!path.startsWith('/')) throw new SallyportError('head_invalid_url', `'${path}' is not a path`);
  return normalizePath(path, how);
}

/** Verifies the token. `headers` become those that policies see, as in the proxy. */
async function authOf(
  { claims, jwt, method }: Question,
  path: string,
  headers: Map<string, string>,
  authentication: Authentication | undefined,
): Promise<RequestAuth | SallyportError | undefined> {
  const delimited = authentication?.rules.flatMap(({ spaceDelimitedClaims: one }) => one);
  if (authentication === undefined) return claims === undefined ? undefined : readClaims(claims, delimited);
  // By default, the token is at Istio's first location.
  if (jwt !== undefined) {
    const rule = authentication.rules.find(({ fromHeaders }) => fromHeaders.length > 0);
    const place = rule?.fromHeaders[0] ?? { name: 'authorization', prefix: 'Bearer ' };
    headers.set(place.name.toLowerCase(), `${place.prefix}${jwt}`);
  }
  const isPreflight = preflightMethod(method, (name) => headers.get(name)) !== undefined;
  const result =
    claims !== undefined || isPreflight
      ? undefined
      : await authentication.check({ path, header: (name) => headers.get(name) }, Date.now());
  for (const name of authentication.outputHeaders) headers.delete(name);
  if (result?.kind === 'refused') return result.error;
  if (result?.kind !== 'verified') return claims === undefined ? undefined : readClaims(claims, delimited);
  const { rule, places, auth, payload } = result;
  if (!rule.forwardOriginalToken) for (const { kind, name } of places) if (kind === 'header') headers.delete(name);
  if (rule.outputPayloadToHeader !== undefined) headers.set(rule.outputPayloadToHeader.toLowerCase(), payload);
  for (const { header, claim } of rule.outputClaimToHeaders) {
    const value = claimText(auth.claims, claim);
    if (typeof value === 'string') headers.set(header.toLowerCase(), value);
  }
  return auth;
}

function joinHeaders(headers: Question['headers']): Map<string, string> {
  const joined = new Map<string, string>();
  for (const [name, value] of Object.entries(headers)) {
    const key = name.toLowerCase();
    const text = Array.isArray(value) ? value.join(',') : value;
    joined.set(key, joined.has(key) ? `${joined.get(key)},${text}` : text);
  }
  return joined;
}

/** The facts of a question; the path is normalized and has no query. */
function factsOf(
  question: Question,
  path: string,
  joined: Map<string, string>,
  auth: RequestAuth | undefined,
): RequestFacts {
  const http = question.protocol === 'http';
  const host = normalizeHost(question.host) ?? question.host;
  const ip = (text: string | undefined): ReturnType<typeof parseIp> => (text === undefined ? undefined : parseIp(text));
  // Envoy's pseudo-header fields expose the request line, too.
  if (http) {
    joined.set(':method', question.method);
    joined.set(':path', question.path);
    joined.set(':authority', host);
    joined.set('host', host);
  }
  return createFacts({
    protocol: question.protocol,
    principal: question.from ?? '',
    method: http ? question.method : '',
    path: http ? path : '',
    host: http ? question.host : '',
    port: question.port ?? 0,
    sourceIp: ip(question.sourceIp),
    remoteIp: ip(question.remoteIp ?? question.sourceIp),
    destinationIp: ip(question.destinationIp),
    sni: question.sni ?? '',
    auth: http ? auth : undefined,
    headers: http ? Object.fromEntries(joined) : {},
  });
}

/** CUSTOM rules ask an external authorizer that does not run here. Its decision must be given; otherwise it denies. */
function customDecision(question: Question, set: PolicySet, facts: RequestFacts): Refusal | undefined {
  for (const rule of customOf(policiesFor(set, question.from ?? null), facts))
    if (question.providers[rule.provider!] !== 'allow') return rule.verdict as Refusal;
  return undefined;
}

function verdictOf(decision: Decision, facts: RequestFacts): Verdict {
  const tcp = facts.protocol === 'tcp';
  const allowed = isPermit(decision);
  const by: RuleName | undefined = decision.by;
  return {
    allowed,
    status: tcp ? 0 : allowed ? 200 : 403,
    policy: by === undefined ? null : `${by.namespace}/${by.name}`,
    rule: by?.rule ?? null,
    path: tcp ? null : facts.path,
  };
}
