// Failures that show only when rules are compiled: a missing Secret, a limit that needs Redis, a backend that would get
// plaintext. They belong in the statuses as much as those found before.

import type { Condition } from '../routing/conditions.ts';
import type { StatusItem, StatusList } from '../routing/status.ts';

/** Why something that was accepted is not served as intended. */
export interface Failure {
  /** The route or the policy. */
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  /**
   * `Accepted` for a policy, or the type of a capability's review; for a route `PartiallyInvalid`, or Envoy Gateway's
   * `BackendsAvailable`.
   */
  readonly type: string;
  readonly reason: string;
  readonly message: string;
}

interface Part {
  readonly conditions: readonly Condition[];
}

/** The statuses with the failures added. Throws nothing. */
export function withFailures(list: StatusList, failures: readonly Failure[]): StatusList {
  const byDocument = Map.groupBy(failures, ({ kind, namespace, name }) => `${kind} ${namespace}/${name}`);
  return {
    ...list,
    items: list.items.map((item) => {
      const own = byDocument.get(`${item.kind} ${item.metadata.namespace}/${item.metadata.name}`);
      return own === undefined ? item : withOwn(item, own);
    }),
  };
}

function withOwn(item: StatusItem, own: readonly Failure[]): StatusItem {
  const { parents, ancestors } = item.status as { parents?: readonly Part[]; ancestors?: readonly Part[] };
  return {
    ...item,
    status: {
      ...item.status,
      ...(parents === undefined ? {} : { parents: parents.map((one) => withConditions(one, own)) }),
      ...(ancestors === undefined ? {} : { ancestors: ancestors.map((one) => withConditions(one, own)) }),
    },
  };
}

/** One condition of each type; it replaces the one from before the rules were compiled. */
function withConditions<P extends Part>(part: P, own: readonly Failure[]): P {
  const [like] = part.conditions;
  // What is not accepted was not compiled: another part of the same document failed.
  if (like === undefined || like.status !== 'True') return part;
  const added = [...Map.groupBy(own, ({ type }) => type)].map(
    ([type, all]): Condition => ({
      ...like,
      type,
      status: type === 'PartiallyInvalid' ? 'True' : 'False',
      reason: all[0]!.reason,
      message: [
        // Earlier messages about other rules are kept.
        ...(type === 'PartiallyInvalid' ? part.conditions.filter((one) => one.type === type) : []),
        ...all.map(({ message }) => ({ message: type === 'PartiallyInvalid' ? `Dropped Rule: ${message}` : message })),
      ]
        .map(({ message }) => message)
        .join('; '),
    }),
  );
  return {
    ...part,
    conditions: [...part.conditions.filter(({ type }) => added.every((one) => one.type !== type)), ...added],
  };
}
