// A request, as the cache reads it.

import type { ConnectionFacts } from '../../exchange/connection-facts.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { emptyFields, type Fields } from '../../exchange/message.ts';
import { type Directives, parseDirectives, unreadable } from './directives.ts';
import { placeOf } from './key.ts';
import { askedBy } from './request.ts';
import type { CachePlan } from './schema.ts';
import type { Place } from './store.ts';

export const noDirectives: Directives = parseDirectives(undefined);

/** The fields of a 304 that are for its own client only. */
export interface Own {
  readonly fields: Fields;
  /** Its age, seconds; undefined if the stored response now carries it. */
  readonly age: number | undefined;
}

/** Without fields of its own. */
export const nothingOwn: Own = { fields: emptyFields, age: undefined };

/** A request, as the cache reads it. */
export class Asking {
  readonly exchange: Exchange;
  readonly connection: ConnectionFacts;
  readonly place: Place;
  /** Before the rule changes them. */
  readonly fields: Fields;
  readonly directives: Directives;
  readonly isIdentified: boolean;
  /** Of a 304, for its own client. */
  own: Own | undefined = undefined;
  /** Of Redis, before the fetch. */
  epoch: string | undefined = undefined;

  constructor(exchange: Exchange, connection: ConnectionFacts, plan: CachePlan, isIdentified: boolean) {
    this.exchange = exchange;
    this.connection = connection;
    this.place = placeOf(exchange, plan);
    this.fields = exchange.fields;
    this.directives = plan.clientDirectives === 'Honor' ? askedBy(exchange.fields) : noDirectives;
    this.isIdentified = isIdentified;
  }
}

/** Section 5.2.1.5; false as well if the client's directives cannot be read. */
export function mayStoreFor({ directives }: Asking): boolean {
  return !directives.has('no-store') && !directives.has(unreadable);
}
