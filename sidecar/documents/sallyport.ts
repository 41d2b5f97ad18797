// Documents of our own kinds (`sallyport.dev`). A capability may have one such kind. Documents are attached in the same
// way as a SecurityPolicy; the rest of the spec is the capability's plan. The targets of an invalid document are still
// read, so that they can be closed.

import { type ZodType, z } from 'zod';
import { type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../cert-agent/base/live.ts';
import { readDocument, type YamlDocument } from '../../cert-agent/base/yaml.ts';
import { capabilities, fieldsOf, ownKindsOf } from '../edge/capabilities.ts';
import type { AnyCapability, Field } from '../edge/capability.ts';
import { type OwnPolicy, ownApiVersion, ownGroup } from '../edge/policy.ts';
import { ownHeadersOf, secretParamsOf } from '../edge/policy-parts.ts';
import { metadata, type PolicyTarget, targetsIn } from '../schema/gateway-patterns.ts';
import { headOf, withInheritance } from './envoy-gateway/merge.ts';
import { problemOfTargets, targetFields } from './envoy-gateway/security-policy.ts';

/** One kind of sallyport.dev, as its capability declares it. */
export interface OwnKind {
  readonly guards: AnyCapability['guards'];
  /** The schema of a spec without its targets; undefined if it was not loaded, and no document is read then. */
  readonly plan: ZodType | undefined;
  /** Nulls in it are values. */
  readonly keepsNulls: boolean;
  readonly warnings?: Field['warnings'];
}

/** The supported kinds, by name. */
export type OwnKinds = ReadonlyMap<string, OwnKind>;

/**
 * The kinds of a table's capabilities, and the schemas of those that are in `present`. A schema may bring a library of
 * its own (OpenAPI's and gRPC's do), and few sets of documents have all kinds.
 */
export async function loadOwnKinds(
  table: readonly AnyCapability[] = capabilities,
  present: ReadonlySet<string> = new Set(ownKindsOf(table)),
): Promise<OwnKinds> {
  const load = async (kind: string): Promise<readonly [string, OwnKind]> => {
    const { capability, field } = fieldsOf(`sallyport.dev/${kind}`, table).get(kind)!;
    const { keepsNulls = false, warnings } = field;
    const plan = present.has(kind) ? await field.schema() : undefined;
    return [kind, { guards: capability.guards, plan, keepsNulls, warnings }];
  };
  return new Map(await Promise.all(ownKindsOf(table).map(load)));
}

/** True if a document is of one of these kinds, in any version. */
export function isOwnPolicy(kind: string, apiVersion: string, kinds: OwnKinds): boolean {
  return kinds.has(kind) && apiVersion.startsWith(`${ownGroup}/`);
}

/** A document whose spec is read for its targets alone. */
export const documentHead = z.strictObject({
  apiVersion: z.literal(ownApiVersion).describe('The API version of the document.'),
  kind: z.string().describe('The kind of the document.'),
  metadata,
  spec: z.looseObject(targetFields).superRefine((spec, context) => {
    const message = problemOfTargets(spec);
    if (message !== undefined) context.addIssue({ code: 'custom', message });
  }),
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
});

/**
 * The policy as frozen plain data, and its warnings; or every problem with its place, and the targets if they can be read, which must
 * then answer 500. `document` is of one of the kinds, as stored; `written` is the same with its nulls.
 * @throws SallyportError `internal` if the schema of its kind was not loaded.
 */
export function readOwnPolicy(
  document: YamlDocument,
  file: string,
  kinds: OwnKinds,
  written: YamlDocument = document,
):
  | { readonly value: OwnPolicy; readonly warnings: readonly Problem[] }
  | { readonly problems: readonly Problem[]; readonly targets?: readonly PolicyTarget[] } {
  const { kind } = document.value as { readonly kind: string };
  const read = withInheritance(readDocument(documentHead, document), document);
  const { plan: schema, keepsNulls, warnings } = kinds.get(kind)!;
  // Fails closed: what has not been checked is not accepted.
  if (schema === undefined) throw new SallyportError('internal', `the schema of ${kind} was not loaded`);
  const plan = readPlan(keepsNulls ? written : document, schema);
  if ('problems' in read || 'problems' in plan) {
    const targets = targetsIn(document.value);
    const problems = [...('problems' in read ? read.problems : []), ...('problems' in plan ? plan.problems : [])];
    return targets === undefined ? { problems } : { problems, targets };
  }
  const worries = warnings?.(plan.value.spec as never) ?? [];
  return {
    value: deepFreeze({ kind, ...headOf(read, document, file), [kind]: plan.value.spec }),
    warnings: worries.map(({ path, message }) => document.problemAt(['spec', ...path], message)),
  };
}

/** Reads the spec without the targets, which the capability's schema does not know. Problems keep their places. */
function readPlan(document: YamlDocument, schema: ZodType) {
  return readDocument(z.object({ spec: schema }), { ...document, value: { spec: planIn(document.value) } });
}

/** A spec without its targets. */
function planIn(value: unknown): unknown {
  const { spec } = value as { readonly spec?: unknown };
  if (typeof spec !== 'object' || spec === null || Array.isArray(spec)) return {};
  return Object.fromEntries(Object.entries(spec).filter(([key]) => !Object.hasOwn(targetFields, key)));
}

/** The credential fields of an invalid document. They still count if its kind authenticates callers. */
export function ownTraitsIn(
  value: unknown,
  kinds: OwnKinds,
): { readonly ownHeaders: readonly string[]; readonly secretParams: readonly string[] } {
  const { kind } = value as { readonly kind: string };
  const guards = kinds.get(kind)?.guards;
  // Handled like a part that no capability reads: each header that it names counts as ours.
  const part = { [kind]: planIn(value) };
  return {
    ownHeaders: guards === 'callers' ? [...ownHeadersOf(part)] : [],
    secretParams: guards === false ? [] : secretParamsOf(part),
  };
}
