// Whether documents are the same at two times, and a route that answers nothing but 500.

import { parsed } from './client.ts';
import { type KeptObject, treeOf } from './objects.ts';

/** The namespaces with a document that is only in one of them, or has another text; '' for those without one. */
export function namespacesThatDiffer(before: readonly KeptObject[], now: readonly KeptObject[]): ReadonlySet<string> {
  const left = new Map(before.map((one) => [keyOf(one), one]));
  const found = new Set<string>();
  for (const one of now) {
    const key = keyOf(one);
    if (left.get(key)?.text !== one.text) found.add(one.namespace ?? '');
    left.delete(key);
  }
  for (const { namespace = '' } of left.values()) found.add(namespace);
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
