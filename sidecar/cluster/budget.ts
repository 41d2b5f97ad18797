// How many bytes of objects are kept, of all kinds together: for each namespace, and in total. One tenant's objects must
// not take the memory of all, and must not keep those of others away: the largest namespace gives way.

import { getHeapStatistics } from 'node:v8';
import type { KeptObject } from './objects.ts';

/** Bytes. */
export interface Bounds {
  /** In one namespace. */
  readonly namespaceBytes: number;
  /**
   * Of all namespaces. Three quarters are for those that have more than a little, and the largest of these gives way to
   * the others.
   */
  readonly totalBytes: number;
}

const mebibyte = 1024 * 1024;

/** Whether a namespace with so many bytes may have of the last quarter. */
const isLittle = (bytes: number): boolean => bytes <= mebibyte;
const shareForAll = 0.75;

/**
 * Bounds for a heap of this size. Of all that objects cost, their text in our heap is the smallest part: the process that
 * reads documents gets a copy, makes trees of it, and shares the container's memory with us.
 */
export function boundsOf(heapBytes = getHeapStatistics().heap_size_limit): Bounds {
  const totalBytes = Math.min(256 * mebibyte, Math.floor(heapBytes / 8));
  return { totalBytes, namespaceBytes: Math.min(32 * mebibyte, Math.floor(totalBytes / 4)) };
}

/** The bytes of all kinds, and the namespaces of which nothing is kept because others need the room. */
export class Ledger {
  readonly #bytes = new Map<string, number>();
  /** Without what is about to be forgotten. */
  #total = 0;
  /** The part of it that is of what has no namespace, or of a namespace with more than a little. */
  #large = 0;
  readonly #gaveWay = new Set<string>();
  /** Called when a namespace gives way: its objects are to be dropped soon. */
  onGiveWay: () => void = () => {};

  /** Without what is about to be forgotten. */
  get total(): number {
    return this.#total;
  }

  of(namespace: string): number {
    return this.#bytes.get(namespace) ?? 0;
  }

  add(namespace: string, bytes: number): void {
    const before = this.of(namespace);
    const sum = before + bytes;
    if (sum > 0) this.#bytes.set(namespace, sum);
    else this.#bytes.delete(namespace);
    if (!this.gaveWay(namespace)) this.#change(namespace, before, Math.max(0, sum));
  }

  /** The bytes of what has no namespace, and of the namespaces that have more than a little, without this one. */
  largeBut(namespace: string): number {
    return this.#large - (this.gaveWay(namespace) ? 0 : largePart(namespace, this.of(namespace)));
  }

  gaveWay(namespace: string): boolean {
    return this.#gaveWay.has(namespace);
  }

  #change(namespace: string, before: number, now: number): void {
    this.#total += now - before;
    this.#large += largePart(namespace, now) - largePart(namespace, before);
  }

  #leave(namespace: string): void {
    this.#gaveWay.add(namespace);
    this.#change(namespace, this.of(namespace), 0);
  }

  #return(namespace: string): void {
    if (this.#gaveWay.delete(namespace)) this.#change(namespace, 0, this.of(namespace));
  }

  /**
   * The largest namespace gives way to one that would have this many bytes. False if none is larger. What has no
   * namespace never does: all need it.
   */
  makeRoom(bytes: number): boolean {
    let largest: readonly [string, number] | undefined;
    for (const one of this.#bytes)
      if (one[0] !== '' && !this.gaveWay(one[0]) && one[1] > (largest?.[1] ?? bytes)) largest = one;
    if (largest === undefined) return false;
    this.#leave(largest[0]);
    this.onGiveWay();
    return true;
  }

  /**
   * Decides anew which namespaces have room, the smallest first, by the `sizes` of now: the bytes of what they have, kept
   * or not. What was decided while they grew, or were listed, depends on who came first.
   */
  letBack(sizes: ReadonlyMap<string, number>, { namespaceBytes, totalBytes }: Bounds): void {
    let sum = sizes.get('') ?? 0;
    let large = sum;
    let isNew = false;
    const rank = ([name, bytes]: readonly [string, number]): number => bytes + (this.gaveWay(name) ? 0.5 : 0);
    for (const [namespace, bytes] of [...sizes].sort((a, b) => rank(a) - rank(b))) {
      if (namespace === '') continue;
      const largeWith = large + (isLittle(bytes) ? 0 : bytes);
      // Beyond its own bound it is closed anyway: what is kept of it would be room that others need.
      if (bytes <= namespaceBytes && sum + bytes <= totalBytes && largeWith <= shareForAll * totalBytes) {
        [sum, large] = [sum + bytes, largeWith];
        this.#return(namespace);
      } else if (!this.gaveWay(namespace)) {
        this.#leave(namespace);
        isNew = true;
      }
    }
    // Whatever is left of one that is not there any more.
    for (const one of this.#gaveWay) if (!sizes.has(one)) this.#return(one);
    if (isNew) this.onGiveWay();
  }
}

function largePart(namespace: string, bytes: number): number {
  return namespace === '' || !isLittle(bytes) ? bytes : 0;
}

/**
 * The bytes of one kind's objects: those that are followed, or a list that is under way and may replace them. Of both, the
 * ledger has whichever is more in a namespace: most of a list is what is followed already.
 */
export class Budget {
  readonly #bounds: Bounds;
  readonly #ledger: Ledger;
  /** Of a list: the budget of the objects that it may replace. */
  #followed: Budget | undefined;
  /** The last list that may replace our objects. */
  #list: Budget | undefined = undefined;
  readonly #bytes = new Map<string, number>();
  readonly #over = new Map<string, number>();
  readonly #refused = new Map<string, number>();

  /** With `followed` it is that of a list: `count` or `drop` ends it. */
  constructor(bounds: Bounds, ledger = new Ledger(), followed?: Budget) {
    this.#bounds = bounds;
    this.#ledger = ledger;
    this.#followed = followed;
    if (followed === undefined) return;
    if (followed.#list !== undefined) followed.#list.drop();
    followed.#list = this;
  }

  /** The objects of a list are those that are followed from now on. */
  count(): void {
    const followed = this.#followed;
    if (followed === undefined) return;
    if (followed.#list !== undefined) followed.#list.drop();
    this.#followed = undefined;
    for (const [namespace, bytes] of followed.#bytes) this.#ledger.add(namespace, -bytes);
    for (const [namespace, bytes] of this.#bytes) this.#ledger.add(namespace, bytes);
  }

  /** The objects of a list are not taken. */
  drop(): void {
    const followed = this.#followed;
    if (followed === undefined || followed.#list !== this) return;
    followed.#list = undefined;
    for (const [namespace, bytes] of this.#bytes)
      this.#ledger.add(namespace, -Math.max(0, bytes - followed.#bytesOf(namespace)));
  }

  /** The namespaces with objects that are not kept; empty for a kind without namespaces. */
  get over(): ReadonlySet<string> {
    return new Set([...this.#over.keys(), ...this.#refused.keys()]);
  }

  /** Those of them that have too many bytes. */
  get exceeded(): ReadonlySet<string> {
    return new Set(this.#over.keys());
  }

  /**
   * Counts an object in place of a `known` one. Gives it, or what is left of it if it exceeds a bound or is too much by
   * itself. What does not grow fits: what others have must not close a namespace that changes something.
   */
  add(object: KeptObject, known?: KeptObject): KeptObject {
    const { namespace = '', tooMuch, weight } = object;
    if (known !== undefined) this.remove(known);
    if (tooMuch !== undefined) {
      this.#refused.set(namespace, (this.#refused.get(namespace) ?? 0) + 1);
      return { ...emptied(object), tooMuch };
    }
    const more = this.#moreWith(namespace, weight);
    const held = known?.isOver === true ? 0 : (known?.weight ?? 0);
    if (weight > held && !this.#isFit(namespace, more)) {
      this.#over.set(namespace, (this.#over.get(namespace) ?? 0) + 1);
      return emptied(object);
    }
    this.#ledger.add(namespace, more);
    this.#bytes.set(namespace, this.#bytesOf(namespace) + weight);
    return object;
  }

  /** What is left of an object whose namespace gives way. */
  giveUp(object: KeptObject): KeptObject {
    const { namespace = '' } = object;
    this.remove(object);
    this.#over.set(namespace, (this.#over.get(namespace) ?? 0) + 1);
    return emptied(object);
  }

  /** An object that was counted is gone. */
  remove({ namespace = '', isOver, tooMuch, weight }: KeptObject): void {
    if (isOver !== true) this.#ledger.add(namespace, this.#moreWith(namespace, -weight));
    const map = tooMuch !== undefined ? this.#refused : isOver === true ? this.#over : this.#bytes;
    const left = (map.get(namespace) ?? 0) - (isOver === true ? 1 : weight);
    if (left > 0) map.set(namespace, left);
    else map.delete(namespace);
  }

  #bytesOf(namespace: string): number {
    return this.#bytes.get(namespace) ?? 0;
  }

  /** What changes in the ledger if we have so many bytes more. */
  #moreWith(namespace: string, bytes: number): number {
    const own = this.#bytesOf(namespace);
    // Of a list that another one has displaced nothing is counted: it will not be taken.
    if (this.#followed !== undefined && this.#followed.#list !== this) return 0;
    const other = this.#followed ?? this.#list;
    const least = other === undefined ? 0 : other.#bytesOf(namespace);
    return Math.max(own + bytes, least) - Math.max(own, least);
  }

  #isFit(namespace: string, more: number): boolean {
    const { namespaceBytes, totalBytes } = this.#bounds;
    if (this.#ledger.gaveWay(namespace)) return false;
    if (more === 0) return true;
    const held = this.#ledger.of(namespace) + more;
    if (held > namespaceBytes) return false;
    const total = this.#ledger.total + more;
    if (total <= shareForAll * totalBytes) return true;
    const isAlwaysFit = isLittle(held) || namespace === '';
    if (total <= totalBytes && (isAlwaysFit || this.#ledger.largeBut(namespace) + held <= shareForAll * totalBytes))
      return true;
    return this.#ledger.makeRoom(namespace === '' ? 0 : held);
  }
}

/** Its weight stays, because it would have that once there is room. */
function emptied({ kind, name, namespace, resourceVersion, weight }: KeptObject): KeptObject {
  return { kind, name, resourceVersion, namespace, text: '', status: undefined, weight, isOver: true };
}
