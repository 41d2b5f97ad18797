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

/** Objects never change: what is found in one is found once. */
const found = new WeakMap<KeptObject, readonly string[]>();

/** Every reference of a document has a `name`, at whatever depth. */
function namesIn(object: KeptObject): readonly string[] {
  const known = found.get(object);
  if (known !== undefined) return known;
  const isDocument = !Object.hasOwn(nameOf, object.kind);
  const names = isDocument
    ? new Set(Array.from(object.text.matchAll(/"name":"([^"\\]*)"/g), ([, name]) => name!))
    : [nameOf[object.kind]!(object) ?? ''];
  const list = [...names];
  found.set(object, list);
  return list;
}

/** All names that documents mention. */
export function mentionsOf(objects: readonly KeptObject[]): ReadonlySet<string> {
  const documents = objects.filter(({ kind }) => !Object.hasOwn(nameOf, kind));
  return new Set(documents.flatMap((one) => namesIn(one)));
}

/** Without the objects that no document can mean. */
export function onlyMentioned(objects: readonly KeptObject[], mentions: ReadonlySet<string>): KeptObject[] {
  return objects.filter((one) => !Object.hasOwn(nameOf, one.kind) || mentions.has(namesIn(one)[0]!));
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
