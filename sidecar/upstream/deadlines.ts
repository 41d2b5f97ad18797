// Deadlines of requests, thousands at once: a wheel of slots with one timer for all of them, which runs only while a
// deadline is set. Setting and dropping one costs a link in a list, and it fires up to one slot late.

import { guard } from '../../cert-agent/base/background.ts';
import { type Clock, systemClock } from '../../cert-agent/base/clock.ts';

/** How late a deadline may fire, milliseconds. */
const slotMs = 20;
const slots = 512;

/** One deadline. Its owner drops it when it no longer matters; not needed after it has fired. */
export class Deadline {
  readonly run: () => void;
  /** The tick at which it fires. */
  readonly at: number;
  /** @internal */ next: Deadline | undefined = undefined;
  /** @internal */ previous: Deadline | undefined = undefined;
  isSet = true;

  constructor(at: number, run: () => void) {
    this.at = at;
    this.run = run;
  }
}

/** One wheel may serve any number of owners. Its timer does not keep the process alive. */
export class Deadlines {
  readonly #clock: Clock;
  readonly #slots: (Deadline | undefined)[] = Array(slots).fill(undefined);
  #size = 0;
  /** Ticks that have passed, by the clock; not counted while no deadline is set. */
  #tick: number;
  #stop: (() => void) | undefined = undefined;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
    this.#tick = this.#now();
  }

  /** How many are set. */
  get size(): number {
    return this.#size;
  }

  /** Calls `run` once, `ms` milliseconds from now or up to a slot later, unless it is dropped before. */
  set(ms: number, run: () => void): Deadline {
    if (this.#size === 0) this.#tick = this.#now();
    // The end of the slot that it falls into: never early. A slot in the past would not be visited again.
    const one = new Deadline(Math.floor((this.#clock.monotonic() + Math.max(0, ms)) / slotMs) + 1, run);
    const head = this.#slots[one.at % slots];
    one.next = head;
    if (head !== undefined) head.previous = one;
    this.#slots[one.at % slots] = one;
    this.#size++;
    this.#stop ??= this.#clock.after(slotMs, this.#turn);
    return one;
  }

  /** Does nothing for one that has fired or was dropped. */
  drop(one: Deadline | undefined): void {
    if (one?.isSet !== true) return;
    one.isSet = false;
    this.#size--;
    if (one.next !== undefined) one.next.previous = one.previous;
    if (one.previous !== undefined) one.previous.next = one.next;
    else this.#slots[one.at % slots] = one.next;
  }

  #now(): number {
    return Math.floor(this.#clock.monotonic() / slotMs);
  }

  #turn = (): void => {
    this.#stop = undefined;
    const now = this.#now();
    const due: Deadline[] = [];
    // After a delay longer than the wheel is round, each slot is visited once.
    for (let tick = Math.max(this.#tick + 1, now - slots + 1); tick <= now; tick++) {
      for (let one = this.#slots[tick % slots]; one !== undefined; one = one.next) if (one.at <= now) due.push(one);
    }
    this.#tick = now;
    if (due.length > 1) due.sort((a, b) => a.at - b.at);
    for (const one of due) {
      // An earlier one may have dropped it.
      if (!one.isSet) continue;
      this.drop(one);
      guard('deadlines', one.run);
    }
    if (this.#size > 0) this.#stop ??= this.#clock.after(slotMs, this.#turn);
  };
}

/** The deadlines of all requests of the process. */
export const deadlines = new Deadlines();
