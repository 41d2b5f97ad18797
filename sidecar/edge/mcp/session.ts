// Sessions of MCP belong to their caller. IDs of the server that a client keeps (of the session and of events) are sent
// sealed together with the caller, and reach the server again only from the same caller. Nothing is stored, so
// workers and gateways with the same key agree.

import { hash } from 'node:crypto';
import type { ConnectionFacts } from '../../exchange/connection-facts.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { callerParts } from '../caller.ts';
import type { Seal } from '../seal.ts';

/** The kinds of sealed IDs; one does not open as the other. */
export type Sealed = 'session' | 'event';

const callerBytes = 16;
const mark: Readonly<Record<Sealed, number>> = { session: 1, event: 2 };

/** The specification: visible ASCII. */
const idPattern = /^[\x21-\x7e]{1,4096}$/;

/** The sealed ids of one caller. */
export class CallerSeal {
  readonly #seal: Seal;
  readonly #exchange: Exchange;
  readonly #connection: ConnectionFacts;
  #digest: Buffer | undefined = undefined;

  constructor(seal: Seal, exchange: Exchange, connection: ConnectionFacts) {
    this.#seal = seal;
    this.#exchange = exchange;
    this.#connection = connection;
  }

  /** Most requests of servers without sessions need none. */
  get #caller(): Buffer {
    this.#digest ??= callerOf(this.#exchange, this.#connection);
    return this.#digest;
  }

  /** The ID for the client; undefined if no field can hold it. */
  close(what: Sealed, id: string): string | undefined {
    if (!idPattern.test(id)) return undefined;
    return this.#seal.closeBytes(Buffer.concat([Buffer.of(mark[what]), this.#caller, Buffer.from(id, 'latin1')]));
  }

  /** The server's id; undefined for anything that was not sealed for this caller. */
  open(what: Sealed, sealed: string): string | undefined {
    const bytes = this.#seal.openBytes(sealed);
    if (bytes === undefined || bytes[0] !== mark[what]) return undefined;
    if (!bytes.subarray(1, 1 + callerBytes).equals(this.#caller)) return undefined;
    return bytes.toString('latin1', 1 + callerBytes);
  }
}

/** Claims that a renewed token changes. */
const passing: ReadonlySet<string> = new Set(['exp', 'iat', 'nbf', 'jti', 'auth_time']);

/** A digest of the caller's identity. All callers without any identity count as the same. */
function callerOf(exchange: Exchange, connection: ConnectionFacts): Buffer {
  const parts = callerParts(exchange, connection).map((one) => one ?? null);
  return hash('sha256', JSON.stringify([...parts, ...othersOf(exchange)]), 'buffer').subarray(0, callerBytes);
}

/** A token that names neither a subject nor a client: what else it says, or all of its issuer's callers were one. */
function othersOf({ auth }: Exchange): readonly (readonly [string, unknown])[] {
  if (auth === undefined || auth.subject !== undefined) return [];
  const { claims } = auth;
  if (typeof claims['client_id'] === 'string' || typeof claims['azp'] === 'string') return [];
  const others = Object.entries(claims).filter(([name]) => !passing.has(name));
  return others.sort(([a], [b]) => (a < b ? -1 : 1));
}
