// The refusal of a body that exceeds its limit, whether its length is declared or not.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { type Exchange, Slot } from '../exchange/exchange.ts';

/** For the codecs: has more arrived than allowed? */
export function isOverBodyLimit({ bytesReceived, bodyLimit }: Exchange): boolean {
  return bytesReceived > bodyLimit;
}

/** The policy whose limit is the lowest; undefined if that is gateway.yaml's or sidecar.yaml's. */
const limitedBy = new Slot<string>();

/**
 * Lowers the limit of a body.
 * @param by names the policy, for the message
 * @throws SallyportError `body_too_large` if the declared length exceeds it.
 */
export function limitBody(exchange: Exchange, bytes: number, by: string): void {
  if (bytes < exchange.bodyLimit) {
    exchange.bodyLimit = bytes;
    limitedBy.set(exchange, by);
  }
  if (typeof exchange.framing === 'number' && exchange.framing > exchange.bodyLimit) throw bodyTooLarge(exchange);
}

/** Answered with 413. The message names the limit. */
export function bodyTooLarge(exchange: Exchange): SallyportError {
  const { bodyLimit } = exchange;
  const limit = limitedBy.get(exchange) ?? 'limit bodyBytes';
  return new SallyportError('body_too_large', `the body has more than ${bodyLimit} bytes (${limit})`);
}
