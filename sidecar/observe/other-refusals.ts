// Refusals beside policies, whose code and reason say all: connections that were refused before a request, and requests of
// the app for which there is no upstream. Equal ones are one entry with a count, and each list has its own few places: a
// stranger's flood of handshakes displaces no refusal by a policy.

import { formatTime } from '../../cert-agent/base/clock.ts';
import { refusalId } from '../exchange/exchange.ts';
import type { DenialLine, Why } from './denial-lines.ts';

/** What was refused. */
export interface OtherRefusal {
  readonly code: string;
  readonly reason: string;
  /** An address or an identity; '' for the own app. */
  readonly from: string;
  /** `connection to :15006`, `GET api.test/orders`. */
  readonly what: string;
}

interface Kept extends OtherRefusal {
  readonly id: string;
  /** Wall clock, milliseconds: when the last one came. */
  time: number;
  count: number;
}

const maxKept = 100;
const maxText = 512;

/** One for each process and source. In memory only, for the admin port only. */
export class OtherRefusals {
  /** By what is equal; the last one stands at the end. */
  readonly #kept = new Map<string, Kept>();

  note(refused: OtherRefusal): void {
    const { code } = refused;
    const [reason, from, what] = [copyOf(refused.reason), copyOf(refused.from), copyOf(refused.what)];
    const key = JSON.stringify([code, reason, from, what]);
    const known = this.#kept.get(key);
    const one = known ?? { ...{ code, reason, from, what }, id: refusalId(), time: 0, count: 0 };
    one.time = Date.now();
    one.count++;
    this.#kept.delete(key);
    this.#kept.set(key, one);
    if (this.#kept.size > maxKept) this.#kept.delete(this.#kept.keys().next().value!);
  }

  why(id: string): Why | undefined {
    for (const { id: known, time, code, reason, from, what } of this.#kept.values())
      if (known === id)
        return {
          ...{ id, time: formatTime(time), code, reason, policy: '-', gateway: false, explanation: null },
          request: { protocol: 'other', principal: from, method: what, path: '' },
        };
    return undefined;
  }

  list(isRequest: boolean): DenialLine[] {
    return [...this.#kept.values()].map(({ id, time, code, from, what, count }) => ({
      ...{ id, time: formatTime(time), code, policy: '-', from, isRequest },
      request: count === 1 ? what : `${what} (${count} times)`,
    }));
  }
}

/** A slice would keep the whole text in memory. */
function copyOf(text: string): string {
  return Buffer.from(text.slice(0, maxText), 'utf8').toString('utf8');
}
