// Asks an external authorizer about each request. It only refuses: who is calling is known before, or never.

import { hash } from 'node:crypto';
import { createAuthorizer } from '../../upstream/authorizer.ts';
import type { Guarding } from '../capability.ts';
import { hideSessionCookies } from '../credentials.ts';
import type { ExtAuthPlan } from './schema.ts';

export const extAuth: Guarding<ExtAuthPlan, undefined> = {
  name: 'ext-auth',
  guards: 'requests',
  fields: [{ kind: 'SecurityPolicy', name: 'extAuth', schema: async () => (await import('./schema.ts')).extAuth }],
  // What the authorizer is told is the client's to say: it may exchange a credential, or leave it.
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
      // A client with a session of another route is its user: an authorizer must not see it either.
      authenticate: hideSessionCookies,
      guard: { known, stillHolds: (_, before) => before === known },
    };
  },
};

/** What an authorizer was asked by. How long it may take decides about no caller. */
function digestOf({ timeoutMs: _, ...asked }: ExtAuthPlan, authority: string): string {
  return hash('sha256', JSON.stringify([asked, authority]));
}
