// Does one rule match everything that another one matches? Conservative: 'no' if it cannot tell. Used to find rules
// that no request can reach.

import { blockCovers } from './ip.ts';
import { isPattern } from './match.ts';
import type { Condition, FieldValues, Rule } from './policy.ts';
import { isTemplate } from './template.ts';

/** Whether `wide` matches everything that `narrow` matches. */
export function ruleCovers(wide: Rule, narrow: Rule): boolean {
  return (
    clausesCover(wide.from, narrow.from) &&
    clausesCover(wide.to, narrow.to) &&
    (wide.when ?? []).every((one) => (narrow.when ?? []).some((other) => conditionCovers(one, other)))
  );
}

function clausesCover(wide: readonly FieldValues[] | undefined, narrow: readonly FieldValues[] | undefined): boolean {
  if (wide === undefined) return true;
  if (narrow === undefined) return false;
  return narrow.every((one) => wide.some((other) => fieldsCover(other, one)));
}

function fieldsCover(wide: FieldValues, narrow: FieldValues): boolean {
  return Object.entries(wide).every(([field, values]) => {
    const others = narrow[field];
    if (others === undefined) return false;
    // Whatever the wide one excludes, the narrow one must exclude as well.
    if (/^not[A-Z]/.test(field)) return values.every((one) => others.some((other) => valueCovers(field, other, one)));
    return others.every((other) => values.some((one) => valueCovers(field, one, other)));
  });
}

function conditionCovers(wide: Condition, narrow: Condition): boolean {
  if (wide.key !== narrow.key) return false;
  const { values = [], notValues = [] } = wide;
  return (
    (values.length === 0 ||
      (narrow.values?.every((other) => values.some((one) => valueCovers('', one, other))) ?? false)) &&
    notValues.every((one) => narrow.notValues?.includes(one) ?? false)
  );
}

const byString = new Set([
  'principals',
  'notPrincipals',
  'methods',
  'notMethods',
  'paths',
  'notPaths',
  'hosts',
  'notHosts',
  '',
]);

function valueCovers(field: string, wide: string, narrow: string): boolean {
  if (wide === narrow) return true;
  if (/ipBlocks$/i.test(field)) return blockCovers(wide, narrow);
  if (/namespaces$/i.test(field)) return wide === '*';
  if (!byString.has(field) || isTemplate(wide)) return false;
  if (wide === '*') return true;
  if (narrow === '*' || !isPattern(wide)) return false;
  // The text that every match of `narrow` begins, or ends, with.
  if (wide.startsWith('*'))
    return !isTemplate(narrow) && !(narrow.endsWith('*') && !narrow.startsWith('*')) && narrow.endsWith(wide.slice(1));
  const start = isTemplate(narrow) ? narrow.slice(0, narrow.indexOf('{')) : narrow;
  return !narrow.startsWith('*') && start.replace(/\*$/, '').startsWith(wide.slice(0, -1));
}

/**
 * A field whose every value is excluded by its own negation, so that the rule matches nothing; undefined if none is.
 */
export function contradiction(fields: FieldValues): string | undefined {
  for (const [field, values] of Object.entries(fields)) {
    const not = fields[`not${field.charAt(0).toUpperCase()}${field.slice(1)}`];
    if (not !== undefined && areCovered(field, not, values)) return field;
  }
  return undefined;
}

/**
 * Does `wide` match everything that `narrow` matches? `field` is one of a source or an operation, '' for plain strings.
 */
export function areCovered(field: string, wide: readonly string[], narrow: readonly string[]): boolean {
  return narrow.every((one) => wide.some((other) => valueCovers(field, other, one)));
}
