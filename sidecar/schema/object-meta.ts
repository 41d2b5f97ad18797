// What Kubernetes allows in `metadata`. Anything else there is a line with the wrong indentation, and what it was to do
// would not be done: `kubectl apply` refuses it too.

import type { z } from 'zod';

/** The fields of ObjectMeta, with those that servers wrote in earlier versions. */
const fields = new Set([
  ...['name', 'generateName', 'namespace', 'labels', 'annotations', 'uid', 'resourceVersion', 'generation'],
  ...['creationTimestamp', 'deletionTimestamp', 'deletionGracePeriodSeconds', 'ownerReferences', 'finalizers'],
  ...['managedFields', 'selfLink', 'clusterName', 'initializers'],
]);

/** For `superRefine`: an unknown key is reported as by a strict schema. */
export function refuseOtherFields(metadata: Record<string, unknown>, context: z.RefinementCtx): void {
  const keys = Object.keys(metadata).filter((key) => !fields.has(key));
  if (keys.length > 0) context.addIssue({ code: 'unrecognized_keys', keys, input: metadata });
}
