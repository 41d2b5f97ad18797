// Compares the Origin, else the Referer, of a request that changes something with the request's own host, as Envoy's filter
// does.

import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { compileRegex } from '../../routing/regex.ts';
import type { CsrfPlan } from './schema.ts';

/** Other methods are safe (RFC 9110 section 9.2.1), or are preflights. */
const changing: ReadonlySet<string> = new Set(['POST', 'PUT', 'DELETE', 'PATCH']);

/** Gives the reason why a request is refused; undefined if it may pass. */
export function compileCsrf({ additionalOrigins }: CsrfPlan): (exchange: Exchange) => string | undefined {
  const tests = additionalOrigins.map(compileTest);
  return function whyForged(exchange) {
    if (!changing.has(exchange.method)) return undefined;
    const source = sourceOf(exchange);
    if (source === undefined) return 'the request has neither an Origin nor a Referer';
    const target = hostOf(`${exchange.scheme}://${exchange.authority}`);
    if (source === target || tests.some((matches) => matches(source))) return undefined;
    return `the request comes from '${source}' but is for '${target}'`;
  };
}

/** Host and port of the page that sends the request. An empty Origin counts as absent. */
function sourceOf(exchange: Exchange): string | undefined {
  for (const name of ['origin', 'referer']) {
    const value = headerOf(exchange, name);
    if (value !== undefined && value !== '') return hostOf(value);
  }
  return undefined;
}

/** Host and port without the scheme's default port. A value that is not a URL is kept: `null` hides a page's origin. */
function hostOf(value: string): string {
  return URL.parse(value)?.host || value.toLowerCase();
}

function compileTest({ type, value }: CsrfPlan['additionalOrigins'][number]): (source: string) => boolean {
  if (type === 'RegularExpression') return compileRegex(value);
  const wanted = value.toLowerCase();
  if (type === 'Exact') return (source) => source === wanted;
  return type === 'Prefix' ? (source) => source.startsWith(wanted) : (source) => source.endsWith(wanted);
}
