// Envoy Gateway's ClientTrafficPolicy, of which only `tls.clientValidation` is read: which client certificates a
// Gateway requests, and the CRLs that they are checked against. Every other field is a problem: a policy must not be
// accepted in part.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../../cert-agent/base/live.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import type { ClientPolicy } from '../../routing/documents.ts';
import { metadata, notEvaluated, objectRef, type PolicyTarget, targetsIn } from '../../schema/gateway-patterns.ts';
import { refused, targetOf } from '../../schema/policy-fields.ts';

const target = targetOf(['Gateway'], 'a target must be a Gateway');

const clientValidation = z
  .strictObject({
    optional: z.boolean().default(false),
    // At most 8, as in Envoy Gateway. Absent where the policy only adds CRLs to authorities that the Gateway or another
    // policy names.
    caCertificateRefs: z.array(objectRef).min(1).max(8).optional(),
    crl: z
      .strictObject({
        refs: z.array(objectRef).min(1, 'CRLs need at least one reference').max(8),
        onlyVerifyLeafCertificate: z.boolean().default(false),
      })
      .optional(),
    spkiHashes: notEvaluated('spkiHashes'),
    certificateHashes: notEvaluated('certificateHashes'),
    subjectAltNames: notEvaluated('subjectAltNames'),
  })
  .superRefine((value, context) => {
    if (value.crl === undefined && value.caCertificateRefs === undefined)
      context.addIssue({ code: 'custom', message: "needs 'caCertificateRefs', 'crl' or both" });
    if (value.optional && value.caCertificateRefs === undefined)
      context.addIssue({
        ...{ code: 'custom', path: ['optional'] },
        message: "has no effect without 'caCertificateRefs': a Gateway's tls.frontend has a 'mode' of its own",
      });
  });

const others = [
  ...['tcpKeepalive', 'enableProxyProtocol', 'proxyProtocol', 'clientIPDetection', 'path', 'headers', 'timeout'],
  ...['connection', 'http1', 'http2', 'http3', 'healthCheck', 'scheme', 'requestID'],
];

const spec = z
  .strictObject({
    targetRef: target.optional(),
    targetRefs: z.array(target).min(1).max(16, 'a policy has at most 16 targets').optional(),
    targetSelectors: refused("targets must be named: write 'targetRefs'"),
    tls: z.strictObject({
      clientValidation,
      ...Object.fromEntries(
        ['minVersion', 'maxVersion', 'ciphers', 'ecdhCurves', 'signatureAlgorithms', 'alpnProtocols', 'session'].map(
          (name) => [name, notEvaluated(name)],
        ),
      ),
    }),
    ...Object.fromEntries(others.map((name) => [name, notEvaluated(name)])),
  })
  .superRefine(({ targetRef, targetRefs }, context) => {
    if ((targetRef === undefined) === (targetRefs === undefined))
      context.addIssue({ code: 'custom', message: "needs 'targetRefs', or the one 'targetRef'" });
  });

/** The document as written. */
export const clientTrafficPolicy = z.strictObject({
  apiVersion: z.literal('gateway.envoyproxy.io/v1alpha1'),
  kind: z.literal('ClientTrafficPolicy'),
  metadata,
  spec,
  status: z.unknown().optional(),
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
  const { optional, caCertificateRefs, crl } = said.tls.clientValidation;
  const value: ClientPolicy = {
    name: of.name,
    namespace: of.namespace ?? 'default',
    createdAt: of.creationTimestamp == null ? undefined : Date.parse(of.creationTimestamp),
    targets: (said.targetRefs ?? [said.targetRef!]).map(({ name, sectionName: section }) => ({
      gateway: name,
      listener: section,
    })),
    ...{ optional, caCertificateRefs, file, line: document.problemAt(['metadata', 'name'], '').line },
    crl: crl === undefined ? undefined : { refs: crl.refs, onlyLeaf: crl.onlyVerifyLeafCertificate },
  };
  return { value: deepFreeze(value) };
}
