// A document as an API server would store it: `filters: null` is the same as no `filters`.

import type { YamlDocument } from '../../cert-agent/base/yaml.ts';

/**
 * The document without nulls in objects and maps, at any depth. Nulls in lists stay, and the schema refuses them.
 * Kubernetes prunes nulls from fields that are not nullable; no field of the kinds that we read is nullable. Never
 * throws.
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
