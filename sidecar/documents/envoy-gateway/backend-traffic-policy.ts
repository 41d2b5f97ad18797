// Envoy Gateway's BackendTrafficPolicy as written. Fields that this build does not evaluate are problems with their
// place: a policy must not be accepted in part.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import type { PolicyHead } from '../../edge/policy.ts';
import { schemasOf } from '../../edge/schemas.ts';
import { metadata, notEvaluated, type PolicyTarget, targetsIn } from '../../schema/gateway-patterns.ts';
import { mergeType, targetOf } from '../../schema/policy-fields.ts';
import { headOf, withInheritance } from './merge.ts';
import { type UpstreamSettings, upstreamFields, upstreamSettingsOf } from './upstream-traffic.ts';

/** A BackendTrafficPolicy as read: plain data from the process that reads documents. */
export interface BackendTrafficPolicy extends PolicyHead<BackendTrafficPolicy>, Readonly<UpstreamSettings> {}

// Envoy Gateway's, without UDPRoute, which is not served.
const targetKinds = ['Gateway', 'HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute'] as const;

const target = targetOf(targetKinds);

/** The fields that capabilities of the edge read: all of them are about requests. */
const capabilityFields = await schemasOf('BackendTrafficPolicy');
const aboutRequests = ['retry', ...Object.keys(capabilityFields)] as const;

const spec = z
  .strictObject({
    targetRef: target.optional().describe('What the policy is for: a Gateway, a route, or a section of one.'),
    targetRefs: z
      .array(target)
      .min(1)
      .max(16)
      .optional()
      .describe('What the policy is for: Gateways, routes, or sections of them.'),
    ...upstreamFields,
    ...(capabilityFields as Record<never, never>),
    mergeType: mergeType.optional(),
    // What Envoy Gateway has beyond this build. Named one by one, so that the message says 'not evaluated' and not
    // 'unknown'. A field of a later version is an unknown key: refused as well.
    routingType: notEvaluated('routingType'),
    targetSelectors: notEvaluated('targetSelectors'),
    faultInjection: notEvaluated('faultInjection'),
    useClientProtocol: notEvaluated('useClientProtocol'),
    compressor: notEvaluated('compressor'),
    responseOverride: notEvaluated('responseOverride'),
    httpUpgrade: notEvaluated('httpUpgrade'),
    telemetry: notEvaluated('telemetry'),
    tcpKeepalive: notEvaluated('tcpKeepalive'),
    proxyProtocol: notEvaluated('proxyProtocol'),
    connection: notEvaluated('connection'),
    dns: notEvaluated('dns'),
    http2: notEvaluated('http2'),
    bandwidthLimit: notEvaluated('bandwidthLimit'),
    admissionControl: notEvaluated('admissionControl'),
  })
  .superRefine((value, context) => {
    const { targetRef, targetRefs } = value;
    if ((targetRef === undefined) === (targetRefs === undefined))
      context.addIssue({ code: 'custom', message: "needs 'targetRefs', or the one 'targetRef'" });
    for (const { kind, path } of placesOf(value)) {
      // Envoy Gateway's rule.
      if (kind === 'Gateway' && value.mergeType !== undefined)
        context.addIssue({
          ...{ code: 'custom', path: ['mergeType'] },
          message: 'only the policy of a route is merged with another: this one is for a Gateway',
        });
      if (kind !== 'TLSRoute' && kind !== 'TCPRoute') continue;
      for (const field of aboutRequests)
        if (Object.entries(value).some(([name, part]) => name === field && part !== undefined))
          context.addIssue({ code: 'custom', path, message: `'${field}' is about requests, and a ${kind} has none` });
      if (value.timeout?.http !== undefined)
        context.addIssue({ code: 'custom', path, message: `'timeout.http' is about requests, and a ${kind} has none` });
      const by = value.loadBalancer?.consistentHash?.type ?? 'SourceIP';
      if (by !== 'SourceIP')
        context.addIssue({
          code: 'custom',
          path,
          message: `a ${kind} has no ${by}: its streams can be hashed by SourceIP only`,
        });
    }
  });

type Target = z.output<typeof target>;

function placesOf({
  targetRef,
  targetRefs = [],
}: {
  targetRef?: Target | undefined;
  targetRefs?: Target[] | undefined;
}) {
  return [
    ...(targetRef === undefined ? [] : [{ kind: targetRef.kind, path: ['targetRef', 'kind'] }]),
    ...targetRefs.map(({ kind }, index) => ({ kind, path: ['targetRefs', index, 'kind'] })),
  ];
}

/** The document as written. */
export const backendTrafficPolicy = z.strictObject({
  apiVersion: z.literal('gateway.envoyproxy.io/v1alpha1').describe('The API version of the document.'),
  kind: z.literal('BackendTrafficPolicy').describe('The kind of the document.'),
  metadata,
  spec: spec.describe('What the policy is for, and how backends are called.'),
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
});

/** True for a document of that kind, of any version. */
export function isBackendTrafficPolicy(kind: string, apiVersion: string): boolean {
  return kind === 'BackendTrafficPolicy' && apiVersion.startsWith('gateway.envoyproxy.io/');
}

/**
 * The document's value, frozen, or every problem; with the targets if they can be read, so that they can be closed.
 */
export function readBackendTrafficPolicy(
  document: YamlDocument,
  file: string,
): { value: BackendTrafficPolicy } | { problems: Problem[]; targets?: readonly PolicyTarget[] } {
  const read = withInheritance(readDocument(backendTrafficPolicy, document), document);
  if ('problems' in read) {
    const targets = targetsIn(document.value);
    return targets === undefined ? read : { ...read, targets };
  }
  const { spec } = read.value;
  return { value: Object.freeze({ ...headOf(read, document, file), ...partsOf(spec), ...upstreamSettingsOf(spec) }) };
}

/** What the document sets for capabilities. */
function partsOf(said: object): Readonly<Record<string, unknown>> {
  return Object.fromEntries(
    Object.entries(said).filter(([name, part]) => Object.hasOwn(capabilityFields, name) && part !== undefined),
  );
}
