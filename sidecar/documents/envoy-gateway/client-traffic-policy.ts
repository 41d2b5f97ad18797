// Envoy Gateway's ClientTrafficPolicy, of which only `tls.clientValidation` is read: which client certificates a
// Gateway requests, and the CRLs that they are checked against. Every other field is a problem: a policy must not be
// accepted in part.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../../cert-agent/base/live.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import type { ClientPolicy } from '../../routing/documents.ts';
import { clientDemands } from '../../routing/schema.ts';
import { metadata, notEvaluated, type PolicyTarget, targetsIn } from '../../schema/gateway-patterns.ts';
import { refused, targetOf } from '../../schema/policy-fields.ts';

const target = targetOf(['Gateway'], 'a target must be a Gateway');

const others = [
  ...['tcpKeepalive', 'enableProxyProtocol', 'proxyProtocol', 'clientIPDetection', 'path', 'headers', 'timeout'],
  ...['connection', 'http1', 'http2', 'http3', 'healthCheck', 'scheme', 'requestID'],
];

const spec = z
  .strictObject({
    targetRef: target.optional().describe('The Gateway or listener that the policy is for.'),
    targetRefs: z
      .array(target)
      .min(1)
      .max(16, 'a policy has at most 16 targets')
      .optional()
      .describe('The Gateways and listeners that the policy is for.'),
    targetSelectors: refused("targets must be named: write 'targetRefs'"),
    tls: z
      .strictObject({
        clientValidation: clientDemands.describe('Which client certificates are asked for and accepted.'),
        ...Object.fromEntries(
          ['minVersion', 'maxVersion', 'ciphers', 'ecdhCurves', 'signatureAlgorithms', 'alpnProtocols', 'session'].map(
            (name) => [name, notEvaluated(name)],
          ),
        ),
      })
      .describe('The TLS of clients.'),
    ...Object.fromEntries(others.map((name) => [name, notEvaluated(name)])),
  })
  .superRefine(({ targetRef, targetRefs }, context) => {
    if ((targetRef === undefined) === (targetRefs === undefined))
      context.addIssue({ code: 'custom', message: "needs 'targetRefs', or the one 'targetRef'" });
  });

/** The document as written. */
export const clientTrafficPolicy = z.strictObject({
  apiVersion: z.literal('gateway.envoyproxy.io/v1alpha1').describe('The API version of the document.'),
  kind: z.literal('ClientTrafficPolicy').describe('The kind of the document.'),
  metadata,
  spec: spec.describe('What the policy is for, and what it demands.'),
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
});

/** True for a document of that kind, of any version. */
export function isClientTrafficPolicy(kind: string, apiVersion: string): boolean {
  return kind === 'ClientTrafficPolicy' && apiVersion.startsWith('gateway.envoyproxy.io/');
}

/**
 * The policy as frozen plain data, or every problem; with the targets if they can be read, so that they can be closed.
 */
export function readClientTrafficPolicy(
  document: YamlDocument,
  file: string,
): { value: ClientPolicy } | { problems: readonly Problem[]; targets?: readonly PolicyTarget[] } {
  const read = readDocument(clientTrafficPolicy, document);
  if ('problems' in read) {
    const targets = targetsIn(document.value);
    return targets === undefined ? read : { ...read, targets };
  }
  const { metadata: of, spec: said } = read.value;
  const value: ClientPolicy = {
    name: of.name,
    namespace: of.namespace ?? 'default',
    createdAt: of.creationTimestamp == null ? undefined : Date.parse(of.creationTimestamp),
    targets: (said.targetRefs ?? [said.targetRef!]).map(({ name, sectionName: section }) => ({
      gateway: name,
      listener: section,
    })),
    ...said.tls.clientValidation,
    file,
    line: document.problemAt(['metadata', 'name'], '').line,
  };
  return { value: deepFreeze(value) };
}
