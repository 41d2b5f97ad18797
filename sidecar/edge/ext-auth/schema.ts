// `extAuth` of a SecurityPolicy. Names of headers are in lower case. A gRPC authorizer gets all headers.

import { z } from 'zod';
import { durationSchema } from '../../../cert-agent/base/yaml.ts';
import { backendObjectRef } from '../../schema/gateway-patterns.ts';
import { lowerHeader, offOnly, optional, refused } from '../../schema/policy-fields.ts';

const noRetries = 'the authorizer is asked once, without retries: leave it out';
const oneBackend = {
  backendRef: backendObjectRef.optional().describe('The authorizer.'),
  backendRefs: z
    .array(backendObjectRef)
    .length(1, 'exactly one backend is allowed')
    .optional()
    .describe('The authorizer, as a list of one.'),
  backendSettings: refused(noRetries),
};

/** `extAuth`, read to its plan. Whether its backend exists is checked when the policy is compiled. */
export const extAuth = z
  .strictObject({
    grpc: z
      .strictObject(oneBackend)
      .optional()
      .describe("The authorizer that speaks Envoy's gRPC protocol. It gets all headers."),
    http: z
      .strictObject({
        ...oneBackend,
        path: z
          .string()
          .startsWith('/', 'a path begins with /')
          .optional()
          .describe('The path before that of the request.'),
        // Headers that only the authorizer may set. A request's own are removed, so each needs its full name.
        headersToBackend: z
          .array(lowerHeader.refine((name) => !name.includes('*'), 'name each header, without a star'))
          .default([])
          .describe("Headers of the authorizer's response for the app. A client's own are removed."),
        headersToClientOnSuccess: refused('the headers of an allowed request are not sent to the client'),
      })
      .optional()
      .describe('The authorizer that is asked with a request.'),
    headersToExtAuth: z
      .array(lowerHeader)
      .default([])
      .describe('Headers of the request for the authorizer, beside those that it always gets.'),
    // Envoy Gateway's default.
    timeout: durationSchema.prefault('10s').describe('How long the authorizer may take.'),
    // Fails closed always: an attacker who can stop the authorizer would have no authorization to pass.
    failOpen: offOnly('a request is refused if the authorizer does not respond: failing open is not supported'),
    bodyToExtAuth: refused('the authorizer is asked before the body is read, and gets only the head'),
    contextExtensions: refused('the authorizer gets only the request'),
    recomputeRoute: offOnly('the route is chosen once, before the authorizer is asked'),
    statusOnError: refused('the status is always 403 if the authorizer does not respond'),
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
        message: 'a gRPC authorizer gets all headers: leave it out',
      });
  })
  .transform((value) => {
    const form = (value.http ?? value.grpc)!;
    return {
      kind: value.http === undefined ? ('grpc' as const) : ('http' as const),
      backendRef: plainBackend(form.backendRef ?? form.backendRefs![0]!),
      path: value.http?.path ?? '',
      headersToExtAuth: value.headersToExtAuth,
      headersToBackend: value.http?.headersToBackend ?? [],
      timeoutMs: value.timeout,
    };
  })
  .describe('Asks an authorizer about each request. Without its answer the request is refused.');

/** One authorizer. `path` and `headersToBackend` are empty for gRPC; names of headers are in lower case. */
export type ExtAuthPlan = Readonly<z.output<typeof extAuth>>;

function plainBackend({ group, kind, name, namespace, port }: z.output<typeof backendObjectRef>) {
  return { ...{ group, kind, name }, ...optional('namespace', namespace), ...optional('port', port) };
}
