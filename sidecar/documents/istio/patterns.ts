// What Istio's security documents have in common: names, selectors, targets, and how problems are said.

import { z } from 'zod';

/** Who reads: a proxy that will enforce it, Istio's own validation, or a question about what it would decide. */
export type Purpose = 'run' | 'check' | 'eval';

const nonEmpty = z.string().min(1, 'an empty value matches nothing: leave it out');

/** A list of values; an empty one is the same as none, as in Istio. */
export const values = z.array(nonEmpty);

/** A list whose values `problemOf` looks at. */
export function checked(problemOf: (value: string) => string | undefined): z.ZodType<string[]> {
  return z.array(
    nonEmpty.superRefine((value, context) => {
      const message = value === '' ? undefined : problemOf(value);
      if (message !== undefined) context.addIssue({ code: 'custom', message });
    }),
  ) as unknown as z.ZodType<string[]>;
}

const name = z.string().regex(/^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/, 'a name holds a-z, 0-9, dots and dashes');

export const apiVersion = z.enum(['security.istio.io/v1', 'security.istio.io/v1beta1']);

// Kubernetes puts more here than concerns us (uid, resourceVersion, managedFields); none of it changes who may pass,
// but for the annotation that makes a policy a trial, and the age that decides between two of one scope.
export const metadata = z.looseObject({
  name,
  namespace: name.default('default'),
  annotations: z.record(z.string(), z.string()).optional(),
  creationTimestamp: z.iso.datetime({ offset: true }).nullish(),
});

export const selector = z
  .strictObject({
    matchLabels: z
      .record(z.string(), z.string())
      .superRefine((labels, context) => {
        for (const [key, value] of Object.entries(labels)) {
          if (key === '') context.addIssue({ code: 'custom', message: 'a label has a name' });
          else if (key.includes('*') || value.includes('*'))
            context.addIssue({ code: 'custom', path: [key], message: 'a selector knows no wildcards' });
          else if (value.length > 63)
            context.addIssue({ code: 'custom', path: [key], message: "a label's value has at most 63 characters" });
        }
      })
      .optional(),
  })
  .optional();

/** What may be a target, by kind. */
const targets: Readonly<Record<string, string>> = {
  Service: '',
  ServiceEntry: 'networking.istio.io',
  Gateway: 'gateway.networking.k8s.io',
  GatewayClass: 'gateway.networking.k8s.io',
};

export const targetRef = z
  .strictObject({
    group: z.string().max(253).default(''),
    kind: z.string().min(1).max(63),
    name: z.string().min(1, 'a target has a name').max(253),
    namespace: z.string().optional(),
  })
  .superRefine(({ group, kind, namespace }, context) => {
    if (namespace !== undefined && namespace !== '')
      context.addIssue({ code: 'custom', path: ['namespace'], message: 'a target is in the namespace of its policy' });
    const wanted = targets[kind];
    if (wanted === undefined || (group === 'core' ? '' : group) !== wanted)
      context.addIssue({
        code: 'custom',
        path: ['kind'],
        message: `'${group === '' ? kind : `${group}/${kind}`}' is no target: ${Object.entries(targets)
          .map(([one, of]) => (of === '' ? one : `${of}/${one}`))
          .join(', ')}`,
      });
  });

export const targetFields = {
  selector,
  targetRef: targetRef.optional(),
  targetRefs: z.array(targetRef).max(16, 'a policy has at most 16 targets').optional(),
};

/** One of selector, targetRef and targetRefs. */
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
export function attachment({ selector: by, targetRef: one, targetRefs: list = [] }: Spec): {
  matchLabels?: Record<string, string>;
  targetRefs?: { group: string; kind: string; name: string }[];
} {
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

/** Said only of what is empty as it was written, not of what is left once an unknown key has been reported. */
export const notEmpty = (message: string) => ({
  error: message,
  when: ({ issues }: { readonly issues: readonly unknown[] }) => issues.length === 0,
});

/** Does any list in it hold something? */
export function hasValues(value: object): boolean {
  return Object.values(value).some((one) => Array.isArray(one) && one.length > 0);
}
