// The step of a gateway between permission and forwarding: a redirect is answered; what goes on is changed as the rule and
// its backend say, and carries our word on who is asking. Policy has judged what was asked, not what is made of it here.

import { hideSessionCookies } from './edge/credentials.ts';
import { applyRewrite, locationOf } from './edge/rewrite/rewrite.ts';
import type { Exchange } from './exchange/exchange.ts';
import { changeRequest } from './exchange/fields.ts';
import { answerOwn } from './respond.ts';
import type { SignTransactionToken } from './tokens/sign.ts';
import { carryTransactionToken } from './tokens/transaction-token.ts';

/** @throws SallyportError `redirect_loop`, `txn_token_too_large`. */
export function rewrite(exchange: Exchange, sign: SignTransactionToken): void {
  const { edge, route } = exchange;
  const { redirect } = edge!.filters;
  if (redirect !== undefined) {
    answerOwn(exchange, redirect.status, [['location', locationOf(exchange, redirect, portOf(exchange))]]);
    return;
  }
  const { requestHeaders, rewrite: change } = route!.filters ?? edge!.filters;
  if (change !== undefined) {
    // Envoy's name for what was asked for, which logs and apps may want.
    if (change.path !== undefined) changeRequest(exchange, none, [['x-envoy-original-path', exchange.path]]);
    applyRewrite(exchange, change);
  }
  if (requestHeaders !== undefined) {
    const { taken, set, add } = requestHeaders;
    // In every spelling, and behind the body too: a rule that takes a header out means that no app reads it.
    changeRequest(exchange, taken, add.length === 0 ? set : [...set, ...add]);
    // One that the rule sets stands in place of ours.
    exchange.requestIdGiven ||= exchange.fields.names.some(({ lower }) => lower === 'x-request-id');
  }
  hideSessionCookies(exchange);
  carryTransactionToken(exchange, sign);
}

const none: ReadonlySet<string> = new Set();

/** The port of the listener, as its Gateway calls it. */
function portOf({ rules }: Exchange): number {
  return rules.policyPort;
}
