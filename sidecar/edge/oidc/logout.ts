// Who may end a session: a person on a page of ours. A page of another site that holds our logout as a picture, a link
// or a form has to ask first, and so has a browser that only fetches ahead. Fetch Metadata says where a request comes from
// (W3C, section 2.3: set by the browser, for no script to forge); browsers without it are known by Origin and Referer.

import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';

/** `ask`: a button is shown. `refuse`: the method ends nothing. */
export type LogoutVerdict = 'end' | 'ask' | 'refuse';

/** Judges a request for the logout path. `scheme` is how browsers reach us: `https:`. Fails closed. */
export function judgeLogout(exchange: Exchange, scheme: string): LogoutVerdict {
  const { method } = exchange;
  if (method !== 'GET' && method !== 'POST') return 'refuse';
  if (exchange.webSocket || isAhead(exchange)) return 'ask';
  const site = headerOf(exchange, 'sec-fetch-site');
  const isOurs =
    site === undefined ? comesFromUs(exchange, scheme) : ['same-origin', 'same-site', 'none'].includes(site);
  if (!isOurs) return 'ask';
  // What users put on a page of ours may be a picture, a style sheet or a frame of this address; it is no click.
  return method === 'POST' || [undefined, 'document', 'empty'].includes(headerOf(exchange, 'sec-fetch-dest'))
    ? 'end'
    : 'ask';
}

/** Prefetching and prerendering: no person has asked for anything yet. */
function isAhead(exchange: Exchange): boolean {
  const purposes = ['sec-purpose', 'purpose', 'x-purpose', 'x-moz'].map((name) => headerOf(exchange, name) ?? '');
  return purposes.some((one) => /\b(?:prefetch|prerender|preview)\b/i.test(one));
}

/** RFC 6454 section 7.3: with POST every browser sends Origin, so that without it this is none, and no page leads it. */
function comesFromUs(exchange: Exchange, scheme: string): boolean {
  const said = headerOf(exchange, 'origin') ?? headerOf(exchange, 'referer');
  if (said === undefined) return exchange.method === 'POST';
  const ours = URL.parse(`${scheme}//${exchange.authority}`);
  return ours !== null && URL.parse(said)?.origin === ours.origin;
}

/** The page that asks, for a logout at `path`. It works without scripts, and in no frame. */
export function logoutPage(path: string): {
  readonly fields: readonly (readonly [string, string])[];
  readonly body: Buffer;
} {
  const to = path.replace(/[&"'<>]/g, (one) => `&#${one.charCodeAt(0)};`);
  const body = `<!doctype html><meta charset="utf-8"><title>Log out</title><form method="post" action="${to}"><p>Do you want to log out?</p><button>Log out</button></form>`;
  return {
    fields: [
      ['content-type', 'text/html; charset=utf-8'],
      // No form-action: browsers hold it against the redirect to the provider that follows.
      ['content-security-policy', "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"],
      ['x-frame-options', 'DENY'],
      ['cache-control', 'no-store'],
    ],
    body: Buffer.from(body),
  };
}
