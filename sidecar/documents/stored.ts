// A document as an API server would have stored it: whoever writes `filters: null` has said nothing of filters.

import type { YamlDocument } from '../../cert-agent/base/yaml.ts';

/**
 * The document without the nulls of its objects and maps, at any depth; those of lists stay, for the schema to refuse
 * (Kubernetes prunes nulls of fields that are not nullable, and no field of the kinds that are read is). Throws nothing.
 */
export function asStored(document: YamlDocument): YamlDocument {
  return { ...document, value: withoutNulls(document.value) };
}

function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, of]) => (of === null ? [] : [[key, withoutNulls(of)] as const])),
  );
}
