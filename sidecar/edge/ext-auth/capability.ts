// Asks an external authorizer about each request. The authorizer can refuse a request but not authenticate the caller.

import { hash } from 'node:crypto';
import { createAuthorizer } from '../../upstream/authorizer.ts';
import type { Guarding } from '../capability.ts';
import { hideSessionCookies } from '../credentials.ts';
import type { ExtAuthPlan } from './schema.ts';

export const extAuth: Guarding<ExtAuthPlan, undefined> = {
  name: 'ext-auth',
  guards: 'requests',
  fields: [{ kind: 'SecurityPolicy', name: 'extAuth', schema: async () => (await import('./schema.ts')).extAuth }],
  // A header that the authorizer reads comes from the client: the authorizer may replace a credential, or keep it.
  ownHeaders: ({ headersToBackend, headersToExtAuth }) =>
    headersToBackend.filter(
      (name) => name !== 'cookie' && name !== 'authorization' && !headersToExtAuth.includes(name),
    ),
  secretParams: () => [],
  backends: ({ kind, backendRef }) => [{ ...backendRef, grpc: kind === 'grpc' }],
  compile([planned], { policy, destination }) {
    if (planned === undefined) return undefined;
    const { plan } = planned;
    const { kind, backendRef, path, headersToExtAuth, headersToBackend, timeoutMs } = plan;
    const found = destination({ ...backendRef, grpc: kind === 'grpc' }, 'extAuth');
    const authorizer = createAuthorizer(
      {
        ...{ name: policy, authority: found.authority, timeoutMs, statusOnError: 403 },
        http:
          kind === 'grpc'
            ? undefined
            : {
                pathPrefix: path,
                includeRequestHeadersInCheck: headersToExtAuth,
                includeAdditionalHeadersInCheck: {},
                headersToUpstreamOnAllow: headersToBackend,
                headersToDownstreamOnAllow: [],
                headersToDownstreamOnDeny: [],
              },
      },
      found.destination,
    );
    const known = digestOf(plan, found.authority);
    return {
      authorizer,
      // The session cookie of another route would let the authorizer act as the user, so it is hidden as well.
      authenticate: hideSessionCookies,
      guard: { known, stillHolds: (_, before) => before === known },
    };
  },
};

/** Identifies what an authorizer decides about. The timeout is left out, as it changes no decision. */
function digestOf({ timeoutMs: _, ...rest }: ExtAuthPlan, authority: string): string {
  return hash('sha256', JSON.stringify([rest, authority]));
}
