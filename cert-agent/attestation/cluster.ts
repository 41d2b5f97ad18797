// Verifies service-account tokens of one Kubernetes cluster, at the CA: by the cluster's OIDC discovery document and
// JWKS, and if configured by TokenReview as well, which also knows whether the pod still exists. Fails closed: without
// fresh keys nothing is verified. Only a token with a valid signature makes the CA ask the API server.

import { type ApiServer, askApiServer, unavailable } from '../base/api-server.ts';
import type { Clock } from '../base/clock.ts';
import { asSallyportError, SallyportError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { weaknessOfJwk } from '../identity/key-strength.ts';
import type { ClusterPod, ClusterTokens } from './contract.ts';

export interface ClusterOptions extends ApiServer {
  /** `iss` of its tokens. */
  readonly issuer: string;
  /** `aud` of those that are for us. */
  readonly audience: string;
  /** Also asks TokenReview. */
  readonly review?: boolean;
  /** DNS names for the certificates of accounts, by `namespace/account`. */
  readonly names?: Readonly<Record<string, readonly string[]>>;
}

/** The kubelet's files for a pod that asks the API server, and the issuer of clusters that do not set one. */
export const inCluster = Object.freeze({
  url: 'https://kubernetes.default.svc',
  issuer: 'https://kubernetes.default.svc.cluster.local',
  caFile: '/var/run/secrets/kubernetes.io/serviceaccount/ca.crt',
  tokenFile: '/var/run/secrets/kubernetes.io/serviceaccount/token',
});

/** Keys are fetched again when they are older. */
const refreshMs = 5 * 60_000;
/** However many tokens name keys that are not known. */
const coolDownMs = 10_000;
/** How long keys stay valid while the API server does not answer. */
const maxStaleMs = 3_600_000;
const maxKeys = 100;
const maxReviews = 16;
/** Of one pod, so that one that asks without end takes the places of no other. */
const maxReviewsOfPod = 2;
/** Tokens that wait for keys. Each holds one of the CA's 256 places, which renewals and join tokens need, too. */
const maxWaiting = 64;

/** What Kubernetes signs with. `none` and symmetric algorithms are not among them (RFC 8725 section 3.1). */
const algorithms = ['RS256', 'RS384', 'RS512', 'ES256', 'ES384', 'ES512'];

type KeyFinder = ReturnType<typeof import('jose')['createLocalJWKSet']>;

/** Verifies tokens of the cluster. Nothing is fetched before the first one. */
export function createCluster(options: ClusterOptions, clock: Clock, log: Log): ClusterTokens {
  const keys = new ClusterKeys(options, clock, log);
  /** UIDs of the pods whose tokens are under review. */
  const reviews: string[] = [];
  return {
    namesOf({ namespace, serviceAccount }) {
      const { names = {} } = options;
      const key = `${namespace}/${serviceAccount}`;
      return Object.hasOwn(names, key) ? names[key]! : [];
    },
    async verify(token) {
      try {
        return await verify(token);
      } catch (error) {
        if (!(error instanceof SallyportError) || error.code !== 'kubernetes_unavailable') throw error;
        // What the API server said is for the log.
        throw new SallyportError('kubernetes_unavailable', 'the CA cannot verify tokens of the cluster now', {
          hint: 'its log says why',
        });
      }
    },
  };

  async function verify(token: string): Promise<ClusterPod> {
    const claims = await verifySignature(token, keys, options, clock);
    const pod = podOf(claims);
    if (options.review !== true) return pod;
    const ofPod = reviews.filter((one) => one === pod.podUid).length;
    if (reviews.length >= maxReviews || ofPod >= maxReviewsOfPod)
      throw new SallyportError('kubernetes_unavailable', 'too many tokens are under review', { hint: 'try again' });
    reviews.push(pod.podUid);
    try {
      await review(token, pod, options);
    } catch (error) {
      if (error instanceof SallyportError && error.code === 'kubernetes_unavailable')
        log.error({ code: error.code }, error.message);
      throw error;
    } finally {
      reviews.splice(reviews.indexOf(pod.podUid), 1);
    }
    return pod;
  }
}

async function verifySignature(
  token: string,
  keys: ClusterKeys,
  { issuer, audience }: ClusterOptions,
  clock: Clock,
): Promise<Readonly<Record<string, unknown>>> {
  const { decodeProtectedHeader, errors, jwtVerify } = await import('jose');
  let kid: unknown;
  try {
    kid = decodeProtectedHeader(token).kid;
  } catch {
    throw invalid('it is no JWT');
  }
  const find = await keys.finderFor(typeof kid === 'string' ? kid : undefined);
  try {
    const { payload } = await jwtVerify(token, find, {
      ...{ issuer, audience, algorithms, requiredClaims: ['exp', 'iat', 'sub'] },
      currentDate: new Date(clock.now()),
      // Node's clock and the API server's.
      clockTolerance: 10,
    });
    return payload;
  } catch (error) {
    if (error instanceof errors.JWTExpired) throw invalid('it has expired');
    if (error instanceof errors.JWTClaimValidationFailed) {
      if (error.claim === 'aud')
        throw invalid('it is for another audience', `project a token with the audience ${audience}`);
      if (error.claim === 'iss') throw invalid('it is of another cluster');
      throw invalid(`its '${error.claim}' is missing or not valid`);
    }
    if (error instanceof errors.JWKSNoMatchingKey) throw invalid('no key of the cluster is the one that it names');
    if (error instanceof errors.JWKSMultipleMatchingKeys) throw invalid('it does not name its key');
    if (error instanceof errors.JWSSignatureVerificationFailed) throw invalid('its signature is wrong');
    if (error instanceof errors.JOSEError) throw invalid('it is signed in a way that Kubernetes does not use');
    throw error;
  }
}

function invalid(why: string, hint?: string): SallyportError {
  return new SallyportError('kubernetes_token_invalid', `the service-account token is refused: ${why}`, { hint });
}

/** The names of Kubernetes, as it limits them: nothing else becomes part of an identity. */
const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const subdomain = /^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$/;
const uid = /^[\w.-]{1,64}$/;

function podOf(claims: Readonly<Record<string, unknown>>): ClusterPod {
  const own = treeOf(claims['kubernetes.io']);
  const [account, pod] = [treeOf(own['serviceaccount']), treeOf(own['pod'])];
  const { namespace } = own;
  const [serviceAccount, podName, podUid] = [account['name'], pod['name'], pod['uid']];
  if (!matches(namespace, label) || !matches(serviceAccount, subdomain))
    throw invalid('it names no namespace and service account');
  if (claims['sub'] !== `system:serviceaccount:${namespace}:${serviceAccount}`)
    throw invalid("its 'sub' and its service account differ");
  // Others are made by hand (kubectl create token) and outlive what they are used for.
  if (!matches(podName, subdomain) || !matches(podUid, uid))
    throw invalid('it is not bound to a pod', 'use the token of a projected volume');
  return { namespace, serviceAccount, pod: podName, podUid };
}

function matches(value: unknown, pattern: RegExp): value is string {
  return typeof value === 'string' && pattern.test(value);
}

function treeOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

/** Is the token still one of a pod that exists? The API server knows its service account by its UID too. */
async function review(token: string, pod: ClusterPod, options: ClusterOptions): Promise<void> {
  const { audience } = options;
  const answer = await askApiServer(options, 'POST', '/apis/authentication.k8s.io/v1/tokenreviews', {
    ...{ apiVersion: 'authentication.k8s.io/v1', kind: 'TokenReview' },
    spec: { token, audiences: [audience] },
  });
  const status = treeOf(treeOf(answer)['status']);
  if (treeOf(answer)['kind'] !== 'TokenReview') throw unavailable('the API server answered no TokenReview');
  if (status['authenticated'] !== true) throw invalid('its pod or its service account does not exist any more');
  const audiences = status['audiences'];
  if (!Array.isArray(audiences) || !audiences.includes(audience)) throw invalid('it is for another audience');
  const user = treeOf(status['user'])['username'];
  if (user !== `system:serviceaccount:${pod.namespace}:${pod.serviceAccount}`)
    throw invalid('the API server knows it as that of another account');
}

/** The keys of a cluster, kept and fetched anew: one fetch at a time, however many wait. */
class ClusterKeys {
  readonly #options: ClusterOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  #find: KeyFinder | undefined;
  #kids: ReadonlySet<string> = new Set();
  #goodAt = Number.NEGATIVE_INFINITY;
  #askedAt = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined;
  #problem: SallyportError | undefined;
  #waiting = 0;

  constructor(options: ClusterOptions, clock: Clock, log: Log) {
    this.#options = options;
    this.#clock = clock;
    this.#log = log;
  }

  /** @throws SallyportError `kubernetes_unavailable` if no keys are known, or only old ones. */
  async finderFor(kid: string | undefined): Promise<KeyFinder> {
    const age = this.#clock.now() - this.#goodAt;
    const isKnown = kid !== undefined && this.#kids.has(kid) && age <= maxStaleMs;
    const isCool = this.#clock.now() - this.#askedAt >= coolDownMs || this.#clock.now() < this.#askedAt;
    const mayAsk = isCool || this.#asking !== undefined;
    const isFull = this.#waiting >= maxWaiting;
    if (mayAsk && isKnown && age > refreshMs) {
      const answer = this.#ask();
      // An API server that has failed may take its time. Meanwhile what is known is used.
      if (this.#problem === undefined && !isFull) await this.#wait(answer);
    } else if (mayAsk && !isKnown) {
      if (isFull) throw unavailable('many tokens wait for its keys');
      await this.#wait(this.#ask());
    }
    if (this.#find !== undefined && this.#clock.now() - this.#goodAt <= maxStaleMs) return this.#find;
    throw this.#problem ?? unavailable('it gave no keys');
  }

  async #wait(answer: Promise<void>): Promise<void> {
    this.#waiting++;
    await answer;
    this.#waiting--;
  }

  /** Never rejects. */
  #ask(): Promise<void> {
    this.#asking ??= this.#askNow().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #askNow(): Promise<void> {
    this.#askedAt = this.#clock.now();
    try {
      const keys = await fetchKeys(this.#options);
      const { createLocalJWKSet } = await import('jose');
      this.#find = createLocalJWKSet({ keys } as unknown as Parameters<typeof createLocalJWKSet>[0]);
      this.#kids = new Set(keys.flatMap(({ kid }) => (typeof kid === 'string' ? [kid] : [])));
      this.#goodAt = this.#clock.now();
      if (this.#problem !== undefined)
        this.#log.info({ code: 'kubernetes_recovered' }, 'the keys of the cluster were fetched again');
      this.#problem = undefined;
    } catch (error) {
      const problem = asSallyportError(error, 'kubernetes_unavailable', 'the cluster cannot be asked');
      if (problem.message !== this.#problem?.message) this.#log.error({ code: problem.code }, problem.message);
      this.#problem = problem;
    }
  }
}

async function fetchKeys(options: ClusterOptions): Promise<readonly Record<string, unknown>[]> {
  const { issuer, url } = options;
  const found = treeOf(await askApiServer(options, 'GET', '/.well-known/openid-configuration'));
  // OpenID Connect Discovery 1.0 section 4.3.
  if (found['issuer'] !== issuer) {
    const other = typeof found['issuer'] === 'string' ? `'${found['issuer'].slice(0, 200)}'` : 'nothing';
    throw unavailable(`its discovery document names ${other} as the issuer, not ${issuer}: set --kubernetes-issuer`);
  }
  // `jwks_uri` often has an address of the API server that its certificate does not name, and may lead elsewhere. The
  // API server serves the same keys itself, at a fixed path.
  const uri = typeof found['jwks_uri'] === 'string' ? URL.parse(found['jwks_uri']) : null;
  const path = uri !== null && uri.origin === new URL(url).origin ? `${uri.pathname}${uri.search}` : '/openid/v1/jwks';
  const { keys } = treeOf(await askApiServer(options, 'GET', path));
  if (!Array.isArray(keys) || keys.length > maxKeys) throw unavailable(`it has no JWK Set of at most ${maxKeys} keys`);
  const usable = keys
    .map(treeOf)
    .filter(
      (key) =>
        (key['kty'] === 'RSA' || key['kty'] === 'EC') &&
        (key['use'] === undefined || key['use'] === 'sig') &&
        (key['alg'] === undefined || algorithms.includes(key['alg'] as string)) &&
        weaknessOfJwk(key) === undefined,
    );
  if (usable.length === 0) throw unavailable('none of its keys can be used');
  return usable;
}
