// Step: where to? A pure look-up that refuses nothing: 'no route' is a route whose answer is 404, because it is asked
// before policy and must not tell a stranger what exists. A sidecar knows upstreams by their names; a gateway has listeners,
// of which the host names one, and their rules, of which the request matches one; a stream is known by its server name.

import type { Connection } from './connection.ts';
import type { Exchange } from './exchange/exchange.ts';
import { readClient } from './sanitize.ts';

/** Fills in the route, or leaves it undefined. */
export function findRoute(exchange: Exchange, connection: Connection): void {
  const { rules } = exchange;
  if (rules.edge !== undefined) {
    // First what a stranger may not say: a rule that asks for `x-forwarded-proto` means ours.
    readClient(exchange, connection);
    // Too long to be looked at: enter.ts refuses it.
    if (exchange.target.length > rules.limits.urlBytes) return;
    const { listener, rule } = rules.edge.find(exchange);
    exchange.listener = listener;
    if (rule === undefined) return;
    exchange.edge = rule;
    exchange.route = rule.backendFor(exchange);
    exchange.phases = exchange.route?.phases ?? rule.phases;
  } else if (rules.findStream !== undefined) {
    exchange.listener = connection.listener;
    exchange.route = rules.findStream(connection.listener, connection.serverName);
  } else exchange.route = rules.findRoute(exchange.authority);
}
