// What pages may show of documents and settings: all of it but the secrets that stand among it.

import type { RequestAuthentication } from '../policy/request-authentication.ts';
import type { Settings } from './settings.ts';

/** Keys stand in the document, and one that is shared may stand among them. */
export function withoutKeys({ jwtRules, ...rest }: RequestAuthentication): object {
  return {
    ...rest,
    jwtRules: jwtRules.map((rule) => (rule.jwks === undefined ? rule : { ...rule, jwks: '(inline)' })),
  };
}

/** What an authorizer is told with each question may be a password to it. */
export function withoutSecrets({ extensionProviders, ...rest }: Settings): object {
  const shown = extensionProviders.map(({ http, ...one }) =>
    http === undefined
      ? one
      : {
          ...one,
          http: { ...http, includeAdditionalHeadersInCheck: Object.keys(http.includeAdditionalHeadersInCheck) },
        },
  );
  return { ...rest, extensionProviders: shown };
}
