// Fields that several parts of a SecurityPolicy have in common.

import { z } from 'zod';
import { isLoopback } from '../../cert-agent/base/address.ts';
import { isSafeField } from '../exchange/message.ts';
import { headerName, objectName, sectionName } from './gateway-patterns.ts';

/** A text that must not be empty; `what` names it. */
export const filled = (what: string): z.ZodString => z.string().min(1, `${what} must not be empty`);

/** A field of Envoy Gateway that this build does not evaluate: it is refused, never ignored. */
export const refused = (message: string) =>
  z
    .unknown()
    .optional()
    .superRefine((value, context) => {
      if (value !== undefined) context.addIssue({ code: 'custom', message });
    })
    .meta({ description: `Refused: ${message}.`, refused: true });

/** Settings of a provider's backend. */
export const askedDirectly = refused(
  'requests go directly to the provider, without settings of a backend: leave it out',
);

/** A switch whose default `false` is the only value served. */
export const offOnly = (message: string) =>
  z
    .boolean()
    .optional()
    .superRefine((value, context) => {
      if (value === true) context.addIssue({ code: 'custom', message });
    })
    .describe(`Only \`false\` is served: ${message}.`);

/** A header that we set in the app's request. @returns its name in lower case. */
export const ownHeader = headerName
  .superRefine((value, context) => {
    if (!isSafeField(value, ''))
      context.addIssue({ code: 'custom', message: `'${value}' cannot be set: it is hop-by-hop` });
  })
  .transform((value) => value.toLowerCase());

/** A header's name, in lower case. */
export const lowerHeader = headerName.transform((value) => value.toLowerCase());

/** RFC 6265 section 4.1.1: a cookie's name is a token. */
export const cookieName = z.string().regex(/^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}$/, 'not a valid cookie name');

/** A URL for credentials: https, or http on this machine. */
export const safeUrl = z.string().superRefine((value, context) => {
  const url = URL.parse(value);
  const why =
    url === null || !/^https?:$/.test(url.protocol)
      ? 'is not an https:// URL'
      : url.protocol === 'http:' && !isLoopback(url.hostname.replace(/^\[|\]$/g, ''))
        ? 'would carry credentials in the clear: write https://'
        : url.username !== '' || url.password !== ''
          ? 'holds a password: name a Secret instead'
          : url.hash !== ''
            ? 'has a fragment, which is never sent'
            : undefined;
  if (why !== undefined) context.addIssue({ code: 'custom', message: `'${withoutPassword(value)}' ${why}` });
});

/** A problem's text goes to logs. */
function withoutPassword(text: string): string {
  return text.replace(/\/\/[^/@]*@/, '//...@');
}

/**
 * A Secret of the policy's own namespace; another namespace would need a ReferenceGrant, which is not evaluated here.
 */
export const secretRef = z
  .strictObject({
    group: z.literal('').default('').describe('The API group of a Secret: the core, which is empty.'),
    kind: z.literal('Secret').default('Secret').describe('The kind: a Secret.'),
    name: objectName.describe('The name of the Secret, in the namespace of the policy.'),
    namespace: refused('a Secret is taken from the namespace of its policy: leave it out'),
  })
  .transform(({ name }) => ({ name }));

/** A Secret, by its name. */
export type SecretRef = Readonly<z.output<typeof secretRef>>;

/** Claims that are copied to headers for the app. */
export const claimHeaders = z
  .array(
    z.strictObject({
      header: ownHeader.describe('The name of the header. What the client sent under it is removed.'),
      claim: filled('a claim').describe('The name of the claim; dots lead into objects.'),
    }),
  )
  .default([])
  .describe('Headers for the app with one claim each.');

/** An object with `key`, or an empty one without a value: results are compared as JSON. */
export function optional<K extends string, V>(key: K, value: V | undefined): { readonly [key in K]?: V } {
  return (value === undefined ? {} : { [key]: value }) as { readonly [key in K]?: V };
}

const mergeTypes = ['StrategicMerge', 'JSONMerge'] as const;
/** How the policy of a route is merged with that of its Gateway; without it, it replaces that one. */
export const mergeType = z
  .enum(mergeTypes, `'mergeType' is ${mergeTypes.join(' or ')}`)
  .describe('Merges the policy of a route into that of its Gateway. Without it, it replaces that one.');
/** A value of `mergeType`. */
export type MergeType = z.output<typeof mergeType>;

/** A target of a policy of Envoy Gateway's or of ours: one of these kinds of Gateway API, in the policy's namespace. */
export function targetOf<K extends string>(kinds: readonly [K, ...K[]], message?: string) {
  return z
    .strictObject({
      group: z
        .literal('gateway.networking.k8s.io', 'a target belongs to group gateway.networking.k8s.io')
        .describe('The API group of the target.'),
      kind: z.enum(kinds, message).describe('The kind of the target.'),
      name: objectName.describe('The name of the target, in the namespace of the policy.'),
      namespace: refused("targets are always in the policy's namespace: leave it out"),
      sectionName: sectionName
        .optional()
        .describe('A listener of the Gateway or a named rule of the route. Without it: all of the target.'),
    })
    .transform(({ namespace: _, sectionName: section, ...of }) => ({ ...of, ...optional('sectionName', section) }));
}
