// The ancestors of a policy as Gateway API's PolicyAncestorStatus has them, and Envoy Gateway writes them: the Gateways
// that a policy has an effect on. `gateway status` names its targets instead, which tells more to those who wrote it.

import type { Condition } from './conditions.ts';
import type { ParentRef } from './documents.ts';
import type { AncestorStatus } from './policies.ts';
import { isBad, type StatusItem, type StatusList } from './status.ts';

/** Of PolicyStatus, with those of other controllers. */
const mostAncestors = 16;

/**
 * The policy `item` with one entry for each Gateway of its targets; other items as they are. A target that is not there,
 * or has no Gateway of ours, may be for another controller: it has no entry.
 * @param isThere whether the API server has this object
 */
export function withGateways(
  item: StatusItem,
  list: StatusList,
  isThere: (kind: string, namespace: string, name: string) => boolean,
): StatusItem {
  const { ancestors } = item.status as { readonly ancestors?: readonly AncestorStatus[] };
  if (ancestors === undefined) return item;
  const known = ancestors.filter(({ ancestorRef: { kind, namespace, name } }) => isThere(kind, namespace, name));
  const placed = known.flatMap((one) =>
    gatewaysOf(one.ancestorRef, list).map((ancestorRef) => ({ ...one, ancestorRef, target: one.ancestorRef })),
  );
  const byGateway = [...Map.groupBy(placed, ({ ancestorRef }) => JSON.stringify(ancestorRef)).values()];
  const merged = byGateway.map(mergedOf);
  // What is wrong must not be what is cut off.
  const sorted =
    merged.length <= mostAncestors ? merged : merged.toSorted((a, b) => Number(isWrong(b)) - Number(isWrong(a)));
  return { ...item, status: { ancestors: sorted.slice(0, mostAncestors) } };
}

function gatewaysOf(target: AncestorStatus['ancestorRef'], { items }: StatusList): AncestorStatus['ancestorRef'][] {
  if (target.kind === 'Gateway') return [target];
  const route = items.find(
    ({ kind, metadata: { namespace, name } }) =>
      kind === target.kind && namespace === target.namespace && name === target.name,
  );
  const { parents = [] } = (route?.status ?? {}) as { readonly parents?: readonly { readonly parentRef: ParentRef }[] };
  return parents
    .filter(({ parentRef: { kind = 'Gateway' } }) => kind === 'Gateway')
    .map(({ parentRef: { name, namespace = target.namespace } }) => ({
      ...{ group: 'gateway.networking.k8s.io', kind: 'Gateway', name, namespace },
    }));
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
