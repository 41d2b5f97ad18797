// Which Secrets, ConfigMaps, Services and EndpointSlices documents may refer to. A cluster has many that no document
// names, and they change all the time: nothing is to be read again for these. Too many are taken rather than too few.

import type { KeptObject } from './objects.ts';

/** What of an object's text names it in documents. The rest are documents themselves. */
const nameOf: Readonly<Record<string, (object: KeptObject) => string | undefined>> = {
  Secret: ({ name }) => name,
  ConfigMap: ({ name }) => name,
  Service: ({ name }) => name,
  EndpointSlice: ({ text }) => /"kubernetes\.io\/service-name":"([^"\\]*)"/.exec(text)?.[1],
};

/** The names in a document, for all who ask. */
const namesOf = new WeakMap<KeptObject, readonly string[]>();

/** The names that documents mention. A change costs what changed: one document may have 100,000 names. */
export class Mentions {
  #documents: ReadonlySet<KeptObject> = new Set();
  /** How many documents mention a name. */
  readonly #counts = new Map<string, number>();

  /** Takes the documents that count from now on. */
  update(objects: readonly KeptObject[]): void {
    const next = new Set(objects.filter(({ kind }) => !Object.hasOwn(nameOf, kind)));
    for (const one of next) if (!this.#documents.has(one)) this.#count(one, 1);
    for (const one of this.#documents) if (!next.has(one)) this.#count(one, -1);
    this.#documents = next;
  }

  /** Without the objects that no document can mean. */
  only(objects: readonly KeptObject[]): KeptObject[] {
    return objects.filter((one) => !Object.hasOwn(nameOf, one.kind) || this.#counts.has(nameOf[one.kind]!(one) ?? ''));
  }

  #count(object: KeptObject, by: 1 | -1): void {
    for (const name of this.#namesIn(object)) {
      const count = (this.#counts.get(name) ?? 0) + by;
      if (count > 0) this.#counts.set(name, count);
      else this.#counts.delete(name);
    }
  }

  /** Every reference of a document has a `name`, at whatever depth. */
  #namesIn(object: KeptObject): readonly string[] {
    const known = namesOf.get(object);
    if (known !== undefined) return known;
    const found = new Set(Array.from(object.text.matchAll(/"name":"([^"\\]*)"/g), ([, name]) => name!));
    const names = [...found];
    namesOf.set(object, names);
    return names;
  }
}

/** Whether two states say the same: versions and statuses aside. */
export function sameTexts(a: readonly KeptObject[], b: readonly KeptObject[]): boolean {
  return (
    a.length === b.length &&
    a.every((one, i) => {
      const other = b[i]!;
      return one === other || (one.text === other.text && one.kind === other.kind && sameName(one, other));
    })
  );
}

function sameName(a: KeptObject, b: KeptObject): boolean {
  return a.name === b.name && a.namespace === b.namespace;
}
