// Re-evaluates open connections and requests when what allowed them may have changed. In slices, so that traffic goes
// on.

import type { Log } from '../../cert-agent/base/log.ts';
import type { Connection } from '../connection.ts';
import { judgeAgain, type ProxyTools } from '../proxy.ts';

/** The longest time that traffic waits for a slice, milliseconds. */
const sliceMs = 10;

/** Re-evaluates what is open. */
export class OpenJudge {
  readonly #tools: () => ProxyTools;
  readonly #log: Log;
  /** Grows with each change. */
  #turn = 0;
  #isRunning = false;
  readonly #waiting: (() => void)[] = [];

  constructor(tools: () => ProxyTools, log: Log) {
    this.#tools = tools;
    this.#log = log;
  }

  /** A newer change restarts this. What is accepted meanwhile is evaluated by the new rules anyway. */
  all(open: readonly Connection[]): void {
    const turn = ++this.#turn;
    this.#isRunning = true;
    const judgeNext = (from: number): void => {
      if (turn !== this.#turn) return;
      const end = performance.now() + sliceMs;
      let at = from;
      // A hundred at a time, since reading the clock costs as much as evaluating one.
      while (at < open.length && performance.now() < end) {
        this.some(open.slice(at, at + 100));
        at += 100;
      }
      if (at < open.length) setImmediate(judgeNext, at);
      else this.#end();
    };
    judgeNext(0);
  }

  /** Resolves once everything open has been evaluated under the newest change. */
  settled(): Promise<void> {
    return this.#isRunning ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve();
  }

  #end(): void {
    this.#isRunning = false;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Logs one line for each peer that lost connections. */
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
