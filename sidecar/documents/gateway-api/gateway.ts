// Gateway API documents, by the standard's own validation (v1, and v1beta1 and v1alpha of the same kinds): for `check`,
// and for a gateway, which serves the valid ones. A sidecar refuses them.

import { isIP } from 'node:net';
import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { minVersionKey, readMinVersion } from '../../routing/tls-options.ts';
import {
  group,
  hostname,
  kind,
  localRef,
  metadata,
  namespace,
  objectName,
  objectRef,
  port,
  sectionName,
} from '../../schema/gateway-patterns.ts';
import { hintFor } from './kinds.ts';
import { grpcRoute, httpRoute, tcpRoute, tlsRoute } from './routes.ts';

const labels = z.record(z.string(), z.string());

// GEP-91, in the standard channel since v1.5. The default of `mode` is the standard's.
const clientValidation = z.strictObject({
  caCertificateRefs: z
    .array(objectRef.omit({ kind: true }).extend({ kind }))
    .min(1)
    .max(8),
  mode: z.enum(['AllowValidOnly', 'AllowInsecureFallback']).default('AllowValidOnly'),
});

const labelSelector = z.strictObject({
  matchLabels: labels.optional(),
  matchExpressions: z
    .array(
      z
        .strictObject({
          key: z.string().min(1),
          operator: z.enum(['In', 'NotIn', 'Exists', 'DoesNotExist']),
          values: z.array(z.string()).optional(),
        })
        .refine(
          ({ operator, values = [] }) => /In$/.test(operator) === values.length > 0,
          "In and NotIn need 'values', Exists and DoesNotExist must have none",
        ),
    )
    .optional(),
});

const listener = z
  .strictObject({
    name: sectionName,
    hostname: hostname(true).optional(),
    port,
    protocol: z
      .string()
      .max(255)
      .regex(
        /^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$|^[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\/[A-Za-z0-9]+$/,
        'not a valid protocol',
      ),
    tls: z
      .strictObject({
        mode: z.enum(['Terminate', 'Passthrough']).default('Terminate'),
        certificateRefs: z.array(objectRef).max(64).optional(),
        // The place of GEP-91 in the experimental channel before v1.4; since then it is `tls.frontend` of the Gateway.
        frontendValidation: clientValidation.optional(),
        options: z.record(z.string(), z.string()).optional(),
      })
      .refine(
        // The standard's own rule: options may say where a certificate comes from.
        ({ mode, certificateRefs = [], options = {} }) =>
          mode !== 'Terminate' || certificateRefs.length + Object.keys(options).length > 0,
        "terminating TLS needs 'certificateRefs'",
      )
      .optional(),
    allowedRoutes: z
      .strictObject({
        namespaces: z
          .strictObject({
            // The standard's default.
            from: z.enum(['All', 'Selector', 'Same', 'None']).default('Same'),
            selector: labelSelector.optional(),
          })
          .optional(),
        kinds: z
          .array(z.strictObject({ group: group.default('gateway.networking.k8s.io'), kind }))
          .max(8)
          .optional(),
      })
      .optional(),
  })
  .superRefine((one, context) => {
    if (['HTTP', 'TCP', 'UDP'].includes(one.protocol) && one.tls !== undefined)
      context.addIssue({ code: 'custom', path: ['tls'], message: `protocol ${one.protocol} has no 'tls'` });
    if (one.protocol === 'HTTPS' && one.tls !== undefined && one.tls.mode !== 'Terminate')
      context.addIssue({
        code: 'custom',
        path: ['tls', 'mode'],
        message: 'HTTPS terminates TLS: to pass it through, use protocol TLS',
      });
    if (['TCP', 'UDP'].includes(one.protocol) && one.hostname !== undefined)
      context.addIssue({ code: 'custom', path: ['hostname'], message: `protocol ${one.protocol} has no host names` });
  });

const gateway = z
  .strictObject({
    gatewayClassName: objectName,
    listeners: z.array(listener).min(1, 'a gateway has at least one listener').max(64),
    addresses: z
      .array(
        z
          .strictObject({ type: z.string().max(253).default('IPAddress'), value: z.string().max(253).optional() })
          .refine(
            ({ type, value }) => type !== 'IPAddress' || value === undefined || isIP(value) !== 0,
            'an address of type IPAddress is an IPv4 or IPv6 address',
          ),
      )
      .max(16)
      .optional(),
    infrastructure: z
      .strictObject({ labels: labels.optional(), annotations: labels.optional(), parametersRef: localRef.optional() })
      .optional(),
    tls: z
      .strictObject({
        // Read as anything, so that the Gateway has a condition that says why it is not served: an unknown key would
        // refuse the whole document. The same for `backendTLS`, its former name, and `parametersRef`.
        backend: z.unknown().optional(),
        frontend: z
          .strictObject({
            default: z.strictObject({ validation: clientValidation.optional() }).optional(),
            perPort: z
              .array(z.strictObject({ port, tls: z.strictObject({ validation: clientValidation.optional() }) }))
              .max(64)
              .optional(),
          })
          .optional(),
      })
      .optional(),
    backendTLS: z.unknown().optional(),
    // GEP-1713 and GEP-3793: both only let others attach (ListenerSets, and routes that name no parent), and neither
    // is read here. So they restrict nothing.
    allowedListeners: z.unknown().optional(),
    defaultScope: z.string().optional(),
  })
  .superRefine(({ listeners }, context) => {
    const names = new Set<string>();
    const places = new Set<string>();
    for (const [index, { name, port: number, protocol, hostname: host = '' }] of listeners.entries()) {
      if (names.has(name))
        context.addIssue({
          code: 'custom',
          path: ['listeners', index, 'name'],
          message: `two listeners are named '${name}'`,
        });
      const place = `${number} ${protocol} ${host}`;
      if (places.has(place))
        context.addIssue({
          code: 'custom',
          path: ['listeners', index],
          message: 'another listener has the same port, protocol and host name',
        });
      names.add(name);
      places.add(place);
    }
  });

// `parametersRef` is read for the class's condition: parameters are not supported (routing/status.ts).
const gatewayClass = z.strictObject({
  controllerName: z
    .string()
    .regex(/^[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$/, 'a controller is named domain/path')
    .max(253),
  parametersRef: z.strictObject({ group, kind, name: objectName, namespace: namespace.optional() }).optional(),
  description: z.string().max(64).optional(),
});

// v1 since v1.5, with the fields of v1beta1.
const referenceGrant = z.strictObject({
  from: z.array(z.strictObject({ group, kind, namespace })).min(1).max(16),
  to: z
    .array(z.strictObject({ group, kind, name: objectName.optional() }))
    .min(1)
    .max(16),
});

// GEP-1897, in the standard channel since v1.4. v1.4.1 allows one target; several are read as v1.4.0 has them, and of
// two policies for one port the older applies (routing/backend-tls.ts).
const backendTlsPolicy = z.strictObject({
  targetRefs: z
    .array(z.strictObject({ group, kind, name: objectName, sectionName: sectionName.optional() }))
    .min(1)
    .max(16),
  validation: z
    .strictObject({
      caCertificateRefs: z.array(localRef).max(8).optional(),
      // Since v1.5 implementations may name sets of their own: we have none.
      wellKnownCACertificates: z.literal('System').optional(),
      hostname: hostname(false),
      subjectAltNames: z
        .array(
          z
            .strictObject({
              type: z.enum(['Hostname', 'URI']),
              hostname: hostname(true).optional(),
              uri: z.string().max(253).optional(),
            })
            .refine(
              ({ type, hostname: host, uri }) =>
                type === 'URI' ? uri !== undefined && host === undefined : host !== undefined && uri === undefined,
              'needs the field of its type and no other',
            ),
        )
        .max(5)
        .optional(),
    })
    .refine(
      ({ caCertificateRefs = [], wellKnownCACertificates }) =>
        caCertificateRefs.length > 0 !== (wellKnownCACertificates !== undefined),
      "needs exactly one of 'caCertificateRefs' and 'wellKnownCACertificates'",
    ),
  // The standard leaves keys to implementations. An unknown one may be meant to restrict, so it is refused.
  options: z
    .record(z.string(), z.string())
    .superRefine((options, context) => {
      for (const [key, value] of Object.entries(options)) {
        const why = key === minVersionKey ? readMinVersion(value) : `it is not known here: ${minVersionKey} is`;
        if (typeof why === 'string') context.addIssue({ code: 'custom', path: [key], message: why });
      }
    })
    .optional(),
});

/** The `spec` of each kind. */
export const gatewayKinds = {
  Gateway: gateway,
  GatewayClass: gatewayClass,
  HTTPRoute: httpRoute,
  GRPCRoute: grpcRoute,
  TLSRoute: tlsRoute,
  TCPRoute: tcpRoute,
  ReferenceGrant: referenceGrant,
  BackendTLSPolicy: backendTlsPolicy,
} as const;

/** True for a document of Gateway API. */
export function isGatewayApi({ value }: YamlDocument): boolean {
  if (typeof value !== 'object' || value === null || !('apiVersion' in value)) return false;
  return typeof value.apiVersion === 'string' && value.apiVersion.startsWith('gateway.networking.k8s.io/');
}

/** Everything that is wrong with such a document. */
export function checkGatewayApi(document: YamlDocument): readonly Problem[] {
  const read = readGatewayApi(document);
  return 'problems' in read ? read.problems : [];
}

/** A document of Gateway API by its kind's schema, with the schema's defaults; or everything that is wrong with it. */
export function readGatewayApi(
  document: YamlDocument,
):
  | { readonly value: { readonly kind: string; readonly metadata: unknown; readonly spec: unknown } }
  | { problems: Problem[] } {
  const { kind: of } = document.value as { readonly kind?: unknown };
  const spec = typeof of === 'string' ? (gatewayKinds as Readonly<Record<string, z.ZodType>>)[of] : undefined;
  if (spec === undefined) {
    const hint = typeof of === 'string' ? hintFor(of) : undefined;
    const message = `kind ${String(of)} is not a kind of Gateway API known here`;
    return { problems: [document.problemAt(['kind'], message, hint === undefined ? {} : { hint })] };
  }
  const schema = z.strictObject({
    // Every version in which one of the kinds was served, for each kind: TLSRoute is v1 since v1.5, TCPRoute since
    // v1.6, and files from before are to work unchanged. The fields are those of v1.
    apiVersion: z.enum(
      ['v1', 'v1beta1', 'v1alpha2', 'v1alpha3'].map((version) => `gateway.networking.k8s.io/${version}`) as [
        string,
        ...string[],
      ],
    ),
    kind: z.string(),
    metadata,
    spec,
    status: z.unknown().optional(),
  });
  return readDocument(schema, document);
}
