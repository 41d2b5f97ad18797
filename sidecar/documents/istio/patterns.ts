// The common parts of Istio's security documents: names, selectors, targets, and their problems.

import { z } from 'zod';
import type { AuthorizationPolicy } from '../../policy/policy.ts';
import { refuseOtherFields } from '../../schema/object-meta.ts';

/** Purpose of reading: `run` to enforce, `check` to validate like Istio, `eval` to answer hypothetical requests. */
export type Purpose = 'run' | 'check' | 'eval';

const nonEmpty = z.string().min(1, 'an empty value matches nothing: omit it');

/** A list of values; an empty one counts as absent, as in Istio. */
export const values = z.array(nonEmpty);

/** A list whose values `problemOf` checks. */
export function checked(problemOf: (value: string) => string | undefined): z.ZodType<string[]> {
  return z.array(
    nonEmpty.superRefine((value, context) => {
      const message = value === '' ? undefined : problemOf(value);
      if (message !== undefined) context.addIssue({ code: 'custom', message });
    }),
  ) as unknown as z.ZodType<string[]>;
}

const name = z
  .string()
  .regex(/^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/, 'a name consists of a-z, 0-9, dots and dashes');

/** Of the documents of security.istio.io. Both versions have the same fields. */
export const apiVersion = z
  .enum(['security.istio.io/v1', 'security.istio.io/v1beta1'])
  .describe('The API version of the document.');

// Kubernetes adds fields that do not matter here (uid, resourceVersion, managedFields). Only the dry-run annotation,
// and the age that decides between two documents of one scope, affect authorization.
export const metadata = z
  .looseObject({
    name: name.describe('The name of the document.'),
    namespace: name
      .default('default')
      .describe('The namespace of the document. A sidecar reads those of its own namespace and of the root namespace.'),
    annotations: z
      .record(z.string(), z.string())
      .optional()
      .describe('Annotations. Only `istio.io/dry-run` has an effect, on an AuthorizationPolicy.'),
    creationTimestamp: z.iso
      .datetime({ offset: true })
      .nullish()
      .describe('When the document was made, an ISO time. Of two that clash, the older one counts.'),
  })
  .superRefine(refuseOtherFields)
  .describe('Names the document. The other fields that Kubernetes knows have no effect.');

/** Istio's annotation of policies that are evaluated and not enforced. */
export const dryRunAnnotation = 'istio.io/dry-run';

/** Of the kinds that have no dry run: the annotation would be believed, and the document enforced. Istio's rule. */
export const enforcedMetadata = metadata.superRefine(({ annotations = {} }, context) => {
  if (Object.hasOwn(annotations, dryRunAnnotation))
    context.addIssue({
      code: 'custom',
      path: ['annotations', dryRunAnnotation],
      message: 'only an AuthorizationPolicy has a dry run: this document would be in force',
    });
});

/** The workloads of a policy, by all of the labels. Without labels it is as if absent. */
export const selector = z
  .strictObject({
    matchLabels: z
      .record(z.string(), z.string())
      .superRefine((labels, context) => {
        for (const [key, value] of Object.entries(labels)) {
          if (key === '') context.addIssue({ code: 'custom', message: 'a label needs a name' });
          else if (key.includes('*') || value.includes('*'))
            context.addIssue({ code: 'custom', path: [key], message: 'a selector has no wildcards' });
          else if (value.length > 63)
            context.addIssue({ code: 'custom', path: [key], message: "a label's value has at most 63 characters" });
        }
      })
      .optional()
      .describe('Labels that a workload must all have.'),
  })
  .optional();

/** The kinds of targets. */
const targets: Readonly<Record<string, string>> = {
  Service: '',
  ServiceEntry: 'networking.istio.io',
  Gateway: 'gateway.networking.k8s.io',
  GatewayClass: 'gateway.networking.k8s.io',
};

/** A target for gateways and waypoints. A sidecar refuses the document (`refuseUnenforced`). */
export const targetRef = z
  .strictObject({
    group: z.string().max(253).default('').describe('The API group of the target; empty for a Service.'),
    kind: z.string().min(1).max(63).describe('The kind of the target: Service, ServiceEntry, Gateway or GatewayClass.'),
    name: z.string().min(1, 'a target needs a name').max(253).describe('The name of the target.'),
    namespace: z
      .string()
      .optional()
      .describe('The namespace of the target, which must be that of the document: leave it out.'),
  })
  .superRefine(({ group, kind, namespace }, context) => {
    if (namespace !== undefined && namespace !== '')
      context.addIssue({
        code: 'custom',
        path: ['namespace'],
        message: 'a target must be in the namespace of its policy',
      });
    const wanted = targets[kind];
    if (wanted === undefined || (group === 'core' ? '' : group) !== wanted)
      context.addIssue({
        code: 'custom',
        path: ['kind'],
        message: `'${group === '' ? kind : `${group}/${kind}`}' is not a target: ${Object.entries(targets)
          .map(([one, of]) => (of === '' ? one : `${of}/${one}`))
          .join(', ')}`,
      });
  });

/** How a policy is attached. At most one of them is set (`refuseTwoTargets`). */
export const targetFields = {
  selector: selector.describe(
    'The workloads that the document is for. Without it: all of the namespace, or of the mesh in the root namespace.',
  ),
  targetRef: targetRef
    .optional()
    .describe('The gateway or waypoint that the document is for. A sidecar refuses a document with it.'),
  targetRefs: z
    .array(targetRef)
    .max(16, 'a policy has at most 16 targets')
    .optional()
    .describe('The gateways or waypoints that the document is for. A sidecar refuses a document with it.'),
};

/** Allows only one of selector, targetRef and targetRefs. */
export function refuseTwoTargets(
  value: {
    readonly selector?: unknown;
    readonly targetRef?: unknown;
    readonly targetRefs?: readonly unknown[] | undefined;
  },
  context: z.RefinementCtx,
): void {
  const set = [value.selector, value.targetRef, value.targetRefs?.length ? value.targetRefs : undefined];
  if (set.filter((one) => one !== undefined).length < 2) return;
  context.addIssue({
    code: 'custom',
    path: [value.targetRefs?.length ? 'targetRefs' : 'targetRef'],
    message: "only one of 'selector', 'targetRef' and 'targetRefs' can be set",
  });
}

type Spec = z.output<z.ZodObject<typeof targetFields>>;

/** What a document is attached to. */
export function attachment({
  selector: by,
  targetRef: one,
  targetRefs: list = [],
}: Spec): Pick<AuthorizationPolicy, 'matchLabels' | 'targetRefs'> {
  const refs = [...(one === undefined ? [] : [one]), ...list].map(({ group, kind, name: of }) => ({
    group,
    kind,
    name: of,
  }));
  return {
    ...(Object.keys(by?.matchLabels ?? {}).length === 0 ? {} : { matchLabels: by!.matchLabels! }),
    ...(refs.length === 0 ? {} : { targetRefs: refs }),
  };
}

/** Reported only if the object is empty in the source, not if it is empty after removing a reported unknown key. */
export const notEmpty = (message: string) => ({
  error: message,
  when: ({ issues }: { readonly issues: readonly unknown[] }) => issues.length === 0,
});

/** True if any list in it has a value. */
export function hasValues(value: object): boolean {
  return Object.values(value).some((one) => Array.isArray(one) && one.length > 0);
}
