// Compares the Origin, else the Referer, of a request that changes something with the request's own host, as Envoy's
// filter does.

import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { printable } from '../../exchange/message.ts';
import { compileRegex } from '../../routing/regex.ts';
import type { CsrfPlan } from './schema.ts';

/** Other methods are safe (RFC 9110 section 9.2.1), or are preflights. */
const changing: ReadonlySet<string> = new Set(['POST', 'PUT', 'DELETE', 'PATCH']);

/** The reason why a request is refused, in words fit for a log; undefined if it may pass. */
export function compileCsrf({ additionalOrigins }: CsrfPlan): (exchange: Exchange) => string | undefined {
  const tests = additionalOrigins.map(compileTest);
  return function whyForged(exchange) {
    if (!changing.has(exchange.method)) return undefined;
    const sent = originOf(exchange);
    if (sent === undefined) return 'the request has neither an Origin nor a Referer';
    const source = hostOf(sent);
    // The value itself is not logged: a Referer has a path and a query.
    if (source === undefined) return 'the Origin or Referer of the request is not an http or https URL';
    const target = hostOf(`${exchange.scheme}://${exchange.authority}`);
    if (source === target || tests.some((matches) => matches(source))) return undefined;
    return `the request comes from '${printable(source)}' but is for '${target ?? ''}'`;
  };
}

/** The page that sends the request. An empty Origin counts as absent. */
function originOf(exchange: Exchange): string | undefined {
  for (const name of ['origin', 'referer']) {
    const value = headerOf(exchange, name);
    if (value !== undefined && value !== '') return value;
  }
  return undefined;
}

/**
 * Host and port of a web page, without the scheme's default port. Undefined for anything else: an app with its own
 * scheme chooses its host freely. `null`, by which a page hides its origin, stands for itself.
 */
function hostOf(value: string): string | undefined {
  if (value === 'null') return value;
  if (!/^https?:\/\/[^/?#\\@]+(?:[/?#]|$)/i.test(value)) return undefined;
  return URL.parse(value)?.host || undefined;
}

function compileTest({ type, value }: CsrfPlan['additionalOrigins'][number]): (source: string) => boolean {
  if (type === 'RegularExpression') return compileRegex(value);
  const wanted = value.toLowerCase();
  if (type === 'Exact') {
    // Without a default port, and an international name in ASCII: as origins are compared.
    const hosts = new Set(['http', 'https'].flatMap((scheme) => hostOf(`${scheme}://${wanted}`) ?? []));
    return (source) => source === wanted || hosts.has(source);
  }
  return type === 'Prefix' ? (source) => source.startsWith(wanted) : (source) => source.endsWith(wanted);
}
