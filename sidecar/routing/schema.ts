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
    .array(
      objectRef.omit({ kind: true }).extend({ kind: kind.describe('The kind of the object: ConfigMap or Secret.') }),
    )
    .min(1)
    // 8 before v1.6.
    .max(16)
    .describe('The CAs of clients: ConfigMaps or Secrets with `ca.crt`.'),
  mode: z
    .enum(['AllowValidOnly', 'AllowInsecureFallback'])
    .default('AllowValidOnly')
    .describe('AllowInsecureFallback admits clients without a valid certificate, too, and gives them no identity.'),
});

/** `tls.clientValidation` of a ClientTrafficPolicy. */
export const clientDemands = z
  .strictObject({
    /** A client may show no certificate; one that it shows must be valid. */
    optional: z.boolean().default(false).describe('A client may show no certificate. One that it shows must be valid.'),
    // At most 8, as in Envoy Gateway. Absent where the policy only adds CRLs to authorities that the Gateway or another
    // policy names.
    caCertificateRefs: z
      .array(objectRef)
      .min(1)
      .max(8)
      .optional()
      .describe('The CAs of clients: ConfigMaps or Secrets with `ca.crt`.'),
    crl: z
      .strictObject({
        refs: z
          .array(objectRef)
          .min(1, 'CRLs need at least one reference')
          .max(8)
          .describe('ConfigMaps or Secrets with `ca.crl`.'),
        onlyVerifyLeafCertificate: z
          .boolean()
          .default(false)
          .describe("Looks for the client's own certificate only, and not for those of its CAs."),
      })
      .transform(({ refs, onlyVerifyLeafCertificate: onlyLeaf }) => ({ refs, onlyLeaf }))
      .optional()
      .describe('Lists of revoked certificates.'),
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
  matchLabels: labels.optional().describe('Labels that must all be there with these values.'),
  matchExpressions: z
    .array(
      z
        .strictObject({
          key: z.string().min(1).describe('The name of the label.'),
          operator: z
            .enum(['In', 'NotIn', 'Exists', 'DoesNotExist'])
            .describe('In and NotIn compare with `values`; Exists and DoesNotExist look for the label.'),
          values: z.array(z.string()).optional().describe('The values of In and NotIn.'),
        })
        .refine(
          ({ operator, values = [] }) => /In$/.test(operator) === values.length > 0,
          "In and NotIn need 'values', Exists and DoesNotExist must have none",
        ),
    )
    .optional()
    .describe('Conditions on labels that must all hold.'),
});

/**
 * `spec.listeners[]` of a Gateway. Without `hostname`: every host. Without `allowedRoutes`: routes of the Gateway's own
 * namespace, of the kinds that suit the protocol.
 */
export const listener = z
  .strictObject({
    name: sectionName.describe('The name of the listener, by which routes and policies refer to it.'),
    hostname: hostname(true)
      .optional()
      .describe('The hosts of the listener; the first label may be a star. Without it: every host.'),
    port: port.describe('The port of the listener.'),
    protocol: z
      .string()
      .max(255)
      .regex(
        /^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$|^[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\/[A-Za-z0-9]+$/,
        'not a valid protocol',
      )
      .describe('HTTP, HTTPS, TLS or TCP. A listener with another protocol is not served.'),
    tls: z
      .strictObject({
        mode: z
          .enum(['Terminate', 'Passthrough'])
          .default('Terminate')
          .describe('Terminate: TLS ends at the gateway. Passthrough: a TLSRoute passes it on by its server name.'),
        certificateRefs: z
          .array(objectRef)
          .max(64)
          .optional()
          .describe('Secrets with `tls.crt` and `tls.key`, of which one is chosen by the server name.'),
        // The place of GEP-91 in the experimental channel before v1.4; since then it is `tls.frontend` of the Gateway.
        frontendValidation: clientValidation
          .optional()
          .describe('The former place of `tls.frontend` of the Gateway: which client certificates are accepted.'),
        options: z
          .record(z.string(), z.string())
          .optional()
          .describe(
            'Options by their names, such as `sallyport.dev/tls-min-version`. An unknown one closes the listener.',
          ),
      })
      .refine(
        // The standard's own rule: options may say where a certificate comes from.
        ({ mode, certificateRefs = [], options = {} }) =>
          mode !== 'Terminate' || certificateRefs.length + Object.keys(options).length > 0,
        "terminating TLS needs 'certificateRefs'",
      )
      .optional()
      .describe('How TLS is ended here or passed through.'),
    allowedRoutes: z
      .strictObject({
        namespaces: z
          .strictObject({
            // The standard's default.
            from: z
              .enum(['All', 'Selector', 'Same', 'None'])
              .default('Same')
              .describe("Same: the Gateway's own. Selector: those with the labels of `selector`."),
            selector: labelSelector.optional().describe('Labels of namespaces, with `from: Selector`.'),
          })
          .optional()
          .describe('The namespaces of the routes.'),
        kinds: z
          .array(
            z.strictObject({
              group: group.default('gateway.networking.k8s.io').describe('The API group of the routes.'),
              kind: kind.describe('The kind of the routes.'),
            }),
          )
          .max(8)
          .optional()
          .describe('Kinds of routes. Without it: all that suit the protocol.'),
      })
      .optional()
      .describe("Which routes may attach. Without it: those of the Gateway's namespace that suit the protocol."),
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
    gatewayClassName: objectName.describe(
      'The name of the GatewayClass. It may be any: every Gateway of the files is served.',
    ),
    listeners: z
      .array(listener)
      .min(1, 'a gateway has at least one listener')
      .max(64)
      .describe('Ports, and what is served there.'),
    addresses: z
      .array(
        z
          .strictObject({
            type: z
              .string()
              .max(253)
              .default('IPAddress')
              .describe('The type of the address. Only IPAddress is served.'),
            value: z.string().max(253).optional().describe('The address.'),
          })
          .refine(
            ({ type, value }) => type !== 'IPAddress' || value === undefined || isIP(value) !== 0,
            'an address of type IPAddress is an IPv4 or IPv6 address',
          ),
      )
      .max(16)
      .optional()
      .describe('The address to listen on. Without it: all of the machine. More than one is not served.'),
    infrastructure: z
      .strictObject({
        labels: labels.optional().describe('Labels. They have no effect: a gateway runs where it was started.'),
        annotations: labels
          .optional()
          .describe('Annotations. They have no effect: a gateway runs where it was started.'),
        parametersRef: localRef
          .optional()
          .describe('Parameters. None are supported: a Gateway with this field is not served.'),
      })
      .optional()
      .describe('About machines that a cluster would make.'),
    tls: z
      .strictObject({
        // Read as anything, so that the Gateway has a condition that says why it is not served: an unknown key would
        // refuse the whole document. The same for `backendTLS`, its former name, and `parametersRef`.
        /** The certificate to present to backends: not supported. */
        backend: z
          .unknown()
          .optional()
          .describe('A certificate to show to backends. A Gateway with this field is not served.'),
        frontend: z
          .strictObject({
            default: z
              .strictObject({
                validation: clientValidation
                  .optional()
                  .describe('The CAs of clients. Without it no certificate is asked for.'),
              })
              .optional()
              .describe('For all ports that `perPort` does not name.'),
            perPort: z
              .array(
                z.strictObject({
                  port: port.describe('The port of the listeners.'),
                  tls: z
                    .strictObject({
                      validation: clientValidation
                        .optional()
                        .describe('The CAs of clients. Without it no certificate is asked for.'),
                    })
                    .describe('What counts for that port.'),
                }),
              )
              .max(64)
              .optional()
              .describe('For single ports.'),
          })
          .optional()
          .describe('Which client certificates are accepted.'),
      })
      .optional()
      .describe('TLS of all listeners.'),
    /** The former name of `tls.backend`. */
    backendTLS: z
      .unknown()
      .optional()
      .describe('The former name of `tls.backend`. A Gateway with this field is not served.'),
    // GEP-1713 and GEP-3793: both only let others attach (ListenerSets, and routes that name no parent), and neither
    // is read here. So they restrict nothing.
    allowedListeners: z
      .unknown()
      .optional()
      .describe('Which ListenerSets may attach. It has no effect: none are read.'),
    defaultScope: z
      .string()
      .optional()
      .describe('Which routes without a parent are attached. It has no effect: none are.'),
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
    .max(253)
    .describe('Who serves the class: `domain/path`. It may be any: there is no other controller here.'),
  parametersRef: z
    .strictObject({
      group: group.describe('The API group of the object.'),
      kind: kind.describe('The kind of the object.'),
      name: objectName.describe('The name of the object.'),
      namespace: namespace.optional().describe('The namespace of the object.'),
    })
    .optional()
    .describe('Parameters of the class. None are supported: a class with this field is not accepted.'),
  description: z.string().max(64).optional().describe('What the class is for, in words.'),
});

// v1 since v1.5, with the fields of v1beta1.
/**
 * The `spec` of a ReferenceGrant. Each of `from` may refer to each of `to` in the grant's own namespace; without `name`,
 * to all of that kind.
 */
export const referenceGrant = z.strictObject({
  from: z
    .array(
      z.strictObject({
        group: group.describe('The API group of the referring object.'),
        kind: kind.describe('The kind of the referring object.'),
        namespace: namespace.describe('The namespace of the referring object.'),
      }),
    )
    .min(1)
    .max(16)
    .describe('Who may refer to objects of this namespace.'),
  to: z
    .array(
      z.strictObject({
        group: group.describe('The API group of the object; empty for the core.'),
        kind: kind.describe('The kind of the object.'),
        name: objectName.optional().describe('The name of the object. Without it: all of the kind.'),
      }),
    )
    .min(1)
    .max(16)
    .describe('What may be referred to.'),
});

// GEP-1897, in the standard channel since v1.4. v1.4.1 allows one target; several are read as v1.4.0 has them, and of
// two policies for one port the older applies (routing/backend-tls.ts).
/**
 * The `spec` of a BackendTLSPolicy: how to verify the backend. `hostname` is sent as SNI, and is the name to verify
 * unless there are `subjectAltNames`, of which one must be in the certificate.
 */
export const backendTlsPolicy = z.strictObject({
  targetRefs: z
    .array(
      z.strictObject({
        group: group.describe('The API group of the target; empty for a Service.'),
        kind: kind.describe('The kind of the target.'),
        name: objectName.describe('The name of the Service, in the namespace of the policy.'),
        sectionName: sectionName.optional().describe('The name of a port of the Service. Without it: all ports.'),
      }),
    )
    .min(1)
    .max(16)
    .describe('The Services that are called with TLS.'),
  validation: z
    .strictObject({
      caCertificateRefs: z
        .array(localRef)
        .max(8)
        .optional()
        .describe('ConfigMaps or Secrets with the CA certificates, as `ca.crt`.'),
      // Since v1.5 implementations may name sets of their own: we have none.
      wellKnownCACertificates: z.literal('System').optional().describe('System: the CAs that the machine trusts.'),
      hostname: hostname(false).describe(
        'The server name that is sent, and that the certificate must have unless there are `subjectAltNames`.',
      ),
      subjectAltNames: z
        .array(
          z
            .strictObject({
              type: z.enum(['Hostname', 'URI']).describe('Whether the name is a host or a URI.'),
              hostname: hostname(true).optional().describe('The host, with type Hostname.'),
              uri: z.string().max(253).optional().describe('The URI, such as a SPIFFE ID, with type URI.'),
            })
            .refine(
              ({ type, hostname: host, uri }) =>
                type === 'URI' ? uri !== undefined && host === undefined : host !== undefined && uri === undefined,
              'needs the field of its type and no other',
            ),
        )
        .max(5)
        .optional()
        .describe('Names of which the certificate must have one, in place of `hostname`.'),
    })
    .refine(
      ({ caCertificateRefs = [], wellKnownCACertificates }) =>
        caCertificateRefs.length > 0 !== (wellKnownCACertificates !== undefined),
      "needs exactly one of 'caCertificateRefs' and 'wellKnownCACertificates'",
    )
    .describe("How the backend's certificate is verified."),
  // The standard leaves keys to implementations. An unknown one may be meant to restrict, so it is refused.
  options: z
    .record(z.string(), z.string())
    .superRefine((options, context) => {
      for (const [key, value] of Object.entries(options)) {
        const why = key === minVersionKey ? readMinVersion(value) : `it is not known here: ${minVersionKey} is`;
        if (typeof why === 'string') context.addIssue({ code: 'custom', path: [key], message: why });
      }
    })
    .optional()
    .describe('Options by their names: `sallyport.dev/tls-min-version` is 1.2 or 1.3. Others are refused.'),
});

/** The methods of a match (Gateway API, HTTPMethod). */
export const routeMethods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH'] as const;

const matchType = z.enum(['Exact', 'RegularExpression']).default('Exact');

// The standard's validation of exact paths and prefixes, with its default: every path. Regular expressions are checked
// by routing/unsupported.ts, which refuses the rule and not the document.
const path = z
  .strictObject({
    type: z
      .enum(['Exact', 'PathPrefix', 'RegularExpression'])
      .default('PathPrefix')
      .describe('How the path is compared. PathPrefix compares whole segments; RegularExpression is RE2.'),
    value: z.string().max(1024).default('/').describe('The path, without a query.'),
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
  .array(
    z.strictObject({
      type: matchType.describe('How the value is compared. A RegularExpression (RE2) matches the whole value.'),
      name: headerName.describe('The name of the header, without regard to case.'),
      value: z.string().min(1).max(4096).describe('The value, or the expression.'),
    }),
  )
  .max(16)
  .superRefine(named)
  .optional()
  .describe('Headers that must all match.');

/** One entry of `matches` of an HTTPRoute: all its parts must hold. Without `path` it matches every path. */
export const httpMatch = z.strictObject({
  path: path.optional().describe('The path. Without it: every path.'),
  headers: headerMatches,
  queryParams: z
    .array(
      z.strictObject({
        type: matchType.describe('How the value is compared. A RegularExpression (RE2) matches the whole value.'),
        name: headerName.describe('The name of the parameter.'),
        value: z.string().min(1).max(1024).describe('The value, or the expression.'),
      }),
    )
    .max(16)
    .optional()
    .describe('Query parameters that must all match.'),
  method: z.enum(routeMethods).optional().describe('The method. Without it: any.'),
});

// GEP-1742. `request: 0s` is no limit, so any `backendRequest` is within it.
/** Durations as written (GEP-2257); `0s` disables a timeout. */
export const timeouts = z
  .strictObject({
    request: duration
      .optional()
      .describe('How long a request may take with all its tries, to the end of the response. 0s: no limit.'),
    backendRequest: duration
      .optional()
      .describe('How long one try may take, to the end of the response. 0s: no limit.'),
  })
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
  codes: z
    .array(z.number().int().min(400).max(599))
    .optional()
    .describe('Statuses of responses that are retried, for any method.'),
  attempts: z.number().int().optional().describe('The most retries; 1 by default.'),
  backoff: duration
    .optional()
    .describe(
      'The wait before the first retry; 25ms by default. It doubles with each, and a random part of it is waited.',
    ),
});

const grpcMethod = z
  .strictObject({
    type: matchType.describe('How the names are compared. A RegularExpression (RE2) matches the whole name.'),
    service: z.string().max(1024).optional().describe('The full name of the service. Without it: any.'),
    method: z.string().max(1024).optional().describe('The name of the method. Without it: all of the service.'),
  })
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
export const grpcMatch = z.strictObject({
  method: grpcMethod.optional().describe('The service and its method. Without it: every call.'),
  headers: headerMatches,
});
