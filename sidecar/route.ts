// Step: route. A pure lookup that refuses nothing: no route means 404, decided after policy, so that strangers do not
// learn what exists. A sidecar finds upstreams by their names. A gateway finds a listener by the host and a rule by the
// request; for a stream it uses the server name.

import type { Connection } from './connection.ts';
import type { Exchange } from './exchange/exchange.ts';
import { readClient } from './sanitize.ts';

/** Sets the route, or leaves it undefined. */
export function findRoute(exchange: Exchange, connection: Connection): void {
  const { rules } = exchange;
  if (rules.edge !== undefined) {
    // First remove what clients may not set: a rule that matches `x-forwarded-proto` means ours.
    readClient(exchange, connection);
    // Too long to be matched: sanitize.ts refuses it.
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
