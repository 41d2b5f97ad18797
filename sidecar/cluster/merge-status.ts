// What a status becomes: our entries beside those of other controllers, and of other gateways of ours. `parents` of
// routes and `ancestors` of policies are atomic lists in Gateway API's CRDs (`x-kubernetes-list-type`): server-side
// apply would own all of them, so they are read, changed and written with the version that was read. `conditions`
// and `listeners` of Gateways are maps by type and name: those are applied, and fields of others stay.

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

/** Which entries of a status are ours. */
export interface Owner {
  readonly controllerName: string;
  /** Of the object with the status. */
  readonly namespace: string | undefined;
  /**
   * Whether we follow a namespace. Several gateways of one controllerName may share a cluster, each with its own
   * namespaces. What an entry refers to is served, or known to be gone, by those that follow its namespace.
   */
  follows(namespace: string | undefined): boolean;
}

/**
 * The change that makes `wanted` of `current`; undefined if nothing differs but times. Without `wanted` our entries go.
 * Never throws.
 */
export function changeOf(current: unknown, wanted: unknown, owner: Owner): StatusChange | undefined {
  const before = treeOf(current);
  const list = [...atomic.keys()].find((key) => key in treeOf(wanted ?? before));
  if (list !== undefined) return replaceIn(list, before, treeOf(wanted), owner);
  if (wanted === undefined) return undefined;
  const { conditions, listeners } = treeOf(wanted);
  const apply = {
    conditions: conditionsFrom(before['conditions'], conditions),
    ...(listeners === undefined ? {} : { listeners: listenersFrom(before['listeners'], listeners) }),
  };
  const isSame = Object.entries(apply).every(([field, value]) => contains(before[field], value, field === 'listeners'));
  return isSame ? undefined : { apply };
}

function replaceIn(list: string, before: Tree, wanted: Tree, owner: Owner): StatusChange | undefined {
  const all = treesOf(before[list]);
  const own = all.filter((entry) => isOf(owner, entry));
  const next = treesOf(wanted[list])
    .filter((entry) => isOf(owner, entry))
    .map((entry) => {
      const known = own.find((one) => isSameRef(one, entry));
      return { ...entry, conditions: conditionsFrom(known?.['conditions'], entry['conditions']) };
    });
  // Each stays where it is: gateways that each put theirs last would rewrite the list for ever.
  const left = new Set(next);
  const kept = all.flatMap((entry): readonly Tree[] => {
    if (!isOf(owner, entry)) return [entry];
    const mine = [...left].find((one) => isSameRef(one, entry));
    if (mine === undefined) return [];
    left.delete(mine);
    return [mine];
  });
  // A full list of others' entries must not be added to.
  const room = Math.max(0, atomic.get(list)! - kept.length);
  const result = [...kept, ...[...left].slice(0, room)];
  return isDeepStrictEqual(all, result) ? undefined : { replace: { [list]: result } };
}

/** Of our controller, and of a Gateway in a namespace that we follow. */
function isOf({ controllerName, namespace, follows }: Owner, entry: Tree): boolean {
  const { namespace: said = namespace } = refOf(entry);
  return entry['controllerName'] === controllerName && follows(typeof said === 'string' ? said : undefined);
}

function isSameRef(one: Tree, other: Tree): boolean {
  return isDeepStrictEqual(refOf(one), refOf(other));
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
