// Envoy Gateway's SecurityPolicy as written: who may call a gateway's routes, and how callers are authenticated. Fields
// that this build does not evaluate are problems, and never silently a wider policy. An unreadable policy still gives
// its targets, so that they can be closed.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../../cert-agent/base/live.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { fieldsOf } from '../../edge/capabilities.ts';
import type { SecurityPolicy } from '../../edge/policy.ts';
import { schemasOf } from '../../edge/schemas.ts';
import { metadata, type PolicyTarget, targetsIn } from '../../schema/gateway-patterns.ts';
import { mergeType, refused, targetOf } from '../../schema/policy-fields.ts';
import { headOf, type Merging, withInheritance } from './merge.ts';

/** The only version that is read. */
export const securityPolicyVersion = 'gateway.envoyproxy.io/v1alpha1';

/** The fields that capabilities of the edge read. */
const capabilityFields = await schemasOf('SecurityPolicy');

/** The same fields, with what a capability checks across them. */
const fields = fieldsOf('SecurityPolicy');

const targetRef = targetOf(
  ['Gateway', 'HTTPRoute', 'GRPCRoute'],
  'a target must be a Gateway, an HTTPRoute or a GRPCRoute',
);

/** The fields of a `spec` that say what a policy is attached to. */
export const targetFields = {
  targetRef: targetRef.optional().describe('What the policy is for: a Gateway, a route, or a section of one.'),
  targetRefs: z
    .array(targetRef)
    .min(1)
    .max(16, 'a policy has at most 16 targets')
    .optional()
    .describe('What the policy is for: Gateways, routes, or sections of them.'),
  targetSelectors: refused("targets must be named: write 'targetRefs'"),
};

/** What those fields say of one another; undefined where nothing is wrong. */
export function problemOfTargets(said: { readonly targetRef?: unknown; readonly targetRefs?: unknown }) {
  const isOne = (said.targetRef === undefined) !== (said.targetRefs === undefined);
  return isOne ? undefined : "needs exactly one of 'targetRef' and 'targetRefs'";
}

const spec = z
  .strictObject({
    ...targetFields,
    mergeType: mergeType.optional(),
    ...capabilityFields,
  })
  .superRefine((said, context) => {
    const issue = (path: (string | number)[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    const wrong = problemOfTargets(said);
    if (wrong !== undefined) issue([], wrong);
    if (said.mergeType !== undefined) {
      if ([said.targetRef, ...(said.targetRefs ?? [])].some((one) => one?.kind === 'Gateway'))
        issue(['mergeType'], 'only the policy of a route is merged with another: this one is for a Gateway');
      // What it refers to may be in the other policy: that shows when they are merged.
      return;
    }
    for (const [name, plan] of Object.entries(said))
      for (const { path, message } of fields.get(name)?.field.mismatches?.(plan as never, said) ?? [])
        issue([name, ...path], message);
  });

/** The document as written. */
export const securityPolicy = z.strictObject({
  apiVersion: z.literal(securityPolicyVersion).describe('The API version of the document.'),
  kind: z.literal('SecurityPolicy').describe('The kind of the document.'),
  metadata,
  spec: spec.describe('What the policy is for, and what it demands of callers.'),
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
});

/** A valid policy, or its problems. */
export type ReadPolicy =
  | { readonly value: SecurityPolicy; readonly warnings: readonly Problem[] }
  | { readonly problems: readonly Problem[]; readonly targets?: readonly PolicyTarget[] };

/**
 * The policy as frozen plain data, and its warnings; or every problem with its place and, if they can be read, the
 * targets that must answer 500.
 */
export function readSecurityPolicy(document: YamlDocument, file: string, from?: Merging): ReadPolicy {
  const read = withInheritance(readDocument(securityPolicy, document), document);
  if ('problems' in read) {
    const targets = targetsIn(document.value);
    return targets === undefined ? read : { problems: read.problems, targets };
  }
  const head = headOf(read, document, file);
  const warnings: Problem[] = [];
  const parts = Object.fromEntries(
    Object.entries(read.value.spec).flatMap(([name, plan]) => {
      const field = fields.get(name)?.field;
      if (field === undefined) return [];
      for (const { path, message } of field.warnings?.(plan as never) ?? [])
        warnings.push(document.problemAt(['spec', name, ...path], `${['spec', name, ...path].join('.')}: ${message}`));
      const policy = from?.parts.has(name) === false ? from.parent : `${head.namespace}/${head.name}`;
      return [[name, field.named?.(plan as never, policy) ?? plan]];
    }),
  );
  return { value: deepFreeze({ ...head, ...parts }), warnings };
}
