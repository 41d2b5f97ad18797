// Which routes may be in force beside what protects, when some of them changed while that was being proven. What was the
// same before and after was there meanwhile. Of a route that changed it is not known which of its versions was: with the
// other policies of a moment earlier or later, either could be open to what it never was.

import type { KeptObject } from './objects.ts';

export interface Settling {
  readonly routeKinds: ReadonlySet<string>;
  /** The documents in force, if what protects has not changed since: their routes were there with it. */
  readonly known: readonly KeptObject[] | undefined;
  /** The documents in force. */
  readonly inForce: readonly KeptObject[] | undefined;
}

/** `isWhole`: no route is left closed because it changed. */
export interface Settled {
  readonly settled: readonly KeptObject[];
  readonly isWhole: boolean;
}

/**
 * The documents `before`, with those of their routes that are the same `now`. One that changed is as it is known to have
 * been, or if it is in force, closed: were it left out, a wider route would take its requests. One that is new waits.
 */
export function settleRoutes(
  before: readonly KeptObject[],
  now: readonly KeptObject[],
  { routeKinds, known, inForce }: Settling,
): Settled {
  const routesOf = (all: readonly KeptObject[] | undefined): ReadonlyMap<string, KeptObject> =>
    new Map((all ?? []).flatMap((one) => (routeKinds.has(one.kind) ? [[keyOf(one), one] as const] : [])));
  const [fresh, sure, served] = [routesOf(now), routesOf(known), routesOf(inForce)];
  let isWhole = true;
  const settled = before.flatMap((one): readonly KeptObject[] => {
    if (!routeKinds.has(one.kind)) return [one];
    const key = keyOf(one);
    const next = fresh.get(key);
    if (next?.text === one.text) return [next];
    if (known !== undefined) return [sure.get(key) ?? []].flat();
    isWhole = false;
    return served.has(key) ? [closed(next ?? one)] : [];
  });
  return { settled, isWhole };
}

/** It takes its requests, and answers 500 for want of a backend. */
function closed(route: KeptObject): KeptObject {
  const { apiVersion, kind, metadata, spec } = JSON.parse(route.text);
  const { parentRefs, hostnames, rules } = spec ?? {};
  const emptied = Array.isArray(rules) ? rules.map(({ name, matches }) => ({ name, matches })) : rules;
  return {
    ...route,
    text: JSON.stringify({ apiVersion, kind, metadata, spec: { parentRefs, hostnames, rules: emptied } }),
  };
}

function keyOf({ kind, namespace, name }: KeptObject): string {
  return `${kind} ${namespace}/${name}`;
}
