// What a status becomes: our entries beside those of other controllers. `parents` of routes and `ancestors` of policies
// are atomic lists in Gateway API's CRDs (`x-kubernetes-list-type`): server-side apply would own all of them, so they are
// read, changed and written with the version that was read. `conditions` and `listeners` of Gateways are maps by type and
// name: those are applied, and fields of others stay.

import { isDeepStrictEqual } from 'node:util';
import { treeOf } from './objects.ts';

type Tree = Readonly<Record<string, unknown>>;

/** How a status is written. */
export type StatusChange =
  /** Server-side apply. */
  | { readonly apply: Tree }
  /** A merge patch with the version that was read. */
  | { readonly replace: Tree };

/** The lists that are atomic, and how many entries a CRD allows. */
const atomic: ReadonlyMap<string, number> = new Map([
  ['parents', 32],
  ['ancestors', 16],
]);

/** metav1.Condition's limit. */
const longestMessage = 32_768;

/**
 * The change that makes `wanted` of `current`; undefined if nothing differs but times. Without `wanted` our entries go.
 * Never throws.
 */
export function changeOf(current: unknown, wanted: unknown, controllerName: string): StatusChange | undefined {
  const before = treeOf(current);
  const list = [...atomic.keys()].find((key) => key in treeOf(wanted ?? before));
  if (list !== undefined) return replaceIn(list, before, treeOf(wanted), controllerName);
  if (wanted === undefined) return undefined;
  const { conditions, listeners } = treeOf(wanted);
  const apply = {
    conditions: conditionsFrom(before['conditions'], conditions),
    ...(listeners === undefined ? {} : { listeners: listenersFrom(before['listeners'], listeners) }),
  };
  const isSame = Object.entries(apply).every(([field, value]) => contains(before[field], value, field === 'listeners'));
  return isSame ? undefined : { apply };
}

function replaceIn(list: string, before: Tree, wanted: Tree, controllerName: string): StatusChange | undefined {
  const all = treesOf(before[list]);
  const isOurs = (entry: Tree): boolean => entry['controllerName'] === controllerName;
  const [own, others] = [all.filter(isOurs), all.filter((entry) => !isOurs(entry))];
  const next = treesOf(wanted[list]).map((entry) => {
    const known = own.find((one) => isDeepStrictEqual(refOf(one), refOf(entry)));
    return { ...entry, conditions: conditionsFrom(known?.['conditions'], entry['conditions']) };
  });
  // A full list of others' entries must not be added to.
  const room = Math.max(0, atomic.get(list)! - others.length);
  const mine = next.slice(0, room);
  return isDeepStrictEqual(own, mine) ? undefined : { replace: { [list]: [...others, ...mine] } };
}

/** Without the defaults that the API server adds. */
function refOf(entry: Tree): Tree {
  const ref = treeOf(entry['parentRef'] ?? entry['ancestorRef']);
  const { group = 'gateway.networking.k8s.io', kind = 'Gateway', ...rest } = ref;
  return { group, kind, ...rest };
}

function listenersFrom(before: unknown, wanted: unknown): Tree[] {
  const known = treesOf(before);
  return treesOf(wanted).map((listener) => {
    const same = known.find(({ name }) => name === listener['name']);
    return { ...listener, conditions: conditionsFrom(same?.['conditions'], listener['conditions']) };
  });
}

/** A condition whose state is the same keeps the time of its last transition. */
function conditionsFrom(before: unknown, wanted: unknown): Tree[] {
  const known = treesOf(before);
  return treesOf(wanted).map((one) => {
    const same = known.find(({ type, status }) => type === one['type'] && status === one['status']);
    const message = String(one['message'] ?? '').slice(0, longestMessage);
    return { ...one, message, ...(same === undefined ? {} : { lastTransitionTime: same['lastTransitionTime'] }) };
  });
}

/** Whether a map of the API server has these entries. A listener too many must go, a condition of another stays. */
function contains(before: unknown, wanted: readonly Tree[], isWhole: boolean): boolean {
  const known = treesOf(before);
  if (isWhole && known.length !== wanted.length) return false;
  return wanted.every((one) => known.some((other) => isDeepStrictEqual(other, one)));
}

function treesOf(value: unknown): readonly Tree[] {
  return Array.isArray(value) ? value.map(treeOf) : [];
}
