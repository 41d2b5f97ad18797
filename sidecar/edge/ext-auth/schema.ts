// `extAuth` of a SecurityPolicy. Names of headers are in lower case. With gRPC the authorizer is told of all headers.

import { z } from 'zod';
import { durationSchema } from '../../../cert-agent/base/yaml.ts';
import { backendObjectRef } from '../../schema/gateway-patterns.ts';
import { lowerHeader, offOnly, optional, refused } from '../../schema/policy-fields.ts';

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
  .transform((said) => {
    const form = (said.http ?? said.grpc)!;
    return {
      kind: said.http === undefined ? ('grpc' as const) : ('http' as const),
      backendRef: plainBackend(form.backendRef ?? form.backendRefs![0]!),
      path: said.http?.path ?? '',
      headersToExtAuth: said.headersToExtAuth,
      headersToBackend: said.http?.headersToBackend ?? [],
      timeoutMs: said.timeout,
    };
  });

export type ExtAuthPlan = Readonly<z.output<typeof extAuth>>;

function plainBackend({ group, kind, name, namespace, port }: z.output<typeof backendObjectRef>) {
  return { ...{ group, kind, name }, ...optional('namespace', namespace), ...optional('port', port) };
}
