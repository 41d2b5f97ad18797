// Resolves names to addresses, off the path: looked up every few seconds and at once after a failed dial, with the last
// good result kept. dns.lookup is what the system itself uses (/etc/hosts, search domains), but each call holds a libuv
// thread, and four of them stuck on a dead name server would stop every file access: so at most two at once.

import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { every } from '../../cert-agent/base/background.ts';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';

const refreshMs = 5000;
/** However many dials fail, a name is looked up no more often than this. */
const leastMs = 1000;
const maxLookups = 2;

interface Name {
  addresses: readonly string[];
  users: number;
  lookedAt: number;
  nextAt: number;
  busy: boolean;
  failing: boolean;
}

/** All names that a process dials. */
export class Resolver {
  readonly #log: Log;
  readonly #lookup: (name: string) => Promise<readonly string[]>;
  readonly #names = new Map<string, Name>();
  readonly #stop: () => void;
  #running = 0;
  /** Rises whenever a name gains or loses an address, for callers that cache what they built from the addresses. */
  version = 0;

  constructor(log: Log, lookupAll: (name: string) => Promise<readonly string[]> = systemLookup) {
    this.#log = log;
    this.#lookup = lookupAll;
    this.#stop = every('resolver', 250, () => this.#run());
  }

  /** Starts looking `host` up until `forget`. Literal addresses need none. */
  watch(host: string): void {
    if (isIP(host) !== 0) return;
    const known = this.#names.get(host);
    if (known !== undefined) known.users++;
    else
      this.#names.set(host, {
        addresses: [],
        users: 1,
        lookedAt: Number.NEGATIVE_INFINITY,
        nextAt: 0,
        busy: false,
        failing: false,
      });
    this.#run();
  }

  /** Once for each `watch`. */
  forget(host: string): void {
    const known = this.#names.get(host);
    if (known !== undefined && --known.users === 0) this.#names.delete(host);
  }

  /** The addresses of `host`, both families, in the system's order; empty while none is known. */
  addressesOf(host: string): readonly string[] {
    if (isIP(host) !== 0) return [host];
    return this.#names.get(host)?.addresses ?? [];
  }

  /** Looks `host` up at the next opportunity: a dial has failed. */
  refresh(host: string): void {
    const known = this.#names.get(host);
    if (known === undefined || known.busy) return;
    known.nextAt = Math.min(known.nextAt, known.lookedAt + leastMs);
    this.#run();
  }

  /** Looks nothing up any more. A look-up in progress ends unheard. */
  close(): void {
    this.#stop();
    this.#names.clear();
  }

  #run(): void {
    const now = performance.now();
    for (const [host, name] of this.#names) {
      if (this.#running >= maxLookups) return;
      if (name.busy || name.nextAt > now) continue;
      void this.#look(host, name);
    }
  }

  async #look(host: string, name: Name): Promise<void> {
    name.busy = true;
    name.lookedAt = performance.now();
    this.#running++;
    try {
      const found = await this.#lookup(host);
      if (found.length > 0) {
        // Name servers rotate their results: another order is no change.
        if (!sameAddresses(found, name.addresses)) this.version++;
        name.addresses = found;
      }
      if (name.failing) this.#log.info({ code: 'name_resolved', host }, `${host} resolves again`);
      name.failing = false;
    } catch (error) {
      // The last good result stays. Logged once, not every five seconds.
      if (!name.failing) {
        const what =
          name.addresses.length === 0
            ? `waiting for the name ${host}`
            : `${host} does not resolve any more; its last addresses are kept`;
        this.#log.warn({ code: 'waiting', host, reason: reasonOf(error) }, what);
      }
      name.failing = true;
    } finally {
      name.busy = false;
      // A name that never resolved is looked up more often: something is starting.
      name.nextAt = performance.now() + (name.addresses.length === 0 ? leastMs : refreshMs);
      this.#running--;
      this.#run();
    }
  }
}

function sameAddresses(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((one) => b.includes(one));
}

/** All addresses of `host`, as the system itself looks it up. */
export async function systemLookup(host: string): Promise<readonly string[]> {
  const found = await lookup(host, { all: true, order: 'verbatim' });
  return found.map((one) => one.address);
}
