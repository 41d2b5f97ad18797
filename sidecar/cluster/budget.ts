// How much text is kept, in bytes, of all kinds together: for each namespace, and in total. One tenant's objects must not
// take the memory of all, and must not keep those of others away.

import type { KeptObject } from './objects.ts';

/** Bytes. */
export interface Bounds {
  /** In one namespace. */
  readonly namespaceBytes: number;
  /** Of all namespaces. Beyond it, only namespaces with little still get more, up to twice as much. */
  readonly totalBytes: number;
}

/** What a namespace may always have. */
const littleBytes = 1024 * 1024;

/** The bytes of all kinds that are followed. */
export class Ledger {
  readonly #bytes = new Map<string, number>();
  #total = 0;

  get total(): number {
    return this.#total;
  }

  of(namespace: string): number {
    return this.#bytes.get(namespace) ?? 0;
  }

  add(namespace: string, bytes: number): void {
    this.#total += bytes;
    const sum = this.of(namespace) + bytes;
    if (sum > 0) this.#bytes.set(namespace, sum);
    else this.#bytes.delete(namespace);
  }
}

/** The bytes of one kind's objects. */
export class Budget {
  readonly #bounds: Bounds;
  readonly #ledger: Ledger;
  /** The budget of the objects that ours will replace. */
  #before: Budget | undefined;
  #isCounted = false;
  readonly #bytes = new Map<string, number>();
  readonly #over = new Map<string, number>();
  readonly #refused = new Map<string, number>();
  #total = 0;

  constructor(bounds: Bounds, ledger = new Ledger(), before?: Budget) {
    this.#bounds = bounds;
    this.#ledger = ledger;
    this.#before = before;
  }

  /** Its objects are those that are followed from now on, in place of those of before. */
  count(): void {
    if (this.#isCounted) return;
    if (this.#before !== undefined) this.#before.#settle(-1);
    this.#before = undefined;
    this.#settle(1);
  }

  #settle(by: 1 | -1): void {
    this.#isCounted = by === 1;
    for (const [namespace, bytes] of this.#bytes) this.#ledger.add(namespace, by * bytes);
  }

  /** The namespaces with objects that are not kept; empty for a kind without namespaces. */
  get over(): ReadonlySet<string> {
    return new Set([...this.#over.keys(), ...this.#refused.keys()]);
  }

  /** Those of them that have too many bytes. */
  get exceeded(): ReadonlySet<string> {
    return new Set(this.#over.keys());
  }

  /** Counts an object. Gives it, or what is left of it if it exceeds a bound or is too much by itself. */
  add(object: KeptObject): KeptObject {
    const { namespace = '', tooMuch } = object;
    if (tooMuch !== undefined) {
      this.#refused.set(namespace, (this.#refused.get(namespace) ?? 0) + 1);
      return { ...emptied(object), tooMuch };
    }
    const bytes = sizeOf(object);
    const own = this.#bytes.get(namespace) ?? 0;
    // What is counted of our kind is in the ledger, too.
    const counted = this.#isCounted ? this : this.#before;
    const held =
      own + this.#ledger.of(namespace) - (counted === undefined ? 0 : (counted.#bytes.get(namespace) ?? 0)) + bytes;
    const all = this.#total + this.#ledger.total - (counted === undefined ? 0 : counted.#total) + bytes;
    const { namespaceBytes, totalBytes } = this.#bounds;
    const isFit = held <= namespaceBytes && (all <= totalBytes || (held <= littleBytes && all <= 2 * totalBytes));
    if (!isFit) {
      this.#over.set(namespace, (this.#over.get(namespace) ?? 0) + 1);
      return emptied(object);
    }
    this.#bytes.set(namespace, own + bytes);
    this.#total += bytes;
    if (this.#isCounted) this.#ledger.add(namespace, bytes);
    return object;
  }

  /** An object that was counted is gone. */
  remove(object: KeptObject): void {
    const { namespace = '' } = object;
    const map = object.tooMuch !== undefined ? this.#refused : object.isOver === true ? this.#over : this.#bytes;
    const bytes = object.isOver === true ? 1 : sizeOf(object);
    const left = (map.get(namespace) ?? 0) - bytes;
    if (left > 0) map.set(namespace, left);
    else map.delete(namespace);
    if (object.isOver === true) return;
    this.#total -= bytes;
    if (this.#isCounted) this.#ledger.add(namespace, -bytes);
  }
}

function emptied({ kind, name, namespace, resourceVersion }: KeptObject): KeptObject {
  return { kind, name, resourceVersion, namespace, text: '', status: undefined, isOver: true };
}

/** Text of other scripts than Latin takes two bytes for each unit; so counted, nothing is underestimated by much. */
function sizeOf({ text, status = '' }: KeptObject): number {
  return Buffer.byteLength(text) + Buffer.byteLength(status);
}
