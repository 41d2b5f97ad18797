// The schema of PeerAuthentication.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import type { PeerAuthentication } from '../../policy/mtls.ts';
import { apiVersion, attachment, enforcedMetadata, selector } from './patterns.ts';

// UNSET, Istio's default, inherits from the wider scope. What counts if no document sets a mode is `defaultMtls` of
// sidecar.yaml: STRICT, where Istio is PERMISSIVE (policy/mtls.ts).
const mtlsModes = ['UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT'] as const;

const spec = z
  .strictObject({
    selector: selector.describe(
      'The workloads that the document is for. Without it: all of the namespace, or of the mesh in the root namespace.',
    ),
    mtls: z
      .strictObject({
        mode: z
          .enum(mtlsModes)
          .default('UNSET')
          .describe(
            'STRICT: mutual TLS only. PERMISSIVE: plaintext, too. DISABLE: plaintext only. UNSET: as the wider scope says.',
          ),
      })
      .optional()
      .describe("What the workload's ports accept."),
    portLevelMtls: z
      .record(
        z.string(),
        z.strictObject({
          mode: z
            .enum(mtlsModes)
            .default('UNSET')
            .describe(
              'STRICT: mutual TLS only. PERMISSIVE: plaintext, too. DISABLE: plaintext only. UNSET: as the workload.',
            ),
        }),
      )
      .superRefine((ports, context) => {
        if (Object.keys(ports).length === 0)
          context.addIssue({ code: 'custom', message: "'portLevelMtls' is empty: omit it" });
        for (const key of Object.keys(ports)) {
          if (/^[1-9]\d{0,4}$/.test(key) && Number(key) <= 65_535) continue;
          context.addIssue({ code: 'custom', path: [key], message: 'a port must be a number from 1 to 65535' });
        }
      })
      .optional()
      .describe("What single ports accept, by the number of the app's port. It needs a selector."),
  })
  .superRefine((value, context) => {
    // Istio's rule.
    if (value.portLevelMtls !== undefined && Object.keys(value.selector?.matchLabels ?? {}).length === 0)
      context.addIssue({
        code: 'custom',
        path: ['portLevelMtls'],
        message: "'portLevelMtls' needs a selector: ports belong to a workload",
      });
  });

/** The schema of the document. */
export const peerAuthentication = z.strictObject({
  apiVersion,
  kind: z.literal('PeerAuthentication').describe('The kind of the document.'),
  metadata: enforcedMetadata,
  spec: spec
    .default({})
    .describe('Whether plaintext is accepted. Where no document sets a mode, `defaultMtls` of sidecar.yaml does.'),
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
});

/** The document's value, frozen, or all problems. */
export function readPeerAuthentication(
  document: YamlDocument,
  file: string,
): { value: PeerAuthentication } | { problems: Problem[] } {
  const read = readDocument(peerAuthentication, document);
  if ('problems' in read) return read;
  const { metadata: meta, spec: parsed } = read.value;
  const ports = Object.entries(parsed.portLevelMtls ?? {}).map(([number, { mode }]) => [Number(number), mode] as const);
  const mode = parsed.mtls?.mode ?? 'UNSET';
  const value: PeerAuthentication = {
    name: meta.name,
    namespace: meta.namespace,
    createdAt: meta.creationTimestamp == null ? 0 : Date.parse(meta.creationTimestamp),
    ...attachment(parsed),
    ...(mode === 'UNSET' ? {} : { mode }),
    portLevel: new Map(ports),
    file,
    line: document.problemAt(['metadata', 'name'], '').line,
  };
  return { value: Object.freeze(value) };
}
