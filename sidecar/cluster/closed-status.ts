// The status of a document whose namespace is closed: it said `Accepted` when it was in force, and is not served now.

import { parsed } from './client.ts';
import { type KeptObject, treeOf } from './objects.ts';
import type { ClosedDocument } from './store.ts';

type Tree = Readonly<Record<string, unknown>>;

const reason = 'NamespaceClosed';

/**
 * What its status becomes; undefined if it says nothing of us. `classes` are the GatewayClasses of our controller, `now`
 * is in milliseconds.
 */
export function closedStatus(
  { object, why }: ClosedDocument,
  controllerName: string,
  classes: ReadonlySet<string>,
  now: number,
): object | undefined {
  const { kind, namespace, status, text } = object;
  if (status === undefined || (kind !== 'Gateway' && !status.includes(controllerName))) return undefined;
  const { metadata, spec } = treeOf(parsed(text));
  const say = (type: string): Tree => ({
    ...{ type, status: 'False', reason },
    message: `no document of namespace ${namespace} is in force: ${why}`,
    observedGeneration: treeOf(metadata)['generation'],
    lastTransitionTime: new Date(now).toISOString().replace(/\.\d+Z$/, 'Z'),
  });
  if (kind === 'Gateway')
    return classes.has(treeOf(spec)['gatewayClassName'] as string)
      ? { conditions: [say('Accepted'), say('Programmed')] }
      : undefined;
  const before = treeOf(parsed(status));
  const list = ['parents', 'ancestors'].find((one) => Array.isArray(before[one]));
  if (list === undefined) return undefined;
  const entries = (before[list] as readonly unknown[]).map(treeOf);
  return { [list]: entries.map((entry) => ({ ...entry, conditions: [say('Accepted')] })) };
}

/** The GatewayClasses of a controller. */
export function classesOf(objects: readonly KeptObject[], controllerName: string): ReadonlySet<string> {
  const isOurs = ({ text }: KeptObject): boolean =>
    treeOf(treeOf(parsed(text))['spec'])['controllerName'] === controllerName;
  return new Set(objects.flatMap((one) => (one.kind === 'GatewayClass' && isOurs(one) ? one.name : [])));
}
