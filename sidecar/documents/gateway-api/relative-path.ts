// Paths without a slash in `replaceFullPath` and `replacePrefixMatch`: an API server takes them, a gateway here refuses
// their rule. For `check`, which warns of them.

import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';

const fields = new Set(['replaceFullPath', 'replacePrefixMatch']);

/** The document with a slash before each such path, and a warning for each. */
export function withSlashes(document: YamlDocument): { document: YamlDocument; warnings: readonly Problem[] } {
  const warnings: Problem[] = [];
  const visit = (value: unknown, path: readonly PropertyKey[]): unknown => {
    if (Array.isArray(value)) return value.map((item, index) => visit(item, [...path, index]));
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, one]) => {
        const isRelative = fields.has(key) && typeof one === 'string' && !one.startsWith('/');
        // An empty prefix is one that is removed.
        if (!isRelative || (one === '' && key === 'replacePrefixMatch')) return [key, visit(one, [...path, key])];
        const why = `'${one}' is valid, but a gateway here refuses it`;
        warnings.push(document.problemAt([...path, key], `${key}: ${why}`, { hint: `write '/${one}'` }));
        return [key, `/${one}`];
      }),
    );
  };
  return { document: { ...document, value: visit(document.value, []) }, warnings };
}
