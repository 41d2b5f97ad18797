// How an HTTP authorizer is addressed, and which of a request's fields it receives.

import type { Fields } from '../exchange/message.ts';
import { foldName } from '../policy/header-name.ts';
import { compileStrings, isPattern, type Match } from '../policy/match.ts';

/** The fields of Istio's `envoyExtAuthzHttp`. */
export interface HttpAuthorizer {
  readonly pathPrefix: string;
  readonly includeRequestHeadersInCheck: readonly string[];
  readonly includeAdditionalHeadersInCheck: Readonly<Record<string, string>>;
  readonly headersToUpstreamOnAllow: readonly string[];
  readonly headersToDownstreamOnAllow: readonly string[];
  readonly headersToDownstreamOnDeny: readonly string[];
}

/**
 * Tests which fields it receives, by `FieldName.folded`: in every spelling, since an app may read another one than it
 * does.
 */
export function toldOf(authorizer: HttpAuthorizer): Match {
  return compileStrings(sentOf(authorizer).map((one) => one.split('*').map(foldName).join('*')));
}

/** A request's fields for it, each under its configured name. */
export function fieldsFor({ names, values }: Fields, authorizer: HttpAuthorizer): [string, string][] {
  const isTold = toldOf(authorizer);
  const meant = new Map(
    sentOf(authorizer)
      .filter((one) => !isPattern(one))
      .map((one) => [foldName(one), one]),
  );
  return names.flatMap(({ lower, folded }, i): [string, string][] =>
    isTold(folded) ? [[meant.get(folded) ?? lower, values[i]!]] : [],
  );
}

/** In lower case. Envoy always sends `authorization` along. */
function sentOf({ includeRequestHeadersInCheck }: HttpAuthorizer): readonly string[] {
  return ['authorization', ...includeRequestHeadersInCheck.map((one) => one.toLowerCase())];
}
