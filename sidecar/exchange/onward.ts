// What the path does for a capability that fetches responses itself and delivers them to clients.

import type { Exchange } from './exchange.ts';
import type { Reply } from './message.ts';

/** The steps of the path behind permission. */
export interface Onward {
  /** Changes an exchange with a permit as its rule says, and sends it to its route's destination. */
  forward(exchange: Exchange, clientCert: string | undefined): void;
  /** Sends a response of the backend to the client, as its rule changes it. `details` is for the log. */
  answer(exchange: Exchange, reply: Reply, whole: Buffer | undefined, details: string): void;
  /** Ends an exchange with an error. */
  refuse(exchange: Exchange, error: unknown): void;
}
