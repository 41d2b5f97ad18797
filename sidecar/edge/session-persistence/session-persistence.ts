// Session persistence (GEP-1619): a returning client gets the same backend and endpoint. Its session is a random name
// in a cookie or a header, and both choices are hashes of it, so nothing is stored here and every gateway chooses the
// same. It does not authenticate the client, and permits nothing.

import { hash, randomBytes } from 'node:crypto';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { addFields } from '../../exchange/fields.ts';
import { emptyFields } from '../../exchange/message.ts';
import { cookiesOf } from '../../policy/request-authentication.ts';

/** The session of one rule, compiled. */
export interface SessionPlan {
  readonly name: string;
  readonly in: 'Cookie' | 'Header';
  /** From its first request; 0: as long as the client keeps it. */
  readonly absoluteMs: number;
  /** The cookie outlives the browser, as long as `absoluteMs`. */
  readonly permanent: boolean;
  /** The path of the rule, so that another rule's session is not sent along. */
  readonly path: string;
}

/** Its start, in seconds by base 36, and a name. */
const sessionPattern = /^([0-9a-z]{1,10})\.([A-Za-z0-9_-]{16})$/;

/** The session of this request. Without a valid one it makes a new one, which the response sends to the client. */
export function findSession(exchange: Exchange, plan: SessionPlan, now: number): string {
  const { name, in: place, absoluteMs } = plan;
  const brought =
    place === 'Header'
      ? headerOf(exchange, name.toLowerCase())
      : cookiesOf(headerOf(exchange, 'cookie')).find(([key]) => key === name)?.[1];
  const [, since = '', id] = sessionPattern.exec(brought ?? '') ?? [];
  const age = now - Number.parseInt(since, 36) * 1000;
  if (id !== undefined && (absoluteMs === 0 || (age >= 0 && age < absoluteMs))) return id;
  const made = randomBytes(12).toString('base64url');
  const value = `${Math.floor(now / 1000).toString(36)}.${made}`;
  exchange.replyFields = addFields(exchange.replyFields ?? emptyFields, [fieldFor(exchange, plan, value)]);
  return made;
}

function fieldFor(
  exchange: Exchange,
  { name, in: place, permanent, absoluteMs, path }: SessionPlan,
  value: string,
): [string, string] {
  if (place === 'Header') return [name, value];
  const age = permanent ? `; Max-Age=${Math.floor(absoluteMs / 1000)}` : '';
  const secure = exchange.connection.tls === undefined ? '' : '; Secure';
  return ['set-cookie', `${name}=${value}; Path=${path}${age}${secure}; HttpOnly; SameSite=Lax`];
}

/** A number from 0 to 1 that is the same for the same session. */
export function shareOf(session: string): number {
  return Number.parseInt(hash('sha256', session).slice(0, 12), 16) / 2 ** 48;
}
