// The ancestors of a policy as Gateway API's PolicyAncestorStatus has them, and Envoy Gateway writes them: the Gateways
// that a policy has an effect on. `gateway status` names its targets instead, which tells more to those who wrote it.

import type { Condition } from './conditions.ts';
import type { ParentRef } from './documents.ts';
import type { AncestorStatus } from './policies.ts';
import { isBad, type StatusItem, type StatusList } from './status.ts';

/** Of PolicyStatus, with those of other controllers. */
const mostAncestors = 16;

type Ref = AncestorStatus['ancestorRef'];

/**
 * The items of `list`, each policy with one entry for each Gateway of its targets; other items as they are. A target
 * that is not there, or has no Gateway of ours, may be for another controller: it has no entry.
 * @param isThere whether the API server has this object
 */
export function withGateways(
  { items }: StatusList,
  isThere: (kind: string, namespace: string, name: string) => boolean,
): StatusItem[] {
  const gateways = new Map<string, readonly Ref[]>();
  for (const item of items) {
    const key = keyOf(item.kind, item.metadata);
    if ('parents' in item.status && !gateways.has(key)) gateways.set(key, gatewaysOf(item));
  }
  return items.map((item) => {
    const { ancestors } = item.status as { readonly ancestors?: readonly AncestorStatus[] };
    if (ancestors === undefined) return item;
    // What is wrong must not be what is cut off.
    const sorted = ancestors.toSorted((a, b) => Number(isWrong(b)) - Number(isWrong(a)));
    const byGateway = new Map<string, Placed[]>();
    for (const one of sorted) {
      const { ancestorRef: target } = one;
      if (!isThere(target.kind, target.namespace, target.name)) continue;
      for (const ancestorRef of target.kind === 'Gateway' ? [target] : (gateways.get(keyOf(target.kind, target)) ?? []))
        add(byGateway, { ...one, ancestorRef, target });
    }
    return { ...item, status: { ancestors: [...byGateway.values()].map(mergedOf) } };
  });
}

/** No more is made than is written. */
function add(byGateway: Map<string, Placed[]>, placed: Placed): void {
  const key = JSON.stringify(placed.ancestorRef);
  const known = byGateway.get(key);
  if (known !== undefined) known.push(placed);
  else if (byGateway.size < mostAncestors) byGateway.set(key, [placed]);
}

function keyOf(kind: string, { namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${kind} ${namespace}/${name}`;
}

/** The Gateways of a route, each once. */
function gatewaysOf({ metadata, status }: StatusItem): readonly Ref[] {
  const { parents } = status as { readonly parents: readonly { readonly parentRef: ParentRef }[] };
  const refs = parents
    .filter(({ parentRef: { kind = 'Gateway' } }) => kind === 'Gateway')
    .map(({ parentRef: { name, namespace = metadata.namespace } }) => ({
      ...{ group: 'gateway.networking.k8s.io', kind: 'Gateway', name, namespace },
    }));
  return [...new Map(refs.map((one) => [keyOf(one.kind, one), one])).values()].slice(0, mostAncestors);
}

interface Placed extends AncestorStatus {
  readonly target: AncestorStatus['ancestorRef'];
}

/** Of several targets with one Gateway, the condition of each type that is bad counts, and names its target. */
function mergedOf(all: readonly Placed[]): AncestorStatus {
  const { ancestorRef, controllerName } = all[0]!;
  const targets = new Set(all.map(({ target }) => target));
  const named = all.flatMap(({ conditions, target: { kind, name } }) =>
    conditions.map((one) => ({ one, where: `${kind} ${name}` })),
  );
  const conditions = [...Map.groupBy(named, ({ one }) => one.type).values()].map((same): Condition => {
    const { one, where } = same.find((each) => isBad(each.one)) ?? same[0]!;
    return targets.size > 1 && isBad(one) ? { ...one, message: `${where}: ${one.message}` } : one;
  });
  return { ancestorRef, controllerName, conditions };
}

function isWrong({ conditions }: AncestorStatus): boolean {
  return conditions.some(isBad);
}
