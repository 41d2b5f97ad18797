// Step: where to? A pure look-up that refuses nothing: 'no route' is a route whose answer is 404, because it is asked
// before policy and must not tell a stranger what exists.

import type { Exchange } from './exchange.ts';

/** Fills in the route, or leaves it undefined. */
export function findRoute(exchange: Exchange): void {
  exchange.route = exchange.rules.findRoute(exchange.authority);
}
