// Applies a rule's limits to an exchange: the request's attributes, and the fields of the response.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Connection } from '../../connection.ts';
import { deny } from '../../exchange/decision.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf, pathWithoutQuery } from '../../exchange/facts.ts';
import { addFields } from '../../exchange/fields.ts';
import { emptyFields } from '../../exchange/message.ts';
import type { Ip } from '../../policy/ip.ts';
import type { LimitFacts, RateLimits, Verdict } from './rate-limit.ts';

/** One object for nearly all decisions: each is synchronous, and keeps nothing of it. */
class ExchangeLimitFacts implements LimitFacts {
  route = '';
  exchange: Exchange | undefined = undefined;

  get method(): string {
    return this.exchange!.method;
  }

  get path(): string {
    return pathWithoutQuery(this.exchange!.path);
  }

  get query(): string {
    const at = this.exchange!.path.indexOf('?');
    return at === -1 ? '' : this.exchange!.path.slice(at + 1);
  }

  get clientIp(): Ip | undefined {
    return this.exchange!.clientIp;
  }

  get clientId(): string | undefined {
    return this.exchange!.clientId;
  }

  get principal(): string | undefined {
    return (this.exchange!.connection as Connection).client?.uri;
  }

  get claims(): Readonly<Record<string, unknown>> | undefined {
    return this.exchange!.auth?.claims;
  }

  header(name: string): string | undefined {
    return headerOf(this.exchange!, name);
  }
}

const facts = new ExchangeLimitFacts();

/**
 * @throws SallyportError `rate_limited`, with the response in `denial`; if Redis decides, the promise rejects with it.
 */
export function limitExchange(exchange: Exchange, limits: RateLimits, route: string): undefined | Promise<void> {
  const asked = limits.keepsFacts === true ? new ExchangeLimitFacts() : facts;
  asked.exchange = exchange;
  asked.route = route;
  const verdict = limits.check(asked);
  if (verdict instanceof Promise) return verdict.then((one) => follow(exchange, one));
  follow(exchange, verdict);
  return undefined;
}

function follow(exchange: Exchange, { allowed, headers, rule, details, retryAfterS }: Verdict): void {
  if (headers.length > 0) exchange.replyFields = addFields(exchange.replyFields ?? emptyFields, headers);
  if (allowed) return;
  throw deny(
    exchange,
    new SallyportError('rate_limited', `rate limit ${rule} exceeded; retry after ${retryAfterS} s`),
    {
      details,
      denial: {
        status: 429,
        fields: addFields(emptyFields, [['content-type', 'text/plain; charset=utf-8']]),
        body: Buffer.from('rate limited'),
      },
    },
  );
}
