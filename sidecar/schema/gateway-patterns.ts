// What the kinds of Gateway API have in common: names, hosts, references and durations, by the standard's own patterns.

import { z } from 'zod';
import { refuseOtherFields } from './object-meta.ts';

/** The part of metadata that statuses and precedence need. */
export const dated = {
  generation: z.number().int().optional().describe('The version that a cluster counts. It appears in statuses.'),
  creationTimestamp: z.iso
    .datetime({ offset: true })
    .nullish()
    .describe('When the document was made, an ISO time. Of two that clash, the older one counts.'),
};

/** `metadata`. */
// Loose, as all metadata: Kubernetes adds fields that mean nothing here (uid, managedFields).
export const metadata = z
  .looseObject({
    ...dated,
    name: z
      .string()
      .regex(/^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/, 'a name holds a-z, 0-9, dots and dashes')
      .describe('The name of the document.'),
    namespace: z.string().min(1).max(63).optional().describe('The namespace of the document.'),
  })
  .superRefine(refuseOtherFields)
  .describe('Names the document. The other fields that Kubernetes knows have no effect.');

/** An object's name, a section's, a kind's: at most this long, never empty. */
export const objectName = z.string().min(1, 'a name must not be empty').max(253);
const kind = z
  .string()
  .regex(/^[a-zA-Z](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$/, 'not a valid kind')
  .max(63);
const group = z
  .string()
  .max(253)
  .regex(/^$|^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$/, 'not a valid API group');
/** The name of a section: a listener, a rule or a port. */
export const sectionName = objectName.regex(
  /^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$/,
  'a section is named in a-z, 0-9, dots and dashes',
);
/** The name of a namespace. */
export const namespace = z
  .string()
  .regex(/^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?$/, 'this is no namespace')
  .max(63);
/** A port of a listener or Service. */
export const port = z.number().int().min(1, 'a port is 1 to 65535').max(65_535, 'a port is 1 to 65535');

/** A host, with one star for its first label where `wildcard` allows it; never an address. */
export const hostname = (wildcard: boolean): z.ZodType<string> =>
  z
    .string()
    .min(1)
    .max(253)
    .superRefine((value, context) => {
      const label = '[a-z0-9](?:[-a-z0-9]*[a-z0-9])?';
      const pattern = new RegExp(`^${wildcard ? '(?:\\*\\.)?' : ''}${label}(?:\\.${label})*$`);
      if (!pattern.test(value) || /^\d+(?:\.\d+){3}$/.test(value))
        context.addIssue({ code: 'custom', message: `'${value}' is not a ${wildcard ? '' : 'precise '}host name` });
    }) as unknown as z.ZodType<string>;

const asDuration = 'a duration is written 10s, 500ms or 1h30m';

/** A duration as text (GEP-2257); `millisecondsOf` reads it. */
export const duration = z
  .string({ error: ({ input }) => (input === undefined ? undefined : asDuration) })
  .regex(/^(?:\d{1,5}(?:h|m|s|ms)){1,4}$/, asDuration)
  .meta({ unit: 'duration' });

/** A duration in milliseconds; it must be one. */
export function millisecondsOf(text: string): number {
  const units: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };
  return [...text.matchAll(/(\d+)(ms|h|m|s)/g)].reduce(
    (sum, [, number, unit]) => sum + Number(number) * units[unit!]!,
    0,
  );
}

/** The name of a header (RFC 9110 section 5.1). */
export const headerName = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$/, 'not a valid header name');

/** What a route attaches to. Without `sectionName` and `port`: every listener of the Gateway. */
export const parentRef = z.strictObject({
  // The standard's defaults.
  group: group.default('gateway.networking.k8s.io').describe('The API group of the parent.'),
  kind: kind.default('Gateway').describe('The kind of the parent. Only a Gateway is served.'),
  namespace: namespace.optional().describe('The namespace of the Gateway. Default: that of the route.'),
  name: objectName.describe('The name of the Gateway.'),
  sectionName: sectionName.optional().describe('The listener. Without it: all listeners that accept the route.'),
  port: port.optional().describe('The port of the listeners. Without it: any port.'),
});

/** Several references to one parent must each name a part of it. */
export const parentRefs = z
  .array(parentRef)
  .max(32, 'a route has at most 32 parents')
  .superRefine((list, context) => {
    const seen = new Map<string, z.output<typeof parentRef>[]>();
    for (const [index, one] of list.entries()) {
      const key = `${one.group}/${one.kind}/${one.namespace ?? ''}/${one.name}`;
      const others = seen.get(key) ?? [];
      seen.set(key, [...others, one]);
      const clash = others.some(
        (other) =>
          (other.sectionName === undefined) !== (one.sectionName === undefined) ||
          (other.port === undefined) !== (one.port === undefined) ||
          (other.sectionName === one.sectionName && other.port === one.port),
      );
      if (clash)
        context.addIssue({
          code: 'custom',
          path: [index],
          message: 'references to the same parent must each set a sectionName or port, all different',
        });
    }
  })
  .optional()
  .describe('The Gateways and listeners that the route is attached to. Without any it is not served.');

// The standard's defaults. The port is optional because only a Service needs one.
const backendFields = {
  group: group.default('').describe('The API group of the backend; empty for a Service.'),
  kind: kind.default('Service').describe('The kind of the backend.'),
  name: objectName.describe('The name of the backend.'),
  namespace: namespace
    .optional()
    .describe("The namespace of the backend. Another one than the document's own needs a ReferenceGrant."),
  port: port.optional().describe('The port of the Service, which needs one.'),
};

function needsPort(
  value: { readonly group: string; readonly kind: string; readonly port?: number | undefined },
  context: z.RefinementCtx,
): void {
  if (value.group === '' && value.kind === 'Service' && value.port === undefined)
    context.addIssue({ code: 'custom', path: ['port'], message: 'a reference to a Service needs a port' });
}

/** A reference to a backend. */
export const backendObjectRef = z.strictObject(backendFields).superRefine(needsPort);

/** A backend of a route, with the fields that a kind of route adds. */
export function backendRefs<S extends z.ZodRawShape>(more: S) {
  return z
    .array(
      z
        .strictObject({
          ...backendFields,
          weight: z
            .number()
            .int()
            .min(0)
            .max(1_000_000)
            .default(1)
            .describe('The share of requests, relative to the sum of all weights. 0: none.'),
          ...more,
        })
        .superRefine((value, context) => needsPort(value as unknown as Parameters<typeof needsPort>[0], context)),
    )
    .max(16, 'a rule has at most 16 backends');
}

/** A reference within the namespace. */
export const localRef = z.strictObject({
  group: group.describe('The API group of the object; empty for the core.'),
  kind: kind.describe('The kind of the object.'),
  name: objectName.describe('The name of the object, in the namespace of the document.'),
});
/** A reference that may name another namespace. */
export const objectRef = z.strictObject({
  group: group.default('').describe('The API group of the object; empty for the core.'),
  kind: kind.default('Secret').describe('The kind of the object.'),
  name: objectName.describe('The name of the object.'),
  namespace: namespace
    .optional()
    .describe("The namespace of the object. Another one than the document's own needs a ReferenceGrant."),
});
export { group, kind };

const looseTarget = z.looseObject({
  kind: z.enum(['Gateway', 'HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute']),
  name: objectName,
  sectionName: sectionName.optional().catch(undefined),
});

/** A target of a policy, in the policy's own namespace. `sectionName` is a listener or a named rule. */
export type PolicyTarget = Readonly<Pick<z.output<typeof parentRef>, 'group' | 'kind' | 'name' | 'sectionName'>>;

/**
 * The targets of a policy whose other fields may all be wrong; an unreadable section means the whole object. Undefined
 * if a target cannot be read, or if there are selectors, too: then it is unknown what to close.
 */
export function targetsIn(value: unknown): readonly PolicyTarget[] | undefined {
  const { spec } = value as { spec?: Readonly<Record<string, unknown>> | null };
  const { targetRef, targetRefs = [], targetSelectors } = spec ?? {};
  if (targetSelectors !== undefined || !Array.isArray(targetRefs)) return undefined;
  const all = [...(targetRef === undefined ? [] : [targetRef]), ...(targetRefs as unknown[])].map((one) => {
    const read = looseTarget.safeParse(one);
    if (!read.success) return undefined;
    const { kind: of, name, sectionName: section } = read.data;
    return {
      ...{ group: 'gateway.networking.k8s.io', kind: of, name },
      ...(section === undefined ? {} : { sectionName: section }),
    };
  });
  const told = all.filter((one) => one !== undefined);
  return told.length === 0 || told.length < all.length ? undefined : told;
}

/** A field that other gateways evaluate. If we ignored it, the operator would believe that it is in force. */
export const notEvaluated = (what: string) =>
  z
    .custom((value) => value === undefined, `this build does not evaluate '${what}'`)
    .optional()
    .meta({ description: `Refused: this build does not evaluate it.`, refused: true });

/** A list whose members differ by name; header names without regard to case. */
export function named<T extends { readonly name: string }>(list: readonly T[], context: z.RefinementCtx): void {
  const seen = new Set<string>();
  for (const [index, { name }] of list.entries()) {
    const key = name.toLowerCase();
    if (seen.has(key)) context.addIssue({ code: 'custom', path: [index, 'name'], message: `'${name}' is named twice` });
    seen.add(key);
  }
}
