// The parts of documents and settings that pages may show: everything except secrets.

import type { RequestAuthentication } from '../policy/request-authentication.ts';
import type { Settings } from './settings.ts';

/** The keys are in the document, and one of them may be a shared secret. */
export function withoutKeys({ jwtRules, ...rest }: RequestAuthentication): object {
  return {
    ...rest,
    jwtRules: jwtRules.map((rule) => (rule.jwks === undefined ? rule : { ...rule, jwks: '(inline)' })),
  };
}

/**
 * Additional headers of authorizer requests may contain a password, so only their names are shown. The same holds for
 * what capabilities read.
 */
export function withoutSecrets({ extensionProviders, capabilities, ...rest }: Settings): object {
  const shown = extensionProviders.map(({ http, ...one }) =>
    http === undefined
      ? one
      : {
          ...one,
          http: { ...http, includeAdditionalHeadersInCheck: Object.keys(http.includeAdditionalHeadersInCheck) },
        },
  );
  return {
    ...rest,
    extensionProviders: shown,
    ...(capabilities === undefined ? {} : { capabilities: Object.keys(capabilities) }),
  };
}
