// Whether documents are the same at two times, and a route that answers nothing but 500.

import { parsed } from './client.ts';
import { type KeptObject, treeOf } from './objects.ts';

/** The kinds of documents that differ, by namespace; '' for those without one. */
export type Differences = ReadonlyMap<string, ReadonlySet<string>>;

/** Documents that are only in one of them, or have another text. */
export function differencesOf(before: readonly KeptObject[], now: readonly KeptObject[]): Differences {
  const left = new Map(before.map((one) => [keyOf(one), one]));
  const found = new Map<string, Set<string>>();
  const differs = ({ kind, namespace = '' }: KeptObject): void => {
    const kinds = found.get(namespace) ?? new Set();
    found.set(namespace, kinds.add(kind));
  };
  for (const one of now) {
    const key = keyOf(one);
    if (left.get(key)?.text !== one.text) differs(one);
    left.delete(key);
  }
  for (const one of left.values()) differs(one);
  return found;
}

/** It takes its requests, and answers 500 for want of a backend. */
export function closedRoute(route: KeptObject): KeptObject {
  const { apiVersion, kind, metadata, spec } = treeOf(parsed(route.text));
  const { parentRefs, hostnames, rules } = treeOf(spec);
  const emptied = Array.isArray(rules)
    ? rules.map((rule) => ({ name: treeOf(rule)['name'], matches: treeOf(rule)['matches'] }))
    : rules;
  return {
    ...route,
    text: JSON.stringify({ apiVersion, kind, metadata, spec: { parentRefs, hostnames, rules: emptied } }),
  };
}

function keyOf({ kind, namespace, name }: KeptObject): string {
  return `${kind} ${namespace}/${name}`;
}
