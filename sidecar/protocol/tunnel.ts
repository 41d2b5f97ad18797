// A spliced connection as the table sees it: a TCP stream or a WebSocket, with an idle limit. What ends it early says so.

import type { Connection, Speaker } from '../connection.ts';
import type { Splice } from './splice.ts';

export class Tunnel implements Speaker {
  readonly #splice: Splice;
  readonly #connection: Connection;
  /** Why we cut it, if we did: `idle` or what the caller of `cut` said. */
  cutBecause: string | undefined = undefined;

  constructor(joined: Splice, connection: Connection) {
    this.#splice = joined;
    this.#connection = connection;
  }

  get closed(): Promise<Error | undefined> {
    return this.#splice.closed;
  }

  tick(now: number): void {
    const { tcpIdleMs } = this.#connection.port.rules.current().limits;
    if (now - this.#splice.lastActive() > tcpIdleMs) this.cut('idle');
  }

  /** A tunnel has no message to finish: it goes on until the drain time is over, and is then cut. */
  drain(): void {}

  cut(why: string): void {
    this.cutBecause ??= why;
    this.#splice.cut();
  }
}
