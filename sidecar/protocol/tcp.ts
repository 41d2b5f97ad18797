// TCP: a connection is the exchange. It is accepted paused, authorized, joined with its upstream, and recorded at its
// end.

import type { Duplex } from 'node:stream';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Connection } from '../connection.ts';
import { fail } from '../exchange/decision.ts';
import type { Downstream } from '../exchange/ends.ts';
import { Exchange } from '../exchange/exchange.ts';
import { emptyFields } from '../exchange/message.ts';
import type { SpliceEnd } from '../exchange/upstream.ts';
import { type RefusalOf, Tunnel } from './tunnel.ts';

/** A TCP stream gets no response: these are never called, but an exchange needs a downstream. */
const noResponse: Downstream = Object.freeze({
  informational() {},
  respond() {},
  write: () => true,
  end() {},
  abort() {},
  pause() {},
  resume() {},
  tunnel() {},
});

/** Opens the record of a TCP connection, from its first moment. */
export function openStream(connection: Connection): Exchange {
  connection.socket.on('error', () => {});
  return new Exchange(connection, noResponse, connection.port.rules.current(), emptyFields);
}

/** Joins the connection with `upstream` and resolves when both are closed; the record's byte counts are then final. */
export async function carryStream(
  connection: Connection,
  exchange: Exchange,
  upstream: Duplex,
  refusalOf: RefusalOf,
): Promise<void> {
  const ends = [connection.socket, upstream].map((socket) => ({ socket, rest: undefined })) as [SpliceEnd, SpliceEnd];
  const tunnel = new Tunnel(exchange, ...ends, refusalOf);
  connection.speaker = tunnel;
  await tunnel.closed;
}

/** Closes a TCP connection that was refused: no byte is sent, the reason is in the record only. */
export function refuseStream(connection: Connection, exchange: Exchange, error: SallyportError): void {
  fail(exchange, error, error.code === 'policy_denied' ? exchange.details : error.row.details);
  connection.socket.destroy();
}
