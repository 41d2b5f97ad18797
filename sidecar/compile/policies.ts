// Compiles documents for their workload, in slices, because traffic goes on meanwhile.

import { setImmediate } from 'node:timers/promises';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { compileInSteps, type PolicySet } from '../policy/compile.ts';
import { lookUpInSteps } from '../policy/decide.ts';
import { type Authentication, compileAuthentication, type KeySource, type TokenObserver } from '../policy/jwt.ts';
import { isAttached, type PolicyScope } from '../policy/policy.ts';
import type { JwtRule } from '../policy/request-authentication.ts';

/** What an inbound port evaluates. */
export interface Judgement {
  readonly policies: PolicySet;
  /** With the dry-run policies included; undefined if there are none. */
  readonly shadow: PolicySet | undefined;
  readonly authentication: Authentication | undefined;
}

/** The longest time that traffic waits for a slice, milliseconds. */
const sliceMs = 4;

/** The keys of issuers, and an observer of verifications. */
export interface Keys {
  /** The keys of a rule. Rules with the same issuer and URI share them. */
  sourceOf(rule: JwtRule): KeySource;
  observe?: TokenObserver;
}

/**
 * Compiles in slices. `before` is the last result: what has not changed is kept, with its caches. `peers` are
 * connected: their rules are looked up now, so that their next requests do not wait for it.
 */
export async function compileDocuments(
  documents: IstioDocuments,
  scope: PolicyScope,
  keys: Keys,
  before?: Judgement,
  peers: Iterable<string> = [],
): Promise<Judgement> {
  const { authorizationPolicies: all } = documents;
  const enforced = all.filter(({ dryRun }) => !dryRun);
  const policies = await inSlices(compileInSteps(enforced, scope));
  const onTrial = all.some((policy) => policy.dryRun && isAttached(policy, scope));
  const shadow = onTrial ? await inSlices(compileInSteps(all, scope)) : undefined;
  for (const peer of peers) {
    await inSlices(lookUpInSteps(policies, peer));
    if (shadow !== undefined) await inSlices(lookUpInSteps(shadow, peer));
  }
  const authentication = compileAuthentication(
    documents.requestAuthentications.filter((one) => isAttached(one, scope)),
    (rule) => keys.sourceOf(rule),
    keys.observe,
  );
  const isSame = JSON.stringify(authentication?.rules) === JSON.stringify(before?.authentication?.rules);
  return Object.freeze({
    policies,
    shadow,
    authentication: isSame ? before?.authentication : authentication,
  });
}

async function inSlices<T>(steps: Generator<void, T>): Promise<T> {
  let end = performance.now() + sliceMs;
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
    if (performance.now() < end) continue;
    await setImmediate();
    end = performance.now() + sliceMs;
  }
}
