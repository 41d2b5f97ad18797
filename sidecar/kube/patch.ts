// The difference of two values as a JSON Patch (RFC 6902): what a webhook answers, and what is changed in a file.

import { isTree } from './tree.ts';

export type Operation =
  | { readonly op: 'add' | 'replace'; readonly path: string; readonly value: unknown }
  | { readonly op: 'remove'; readonly path: string };

/**
 * The operations that make `after` of `before`, in order. A list changes as far as its beginning and end differ: items
 * that were added in front are added, and those behind them stay as they are.
 */
export function diff(before: unknown, after: unknown): Operation[] {
  const operations: Operation[] = [];
  compare(before, after, '', operations);
  return operations;
}

/** RFC 6901 section 3. */
export function pointer(path: string, step: string | number): string {
  return `${path}/${String(step).replaceAll('~', '~0').replaceAll('/', '~1')}`;
}

/** The steps of a pointer. */
export function stepsOf(path: string): string[] {
  return path
    .split('/')
    .slice(1)
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'));
}

export function isEqual(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((one, i) => isEqual(one, b[i]));
  if (!isTree(a) || !isTree(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && isEqual(a[key], b[key]));
}

function compare(before: unknown, after: unknown, path: string, into: Operation[]): void {
  if (isEqual(before, after)) return;
  if (Array.isArray(before) && Array.isArray(after)) return compareLists(before, after, path, into);
  if (!isTree(before) || !isTree(after)) return void into.push({ op: 'replace', path, value: after });
  for (const key of Object.keys(before))
    if (!Object.hasOwn(after, key)) into.push({ op: 'remove', path: pointer(path, key) });
  for (const [key, value] of Object.entries(after)) {
    if (Object.hasOwn(before, key)) compare(before[key], value, pointer(path, key), into);
    else into.push({ op: 'add', path: pointer(path, key), value });
  }
}

/** Items that have a name are the same if they have the same one; others, if they are equal. */
function isSame(a: unknown, b: unknown): boolean {
  if (isTree(a) && isTree(b) && a['name'] !== undefined && b['name'] !== undefined) return a['name'] === b['name'];
  return isEqual(a, b);
}

function compareLists(before: readonly unknown[], after: readonly unknown[], path: string, into: Operation[]): void {
  let start = 0;
  while (start < before.length && start < after.length && isSame(before[start], after[start])) start++;
  let end = 0;
  const room = Math.min(before.length, after.length) - start;
  while (end < room && isSame(before[before.length - 1 - end], after[after.length - 1 - end])) end++;
  const [gone, come] = [before.length - start - end, after.length - start - end];
  const both = Math.min(gone, come);
  for (let i = 0; i < start + both; i++) compare(before[i], after[i], pointer(path, i), into);
  for (let i = gone - 1; i >= both; i--) into.push({ op: 'remove', path: pointer(path, start + i) });
  for (let i = both; i < come; i++) into.push({ op: 'add', path: pointer(path, start + i), value: after[start + i] });
  for (let i = 0; i < end; i++) {
    const at = after.length - end + i;
    compare(before[before.length - end + i], after[at], pointer(path, at), into);
  }
}
