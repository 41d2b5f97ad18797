// How much text of one kind is kept, in bytes: for each namespace, and in total. One tenant's objects must not take the
// memory of all, and must not keep those of others away.

import type { KeptObject } from './objects.ts';

/** Bytes. */
export interface Bounds {
  /** Of one kind in one namespace. */
  readonly namespaceBytes: number;
  /** Of one kind. Beyond it, only namespaces with little still get more, up to twice as much. */
  readonly totalBytes: number;
}

/** What a namespace may always have. */
const littleBytes = 1024 * 1024;

/** The bytes of one kind's objects. */
export class Budget {
  readonly #bounds: Bounds;
  readonly #bytes = new Map<string, number>();
  readonly #over = new Map<string, number>();
  readonly #refused = new Map<string, number>();
  #total = 0;

  constructor(bounds: Bounds) {
    this.#bounds = bounds;
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
    const held = this.#bytes.get(namespace) ?? 0;
    const { namespaceBytes, totalBytes } = this.#bounds;
    const isFit =
      held + bytes <= namespaceBytes &&
      (this.#total + bytes <= totalBytes || (held + bytes <= littleBytes && this.#total + bytes <= 2 * totalBytes));
    if (!isFit) {
      this.#over.set(namespace, (this.#over.get(namespace) ?? 0) + 1);
      return emptied(object);
    }
    this.#bytes.set(namespace, held + bytes);
    this.#total += bytes;
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
    if (object.isOver !== true) this.#total -= bytes;
  }
}

function emptied({ kind, name, namespace, resourceVersion }: KeptObject): KeptObject {
  return { kind, name, resourceVersion, namespace, text: '', status: undefined, isOver: true };
}

/** Text of other scripts than Latin takes two bytes for each unit; so counted, nothing is underestimated by much. */
function sizeOf({ text, status = '' }: KeptObject): number {
  return Buffer.byteLength(text) + Buffer.byteLength(status);
}
