// Gateway API as written, by the standard's own validation: its kinds, and the matches of routes. The rest of a route
// is beside the filters that capabilities serve (documents/gateway-api/routes.ts).

import { isIP } from 'node:net';
import { z } from 'zod';
import {
  duration,
  group,
  headerName,
  hostname,
  kind,
  localRef,
  millisecondsOf,
  named,
  namespace,
  notEvaluated,
  objectName,
  objectRef,
  port,
  sectionName,
} from '../schema/gateway-patterns.ts';
import { minVersionKey, readMinVersion } from './tls-options.ts';

const labels = z.record(z.string(), z.string());

// GEP-91, in the standard channel since v1.5. The default of `mode` is the standard's.
/** Which client certificates a listener accepts. */
export const clientValidation = z.strictObject({
  caCertificateRefs: z
    .array(objectRef.omit({ kind: true }).extend({ kind }))
    .min(1)
    // 8 before v1.6.
    .max(16),
  mode: z.enum(['AllowValidOnly', 'AllowInsecureFallback']).default('AllowValidOnly'),
});

/** `tls.clientValidation` of a ClientTrafficPolicy. */
export const clientDemands = z
  .strictObject({
    /** A client may show no certificate; one that it shows must be valid. */
    optional: z.boolean().default(false),
    // At most 8, as in Envoy Gateway. Absent where the policy only adds CRLs to authorities that the Gateway or another
    // policy names.
    caCertificateRefs: z.array(objectRef).min(1).max(8).optional(),
    crl: z
      .strictObject({
        refs: z.array(objectRef).min(1, 'CRLs need at least one reference').max(8),
        onlyVerifyLeafCertificate: z.boolean().default(false),
      })
      .transform(({ refs, onlyVerifyLeafCertificate: onlyLeaf }) => ({ refs, onlyLeaf }))
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

/** A Kubernetes label selector: all requirements must hold, and an empty one selects everything (see `selects`). */
export const labelSelector = z.strictObject({
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

/**
 * `spec.listeners[]` of a Gateway. Without `hostname`: every host. Without `allowedRoutes`: routes of the Gateway's own
 * namespace, of the kinds that suit the protocol.
 */
export const listener = z
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

/** The `spec` of a Gateway. Fields that are not supported are kept so that the Gateway can be refused for them. */
export const gateway = z
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
        /** The certificate to present to backends: not supported. */
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
    /** The former name of `tls.backend`. */
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
/** The `spec` of a GatewayClass. It is ours if `controllerName` is that of names.ts. */
export const gatewayClass = z.strictObject({
  controllerName: z
    .string()
    .regex(/^[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$/, 'a controller is named domain/path')
    .max(253),
  parametersRef: z.strictObject({ group, kind, name: objectName, namespace: namespace.optional() }).optional(),
  description: z.string().max(64).optional(),
});

// v1 since v1.5, with the fields of v1beta1.
/**
 * The `spec` of a ReferenceGrant. Each of `from` may refer to each of `to` in the grant's own namespace; without `name`,
 * to all of that kind.
 */
export const referenceGrant = z.strictObject({
  from: z.array(z.strictObject({ group, kind, namespace })).min(1).max(16),
  to: z
    .array(z.strictObject({ group, kind, name: objectName.optional() }))
    .min(1)
    .max(16),
});

// GEP-1897, in the standard channel since v1.4. v1.4.1 allows one target; several are read as v1.4.0 has them, and of
// two policies for one port the older applies (routing/backend-tls.ts).
/**
 * The `spec` of a BackendTLSPolicy: how to verify the backend. `hostname` is sent as SNI, and is the name to verify
 * unless there are `subjectAltNames`, of which one must be in the certificate.
 */
export const backendTlsPolicy = z.strictObject({
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

/** The methods of a match (Gateway API, HTTPMethod). */
export const routeMethods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH'] as const;

const matchType = z.enum(['Exact', 'RegularExpression']).default('Exact');

// The standard's validation of exact paths and prefixes, with its default: every path. Regular expressions are checked
// by routing/unsupported.ts, which refuses the rule and not the document.
const path = z
  .strictObject({
    type: z.enum(['Exact', 'PathPrefix', 'RegularExpression']).default('PathPrefix'),
    value: z.string().max(1024).default('/'),
  })
  .superRefine(({ type, value }, context) => {
    if (type === 'RegularExpression') return;
    const wrong = !value.startsWith('/')
      ? "must begin with '/'"
      : /\/\/|\/\.\/|\/\.\.\/|%2f|#|\/\.\.?$/i.test(value)
        ? "must not contain '//', '/./', '/../', '%2f' or '#', nor end in '/.' or '/..'"
        : /^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$/.test(value)
          ? undefined
          : 'contains characters that no path may contain';
    if (wrong !== undefined)
      context.addIssue({ code: 'custom', path: ['value'], message: `'${value}': a path ${wrong}` });
  });

// A regular expression (RE2 syntax) matches the whole value.
const headerMatches = z
  .array(z.strictObject({ type: matchType, name: headerName, value: z.string().min(1).max(4096) }))
  .max(16)
  .superRefine(named)
  .optional();

/** One entry of `matches` of an HTTPRoute: all its parts must hold. Without `path` it matches every path. */
export const httpMatch = z.strictObject({
  path: path.optional(),
  headers: headerMatches,
  queryParams: z
    .array(z.strictObject({ type: matchType, name: headerName, value: z.string().min(1).max(1024) }))
    .max(16)
    .optional(),
  method: z.enum(routeMethods).optional(),
});

// GEP-1742. `request: 0s` is no limit, so any `backendRequest` is within it.
/** Durations as written (GEP-2257); `0s` disables a timeout. */
export const timeouts = z
  .strictObject({ request: duration.optional(), backendRequest: duration.optional() })
  .refine(
    ({ request, backendRequest }) =>
      request === undefined ||
      backendRequest === undefined ||
      millisecondsOf(request) === 0 ||
      millisecondsOf(backendRequest) <= millisecondsOf(request),
    "'backendRequest' is longer than 'request'",
  );

// GEP-1731, experimental. v1.6 requires codes that differ and at least one attempt; documents of earlier versions are
// read as they are.
/** The `retry` of a rule. */
export const retry = z.strictObject({
  codes: z.array(z.number().int().min(400).max(599)).optional(),
  attempts: z.number().int().optional(),
  backoff: duration.optional(),
});

const grpcMethod = z
  .strictObject({ type: matchType, service: z.string().max(1024).optional(), method: z.string().max(1024).optional() })
  .superRefine(({ type, service, method }, context) => {
    if (service === undefined && method === undefined)
      context.addIssue({ code: 'custom', message: "a method match names a 'service' or a 'method'" });
    if (type !== 'Exact') return;
    if (service !== undefined && !/^[A-Za-z0-9_.-]+$/.test(service))
      context.addIssue({ code: 'custom', path: ['service'], message: `'${service}' is not a service` });
    if (method !== undefined && !/^[A-Za-z0-9_]+$/.test(method))
      context.addIssue({ code: 'custom', path: ['method'], message: `'${method}' is not a method` });
  });

/** A match of a GRPCRoute. Without `service`: any; without `method`: all of the service. */
export const grpcMatch = z.strictObject({ method: grpcMethod.optional(), headers: headerMatches });
