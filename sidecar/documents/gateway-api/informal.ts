// Forms of HTTPRoute that people write and the standard does not have. If the meaning is clear they are read as the
// standard's form, with a warning that shows it; nothing else is guessed.

import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';

type Bag = Record<string, unknown>;

/** The document with informal parts in the standard's form, and a warning for each. The original is not changed. */
export function readInformal(document: YamlDocument): {
  readonly document: YamlDocument;
  readonly warnings: Problem[];
} {
  const warnings: Problem[] = [];
  const say = (path: readonly PropertyKey[], message: string, hint: string): void => {
    warnings.push(document.problemAt(path, message, { hint }));
  };
  const value = structuredClone(document.value) as { spec?: { rules?: unknown } };
  const { rules } = value.spec ?? {};
  for (const [r, rule] of listOf(rules).entries()) {
    for (const [m, match] of listOf(rule['matches']).entries()) {
      const path = match['path'];
      if (!isBag(path) || path['type'] !== 'Prefix') continue;
      path['type'] = 'PathPrefix';
      say(
        ['spec', 'rules', r, 'matches', m, 'path', 'type'],
        "'Prefix' is read as PathPrefix",
        'write type: PathPrefix',
      );
    }
    for (const [f, filter] of listOf(rule['filters']).entries()) {
      const at = ['spec', 'rules', r, 'filters', f];
      if (filter['type'] === 'RequestHeader' && isBag(filter['requestHeader'])) {
        const said = filter['requestHeader'];
        filter['type'] = 'RequestHeaderModifier';
        filter['requestHeaderModifier'] = Object.fromEntries(
          Object.entries(said).map(([verb, fields]) => [verb, verb === 'remove' ? fields : asList(fields)]),
        );
        delete filter['requestHeader'];
        say(
          at,
          "a filter 'RequestHeader' is read as RequestHeaderModifier",
          `write type: RequestHeaderModifier, requestHeaderModifier: ${JSON.stringify(filter['requestHeaderModifier'])}`,
        );
      } else if (filter['type'] === 'RequestRateLimit') {
        say(
          at,
          "a filter 'RequestRateLimit' is read as a local rate limit of this rule",
          "write a BackendTrafficPolicy with rateLimit: { type: Local, local: { rules: [...] } } and this route in 'targetRefs'",
        );
      }
    }
  }
  return warnings.length === 0 ? { document, warnings } : { document: { ...document, value }, warnings };
}

/** `{ X: "1" }` as `[{ name: X, value: "1" }]`; anything else is left for the schema to refuse. */
function asList(fields: unknown): unknown {
  if (!isBag(fields)) return fields;
  return Object.entries(fields).map(([name, value]) => ({ name, value }));
}

function listOf(value: unknown): Bag[] {
  return Array.isArray(value) ? value.filter(isBag) : [];
}

function isBag(value: unknown): value is Bag {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
