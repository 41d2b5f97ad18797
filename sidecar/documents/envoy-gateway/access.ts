// What a SecurityPolicy is attached to, whom else it asks, and who may pass: `targetRefs`, `extAuth`, `cors` and
// `authorization`.

import { z } from 'zod';
import { durationSchema } from '../../../cert-agent/base/yaml.ts';
import type {
  BackendTarget,
  EdgeAuthorizationPolicy,
  ExtAuthPolicy,
  PolicyTarget,
} from '../../edge/security-policy.ts';
import { isIpBlock } from '../../policy/ip.ts';
import { backendObjectRef, objectName, sectionName } from '../../schema/gateway-patterns.ts';
import { filled, lowerHeader, offOnly, refused } from './fields.ts';

export const targetRef = z
  .strictObject({
    group: z.literal('gateway.networking.k8s.io', 'a target is of the group gateway.networking.k8s.io'),
    kind: z.enum(['Gateway', 'HTTPRoute', 'GRPCRoute'], 'a target is a Gateway, an HTTPRoute or a GRPCRoute'),
    name: objectName,
    namespace: refused('a target is in the namespace of its policy: leave it out'),
    sectionName: sectionName.optional(),
  })
  .transform(
    ({ group, kind, name, sectionName: section }): PolicyTarget => ({
      group,
      kind,
      name,
      ...(section === undefined ? {} : { sectionName: section }),
    }),
  );

const noRetries = 'an authorizer is asked once, within its time: leave it out';
const oneBackend = {
  backendRef: backendObjectRef.optional(),
  backendRefs: z.array(backendObjectRef).length(1, 'exactly one backend is asked').optional(),
  backendSettings: refused(noRetries),
};

export const extAuth = z
  .strictObject({
    grpc: z.strictObject(oneBackend).optional(),
    http: z
      .strictObject({
        ...oneBackend,
        path: z.string().startsWith('/', 'a path begins with /').optional(),
        // What it may say of a caller nobody else may, and that has to be known by name.
        headersToBackend: z
          .array(lowerHeader.refine((name) => !name.includes('*'), 'headers are named one by one, without a star'))
          .default([]),
        headersToClientOnSuccess: refused('what an authorizer lets pass it says nothing of to the client'),
      })
      .optional(),
    headersToExtAuth: z.array(lowerHeader).default([]),
    timeout: durationSchema.prefault('10s'),
    failOpen: offOnly('an authorizer that does not answer refuses: there is no failing open'),
    bodyToExtAuth: refused('an authorizer is asked before a body is read: it is told of the head alone'),
    contextExtensions: refused('nothing but the request is told to an authorizer'),
    recomputeRoute: offOnly('a route is chosen once: it is not chosen again by what an authorizer adds'),
    statusOnError: refused('an authorizer that does not answer refuses with 403'),
  })
  .superRefine((value, context) => {
    const forms = (['grpc', 'http'] as const).filter((form) => value[form] !== undefined);
    if (forms.length !== 1)
      return context.addIssue({ code: 'custom', message: "needs exactly one of 'grpc' and 'http'" });
    const { backendRef, backendRefs } = value[forms[0]!]!;
    if ((backendRef === undefined) === (backendRefs === undefined))
      context.addIssue({
        code: 'custom',
        path: [forms[0]!],
        message: "needs exactly one of 'backendRef' and 'backendRefs'",
      });
    if (value.grpc !== undefined && value.headersToExtAuth.length > 0)
      context.addIssue({
        code: 'custom',
        path: ['headersToExtAuth'],
        message: 'a gRPC authorizer is told all headers: leave it out',
      });
  })
  .transform((said): ExtAuthPolicy => {
    const form = (said.http ?? said.grpc)!;
    return {
      kind: said.http === undefined ? 'grpc' : 'http',
      backendRef: plainBackend(form.backendRef ?? form.backendRefs![0]!),
      path: said.http?.path ?? '',
      headersToExtAuth: said.headersToExtAuth,
      headersToBackend: said.http?.headersToBackend ?? [],
      timeoutMs: said.timeout,
    };
  });

function plainBackend({ group, kind, name, namespace, port }: z.output<typeof backendObjectRef>): BackendTarget {
  return {
    group,
    kind,
    name,
    ...(namespace === undefined ? {} : { namespace }),
    ...(port === undefined ? {} : { port }),
  };
}

const action = z.enum(['Allow', 'Deny'], "an action is 'Allow' or 'Deny'");
const values = (what: string) => z.array(filled(what)).min(1, `at least one ${what.replace(/^an? /, '')} is needed`);

const path = filled('a path').superRefine((value, context) => {
  if (!/^(?:\/|\*)/.test(value))
    context.addIssue({ code: 'custom', message: `'${value}' matches no path: a path begins with / or *` });
  if (/[{}?#]/.test(value) || /.\*./.test(value))
    context.addIssue({ code: 'custom', message: `'${value}': a path has one star at most, at an end, and no query` });
});

const spiffeId = filled('a SPIFFE ID').superRefine((value, context) => {
  if (!/^spiffe:\/\/[a-z0-9._-]+\/(?:[A-Za-z0-9._-]+\/)*(?:\*|[A-Za-z0-9._-]+)$/.test(value))
    context.addIssue({
      code: 'custom',
      message: `'${value}' is neither a SPIFFE ID nor the start of one that ends in /*`,
    });
});

const principal = z
  .strictObject({
    clientCIDRs: z
      .array(
        z.string().refine(isIpBlock, { error: ({ input }) => `'${input}' is neither an address nor a CIDR block` }),
      )
      .min(1, 'an empty list matches nobody: leave it out')
      .optional(),
    jwt: z
      .strictObject({
        provider: objectName,
        scopes: values('a scope').max(16).optional(),
        claims: z
          .array(
            z.strictObject({
              name: filled('a claim'),
              valueType: z.enum(['String', 'StringArray']).default('String'),
              values: values('a value'),
            }),
          )
          .min(1)
          .max(16)
          .optional(),
      })
      .refine(({ scopes, claims }) => scopes !== undefined || claims !== undefined, "needs 'scopes' or 'claims'")
      .optional(),
    headers: z
      .array(z.strictObject({ name: lowerHeader, values: values('a value') }))
      .min(1)
      .optional(),
    clientIDs: values('a client').optional(),
    spiffeIDs: z.array(spiffeId).min(1).optional(),
    clientCert: refused("a client that is known by its certificate is matched by 'spiffeIDs'"),
    sourceCIDRs: refused("the address behind trusted proxies is matched by 'clientCIDRs'"),
    clientIPGeoLocations: refused('where an address is in the world is not known here'),
  })
  .superRefine((value, context) => {
    if (Object.values(value).every((one) => one === undefined))
      context.addIssue({
        code: 'custom',
        message: "names nobody: say 'clientCIDRs', 'jwt', 'headers', 'clientIDs' or 'spiffeIDs'",
      });
  });

const rule = z.strictObject({
  name: objectName.optional(),
  action,
  operation: z
    .strictObject({
      methods: z
        .array(z.string().regex(/^[A-Z]+$/, 'a method is written in capitals'))
        .min(1)
        .max(16)
        .optional(),
      paths: z.array(path).min(1).optional(),
    })
    .refine(({ methods, paths }) => methods !== undefined || paths !== undefined, "needs 'methods' or 'paths'")
    .optional(),
  principal,
});

/** `of` is the policy's `namespace/name`, for the names of rules that have none. */
export const authorization = z
  .strictObject({ defaultAction: action.default('Deny'), rules: z.array(rule).max(1024).default([]) })
  .superRefine(({ rules }, context) => {
    for (const [index, { name }] of rules.entries())
      if (name !== undefined && rules.findIndex((one) => one.name === name) < index)
        context.addIssue({ code: 'custom', path: ['rules', index, 'name'], message: `'${name}' is named twice` });
  });

/** The rules with all lists there, and with the names that Envoy Gateway gives those without. */
export function plainAuthorization(said: z.output<typeof authorization>, of: string): EdgeAuthorizationPolicy {
  return {
    defaultAction: said.defaultAction,
    rules: said.rules.map(({ name, action: what, operation, principal: who }, index) => ({
      name: `securitypolicy/${of}/authorization/rule/${name ?? index}`,
      action: what,
      methods: operation?.methods ?? [],
      paths: operation?.paths ?? [],
      clientCidrs: who.clientCIDRs ?? [],
      ...(who.jwt === undefined
        ? {}
        : { jwt: { provider: who.jwt.provider, scopes: who.jwt.scopes ?? [], claims: who.jwt.claims ?? [] } }),
      headers: who.headers ?? [],
      clientIds: who.clientIDs ?? [],
      spiffeIds: who.spiffeIDs ?? [],
    })),
  };
}
