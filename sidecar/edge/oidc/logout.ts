// Only a person on a page of ours may end a session. Another site can embed our logout as a picture, a link or a form,
// and a browser may prefetch it: then the person is asked first. Fetch Metadata tells where a request comes from (W3C,
// section 2.3: set by the browser, and no script can forge it). For browsers without it Origin and Referer decide.

import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';

/** `ask`: show a button. `refuse`: the method is not allowed. */
export type LogoutVerdict = 'end' | 'ask' | 'refuse';

/** Decides about a request for the logout path. `scheme` is how browsers reach us: `https:`. Fails closed. */
export function judgeLogout(exchange: Exchange, scheme: string): LogoutVerdict {
  const { method } = exchange;
  if (method !== 'GET' && method !== 'POST') return 'refuse';
  if (exchange.webSocket || isAhead(exchange)) return 'ask';
  const site = headerOf(exchange, 'sec-fetch-site');
  const isOurs =
    site === undefined ? comesFromUs(exchange, scheme) : ['same-origin', 'same-site', 'none'].includes(site);
  if (!isOurs) return 'ask';
  // Users may place a picture, a style sheet or a frame with this address on a page of ours. Loading it is not a click.
  return method === 'POST' || [undefined, 'document', 'empty'].includes(headerOf(exchange, 'sec-fetch-dest'))
    ? 'end'
    : 'ask';
}

/** True for prefetching and prerendering, which no person has asked for. */
function isAhead(exchange: Exchange): boolean {
  const purposes = ['sec-purpose', 'purpose', 'x-purpose', 'x-moz'].map((name) => headerOf(exchange, name) ?? '');
  return purposes.some((one) => /\b(?:prefetch|prerender|preview)\b/i.test(one));
}

/**
 * RFC 6454 section 7.3: every browser sends Origin with POST. A POST without it comes from a program, not from a page.
 */
function comesFromUs(exchange: Exchange, scheme: string): boolean {
  const source = headerOf(exchange, 'origin') ?? headerOf(exchange, 'referer');
  if (source === undefined) return exchange.method === 'POST';
  const ours = URL.parse(`${scheme}//${exchange.authority}`);
  return ours !== null && URL.parse(source)?.origin === ours.origin;
}

/** The page that asks before a logout at `path`. It works without scripts, and not in a frame. */
export function logoutPage(path: string): {
  readonly fields: readonly (readonly [string, string])[];
  readonly body: Buffer;
} {
  const to = path.replace(/[&"'<>]/g, (one) => `&#${one.charCodeAt(0)};`);
  const body = `<!doctype html><meta charset="utf-8"><title>Log out</title><form method="post" action="${to}"><p>Do you want to log out?</p><button>Log out</button></form>`;
  return {
    fields: [
      ['content-type', 'text/html; charset=utf-8'],
      // No form-action: browsers would apply it to the redirect to the provider that follows.
      ['content-security-policy', "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"],
      ['x-frame-options', 'DENY'],
      ['cache-control', 'no-store'],
    ],
    body: Buffer.from(body),
  };
}
