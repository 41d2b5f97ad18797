// The refusal of a body that is longer than it may be: of one that says so, and of one that says nothing and goes on.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Exchange } from '../exchange/exchange.ts';

/** For the codecs: has more come than may? Those who count in advance ask before it has. */
export function isOverBodyLimit({ bytesReceived, bodyLimit }: Exchange): boolean {
  return bytesReceived > bodyLimit;
}

export function bodyTooLarge({ bodyLimit, rules }: Exchange): SallyportError {
  const limit = bodyLimit === rules.limits.bodyBytes ? 'limit bodyBytes' : "the rule's requestBuffer";
  return new SallyportError('body_too_large', `the body has more than ${bodyLimit} bytes (${limit})`);
}
