// What single capabilities add to an exchange's line in the access log.

import type { Noted } from './ends.ts';
import type { Exchange } from './exchange.ts';

/** Adds a field to the exchange's line; a later one of the same name replaces it. */
export function noteInLog(exchange: Exchange, note: Noted): void {
  const { noted = [] } = exchange;
  exchange.noted = noted.some(({ name }) => name === note.name)
    ? noted.map((one) => (one.name === note.name ? note : one))
    : [...noted, note];
}
