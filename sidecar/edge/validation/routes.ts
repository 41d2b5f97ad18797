// Which operation a path belongs to: a tree of segments, compiled once. Literal segments come before templates.

import type { Operation } from './api-plan.ts';

/** The operations of one template, by method, and the values of its variables as they are in the path. */
export interface RouteMatch {
  readonly methods: ReadonlyMap<string, Operation>;
  readonly variables: Readonly<Record<string, string>>;
}

interface Branch {
  readonly literals: Map<string, Branch>;
  readonly templates: { readonly parts: readonly string[]; readonly branch: Branch }[];
  /** The names of the variables on the path to this node, in order. */
  names: readonly string[];
  methods: Map<string, Operation> | undefined;
}

/** Why a template cannot be used; undefined if it can. */
export function templateProblem(template: string): string | undefined {
  if (!template.startsWith('/')) return `'${template}' does not begin with a slash`;
  if (/\{[^}]*[{/]|\{\}|\{[^}]*$|^[^{]*\}|\}[^{]*\}/.test(template))
    return `'${template}' has braces that do not match`;
  if (/\}\{/.test(template)) return `'${template}': nothing separates two variables`;
  const names = [...template.matchAll(/\{([^}]*)\}/g)].map(([, name]) => name);
  return new Set(names).size === names.length ? undefined : `'${template}' names a variable twice`;
}

/** @returns the operations of a path without its query; undefined if there are none. */
export function compileRoutes(operations: readonly Operation[]): (path: string) => RouteMatch | undefined {
  const root = newBranch();
  for (const operation of operations)
    for (const base of operation.basePaths) plant(root, base + operation.path, operation);
  return function findOperations(path) {
    const segments = path.split('/').slice(1);
    const values: string[] = [];
    const found = climb(root, segments, 0, values);
    if (found?.methods === undefined) return undefined;
    const variables = Object.fromEntries(found.names.map((name, index) => [name, values[index]!]));
    return { methods: found.methods, variables };
  };
}

function newBranch(): Branch {
  return { literals: new Map(), templates: [], names: [], methods: undefined };
}

function plant(root: Branch, template: string, operation: Operation): void {
  let branch = root;
  const names: string[] = [];
  for (const segment of template.split('/').slice(1)) {
    // Literals and names in turns.
    const parts = segment.split(/\{([^}]*)\}/);
    names.push(...parts.filter((_, index) => index % 2 === 1));
    branch =
      parts.length === 1
        ? literalOf(branch, segment)
        : templateOf(branch, parts.filter((_, index) => index % 2 === 0).map(decoded));
  }
  branch.names = names;
  branch.methods ??= new Map();
  branch.methods.set(operation.method, operation);
}

function literalOf({ literals }: Branch, segment: string): Branch {
  const key = decoded(segment);
  const next = literals.get(key) ?? newBranch();
  literals.set(key, next);
  return next;
}

function templateOf({ templates }: Branch, parts: readonly string[]): Branch {
  const known = templates.find((one) => one.parts.join('{}') === parts.join('{}'));
  if (known !== undefined) return known.branch;
  const branch = newBranch();
  templates.push({ parts, branch });
  // The template with more literal characters is more specific.
  templates.sort((a, b) => b.parts.join('').length - a.parts.join('').length);
  return branch;
}

/** Visits each branch once at most. */
function climb(branch: Branch, segments: readonly string[], at: number, values: string[]): Branch | undefined {
  const segment = segments[at];
  if (segment === undefined) return branch.methods === undefined ? undefined : branch;
  const literal = branch.literals.get(decoded(segment));
  const found = literal && climb(literal, segments, at + 1, values);
  if (found !== undefined) return found;
  for (const { parts, branch: next } of branch.templates) {
    const matched = valuesOf(segment, parts);
    if (matched === undefined) continue;
    const before = values.length;
    values.push(...matched);
    const deeper = climb(next, segments, at + 1, values);
    if (deeper !== undefined) return deeper;
    values.length = before;
  }
  return undefined;
}

/** The texts between the literals, each at its first place: linear. A variable is never empty. */
function valuesOf(segment: string, literals: readonly string[]): string[] | undefined {
  const [first = '', ...rest] = literals;
  if (!segment.startsWith(first)) return undefined;
  const values: string[] = [];
  let at = first.length;
  for (const [index, literal] of rest.entries()) {
    const end =
      index === rest.length - 1
        ? segment.length - literal.length
        : literal === ''
          ? -1
          : segment.indexOf(literal, at + 1);
    if (end <= at || !segment.startsWith(literal, end)) return undefined;
    values.push(segment.slice(at, end));
    at = end + literal.length;
  }
  return values;
}

/**
 * True if frameworks read a variable in several ways: they cut it at a semicolon, decode a slash before they route,
 * resolve dots, or decode it once more (`%252f`). Another operation would then serve the request.
 */
export function isAmbiguous(raw: string, isMatrix: boolean, escapedSlashes: boolean): boolean {
  let text = raw;
  for (let times = 0; times <= maxDecoded; times++) {
    if (!isMatrix && /;|%3b/i.test(text)) return true;
    if (!escapedSlashes && /\\|%2f|%5c/i.test(text)) return true;
    const next = decoded(text);
    if (next.split(/[/\\]/).some((part) => part === '.' || part === '..')) return true;
    if (next === text) return false;
    text = next;
  }
  return true;
}

/** Only attackers send more. */
const maxDecoded = 3;

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
