// `mergeType` of Envoy Gateway's policies: the policy of a route is merged into that of its Gateway. Merged as written,
// since only there it shows which fields are set and which are defaults; the result is read like any other policy.

import type { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';
import type { PolicyHead } from '../../edge/policy.ts';
import type { metadata, PolicyTarget } from '../../schema/gateway-patterns.ts';
import { type MergeType, optional } from '../../schema/policy-fields.ts';

/** Our own annotation: policies that are more specific may only add to this one. */
export const inheritAnnotation = 'sallyport.dev/inherit';

type Plain = Readonly<Record<string, unknown>>;

/** The fields that say where a policy applies, not what it does. */
const placing = new Set(['targetRef', 'targetRefs', 'targetSelectors', 'mergeType']);

/** `child` merged into `parent`, as a document with the child's name and targets. */
export function mergeDocuments(parent: YamlDocument, child: YamlDocument, how: MergeType): YamlDocument {
  const spec = mergeSpecs(specOf(parent.value), specOf(child.value), how);
  return { value: { ...(child.value as Plain), spec }, problemAt: child.problemAt };
}

/** The child if there is nothing to merge it with. */
export function unmerged(child: YamlDocument): YamlDocument {
  const { mergeType: _, ...spec } = specOf(child.value);
  return { value: { ...(child.value as Plain), spec }, problemAt: child.problemAt };
}

function mergeSpecs(parent: Plain, child: Plain, how: MergeType): Plain {
  const { mergeType: _, ...own } = child;
  const merged = patch(
    Object.fromEntries(Object.entries(parent).filter(([key]) => !placing.has(key))),
    own,
    how,
  ) as Plain;
  const { rateLimit } = merged;
  if (!isPlain(rateLimit) || rateLimit['local'] === undefined || rateLimit['global'] === undefined) return merged;
  // `type` names one of the two; now there are both.
  const { type: __, ...both } = rateLimit;
  return { ...merged, rateLimit: both };
}

/**
 * RFC 7396: objects are merged, everything else is replaced. StrategicMerge differs for Envoy Gateway's lists with a
 * merge key: the rules of a rate limit, by their names. Rules without a name are all kept.
 */
function patch(before: unknown, now: unknown, how: MergeType, key = ''): unknown {
  if (how === 'StrategicMerge' && key === 'rules' && isNamedList(before) && isNamedList(now))
    return byName(before, now);
  if (!isPlain(now) || !isPlain(before)) return now;
  const merged: Record<string, unknown> = { ...before };
  for (const [name, value] of Object.entries(now)) {
    // The API server drops a null of a typed object, so a null removes nothing.
    if (value === null) continue;
    // The first matching rule decides about callers: rules of two policies have no order between them.
    merged[name] = patch(merged[name], value, how, key === 'authorization' ? '' : name);
  }
  return merged;
}

type Named = { readonly name?: unknown };

function byName(before: readonly Named[], now: readonly Named[]): Named[] {
  const replaced = new Set<unknown>(now.flatMap(({ name }) => (name === undefined ? [] : [name])));
  return [...before.filter(({ name }) => !replaced.has(name)), ...now];
}

function isNamedList(value: unknown): value is readonly Named[] {
  return Array.isArray(value) && value.every(isPlain);
}

function isPlain(value: unknown): value is Plain {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function specOf(value: unknown): Plain {
  const { spec } = value as { readonly spec?: unknown };
  return isPlain(spec) ? spec : {};
}

/**
 * The parts of a merged policy that are the child's: Secrets and backends of the others are in the parent's namespace.
 */
export function partsSaidBy(document: YamlDocument): ReadonlySet<string> {
  return new Set(Object.keys(specOf(document.value)));
}

/** A policy's annotations, and what is wrong with them. An unknown annotation of ours is a mistake. */
export function inheritanceOf(document: YamlDocument): {
  readonly required: boolean;
  readonly problems: readonly Problem[];
} {
  const { metadata } = document.value as { readonly metadata?: unknown };
  const annotations = isPlain(metadata) && isPlain(metadata['annotations']) ? metadata['annotations'] : {};
  const problems: Problem[] = [];
  for (const [key, value] of Object.entries(annotations)) {
    const path = ['metadata', 'annotations', key];
    if (key === inheritAnnotation && value !== 'required')
      problems.push(
        document.problemAt(path, `metadata.annotations.${key}: must be 'required' or absent, not '${value}'`),
      );
    else if (key !== inheritAnnotation && key.startsWith('sallyport.dev/'))
      problems.push(
        document.problemAt(path, `metadata.annotations: '${key}' is unknown`, {
          key,
          hint: `did you mean '${inheritAnnotation}'?`,
        }),
      );
  }
  // Misspelled, it still counts as what it must have meant.
  return { required: Object.keys(annotations).some((key) => key.startsWith('sallyport.dev/')), problems };
}

/** The origin of a merged policy. */
export interface Merging {
  /** `namespace/name`. */
  readonly parent: string;
  /** The parts that the child sets. */
  readonly parts: ReadonlySet<string>;
}

type Read<T> = { readonly value: T } | { readonly problems: readonly Problem[] };

/** The result for a policy, together with its annotations. */
export function withInheritance<T>(
  read: Read<T>,
  document: YamlDocument,
): { readonly value: T; readonly required: boolean } | { problems: Problem[] } {
  const { required, problems } = inheritanceOf(document);
  const all = [...('problems' in read ? read.problems : []), ...problems];
  return 'problems' in read || all.length > 0 ? { problems: all } : { value: read.value, required };
}

/** A policy as its schema read it, with its annotations. */
interface WithHead {
  readonly value: {
    readonly metadata: z.output<typeof metadata>;
    readonly spec: {
      readonly targetRef?: PolicyTarget;
      readonly targetRefs?: readonly PolicyTarget[];
      readonly mergeType?: MergeType;
    };
  };
  readonly required: boolean;
}

/** The head of a policy. */
export function headOf({ value, required }: WithHead, document: YamlDocument, file: string): PolicyHead<never> {
  const { name, namespace = 'default', creationTimestamp: created } = value.metadata;
  const { targetRef, targetRefs, mergeType } = value.spec;
  return {
    ...{ name, namespace, targets: targetRefs ?? [targetRef!] },
    ...(created == null ? {} : { createdAt: Date.parse(created) }),
    ...optional('mergeType', mergeType),
    ...(required ? { required } : {}),
    ...{ file, line: document.problemAt(['metadata', 'name'], '').line },
  };
}
