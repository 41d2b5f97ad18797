// Everything open is judged again when what allowed it may have changed: in slices, because traffic goes on meanwhile.

import type { Log } from '../../cert-agent/base/log.ts';
import type { Connection } from '../connection.ts';
import { judgeAgain, type ProxyTools } from '../proxy.ts';

/** How long traffic may wait for a slice, milliseconds. */
const sliceMs = 10;

export class OpenJudge {
  readonly #tools: () => ProxyTools;
  readonly #log: Log;
  /** Rises with each change that asks for everything anew. */
  #turn = 0;

  constructor(tools: () => ProxyTools, log: Log) {
    this.#tools = tools;
    this.#log = log;
  }

  /** A change that comes meanwhile begins anew; what is accepted meanwhile is judged by the new rules anyway. */
  all(open: readonly Connection[]): void {
    const turn = ++this.#turn;
    const judgeNext = (from: number): void => {
      if (turn !== this.#turn) return;
      const end = performance.now() + sliceMs;
      let at = from;
      // A hundred at a time, since asking for the time costs as much as one of them.
      while (at < open.length && performance.now() < end) {
        this.some(open.slice(at, at + 100));
        at += 100;
      }
      if (at < open.length) setImmediate(judgeNext, at);
    };
    judgeNext(0);
  }

  /** One line tells of each peer that lost connections. */
  some(connections: readonly Connection[]): void {
    const closed = new Map<string, { code: string; connections: number; message: string }>();
    for (const connection of connections) {
      const refusal = judgeAgain(connection, this.#tools());
      if (refusal === undefined) continue;
      const peer = connection.peer?.id.uri ?? 'a peer';
      const { code, message } = refusal;
      const known = closed.get(`${peer} ${code}`);
      if (known !== undefined) known.connections++;
      else
        closed.set(`${peer} ${code}`, {
          code,
          connections: 1,
          message: `open connections of ${peer} closed: ${message}`,
        });
    }
    for (const { message, ...facts } of closed.values()) this.#log.warn(facts, message);
  }
}
