// The refusal of a body that exceeds its limit, whether its length is declared or not.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Exchange } from '../exchange/exchange.ts';

/** For the codecs: has more arrived than allowed? */
export function isOverBodyLimit({ bytesReceived, bodyLimit }: Exchange): boolean {
  return bytesReceived > bodyLimit;
}

/** Answered with 413. The message names the limit. */
export function bodyTooLarge({ bodyLimit, rules }: Exchange): SallyportError {
  const limit = bodyLimit === rules.limits.bodyBytes ? 'limit bodyBytes' : 'a policy of its rule';
  return new SallyportError('body_too_large', `the body has more than ${bodyLimit} bytes (${limit})`);
}
