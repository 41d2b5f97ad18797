// Rules by method, then by path: a tree over the characters of paths that holds exact values, prefixes and the literal
// beginnings of templates. It narrows down which rules could match; each rule's own checks decide.

import type { RequestFacts } from './facts.ts';
import type { Decision, FieldValues } from './policy.ts';
import type { Check, Clause, Shape } from './shape.ts';
import { isTemplate, literalPrefix } from './template.ts';

/** A rule as the index keeps it: whole, or the rest of it once its peer is known. */
export interface IndexedRule {
  readonly order: number;
  /** The document's operations, which the index is built on. */
  readonly to: readonly FieldValues[] | undefined;
  readonly existsOnTcp: boolean;
  readonly http: Shape;
  readonly tcp: Shape | null;
  readonly verdict: Decision;
}

interface Node {
  /** The text that leads here from the parent node. */
  label: string;
  readonly children: Map<number, Node>;
  /** Rules for paths that end here. */
  exact: IndexedRule[];
  /** Rules for paths that continue from here. */
  through: IndexedRule[];
}

/** The rules of one action. `all` and `tcp` are in the policies' order. Filled by addRule, then only read. */
export interface RuleIndex {
  readonly all: IndexedRule[];
  readonly tcp: IndexedRule[];
  readonly byMethod: Map<string, Node>;
  readonly anyMethod: Node;
}

/** An empty index, for addRule. */
export function createIndex(): RuleIndex {
  return { all: [], tcp: [], byMethod: new Map(), anyMethod: createNode('') };
}

function createNode(label: string): Node {
  return { label, children: new Map(), exact: [], through: [] };
}

/** Adds a rule; rules come in their order. */
export function addRule(index: RuleIndex, rule: IndexedRule): void {
  index.all.push(rule);
  if (rule.existsOnTcp) index.tcp.push(rule);
  if (rule.to === undefined) return insert(index.anyMethod, '', false, rule);
  for (const operation of rule.to) {
    for (const root of rootsOf(index, operation)) {
      const { paths } = operation;
      if (paths === undefined) insert(root, '', false, rule);
      else for (const path of paths) insertPath(root, path, rule);
    }
  }
}

function rootsOf(index: RuleIndex, { methods }: FieldValues): Node[] {
  if (methods === undefined || methods.some((one) => one.includes('*'))) return [index.anyMethod];
  return methods.map((method) => {
    const known = index.byMethod.get(method);
    if (known !== undefined) return known;
    const made = createNode('');
    index.byMethod.set(method, made);
    return made;
  });
}

function insertPath(root: Node, path: string, rule: IndexedRule): void {
  if (isTemplate(path)) insert(root, literalPrefix(path), false, rule);
  else if (path.startsWith('*')) insert(root, '', false, rule);
  else if (path.endsWith('*')) insert(root, path.slice(0, -1), false, rule);
  else insert(root, path, true, rule);
}

function insert(root: Node, text: string, exact: boolean, rule: IndexedRule): void {
  let node = root;
  let rest = text;
  while (rest !== '') {
    const key = rest.charCodeAt(0);
    const child = node.children.get(key);
    if (child === undefined) {
      const leaf = createNode(rest);
      node.children.set(key, leaf);
      node = leaf;
      break;
    }
    const shared = sharedLength(child.label, rest);
    if (shared === child.label.length) node = child;
    else {
      // The label diverges from the text: their common prefix becomes a node of its own.
      const middle = createNode(rest.slice(0, shared));
      node.children.set(key, middle);
      child.label = child.label.slice(shared);
      middle.children.set(child.label.charCodeAt(0), child);
      node = middle;
    }
    rest = rest.slice(shared);
  }
  const list = exact ? node.exact : node.through;
  if (list.at(-1) !== rule) list.push(rule);
}

function sharedLength(a: string, b: string): number {
  let at = 0;
  while (at < a.length && at < b.length && a.charCodeAt(at) === b.charCodeAt(at)) at++;
  return at;
}

/** The first rule in the order of the documents that matches, if it comes before `best`; else `best`. */
export function firstMatch(
  index: RuleIndex,
  facts: RequestFacts,
  best: IndexedRule | undefined,
): IndexedRule | undefined {
  if (facts.protocol === 'tcp') return firstOf(index.tcp, facts, best);
  let found = walk(index.anyMethod, facts, best);
  const root = index.byMethod.get(facts.method);
  if (root !== undefined) found = walk(root, facts, found);
  return found;
}

function walk(root: Node, facts: RequestFacts, best: IndexedRule | undefined): IndexedRule | undefined {
  const { path } = facts;
  let node = root;
  let at = 0;
  let found = best;
  for (;;) {
    if (node.through.length > 0) found = firstOf(node.through, facts, found);
    if (at === path.length) return node.exact.length === 0 ? found : firstOf(node.exact, facts, found);
    const child = node.children.get(path.charCodeAt(at));
    if (child === undefined || !path.startsWith(child.label, at)) return found;
    at += child.label.length;
    node = child;
  }
}

function firstOf(
  rules: readonly IndexedRule[],
  facts: RequestFacts,
  best: IndexedRule | undefined,
): IndexedRule | undefined {
  for (const rule of rules) {
    // Rules are in order: later ones cannot be the first match any more.
    if (best !== undefined && rule.order >= best.order) return best;
    const shape = facts.protocol === 'tcp' ? rule.tcp : rule.http;
    if (shape !== null && matches(shape, facts, undefined)) return rule;
  }
  return best;
}

/** Receives each check of a rule and whether it held; with an observer, every check is evaluated. */
export type Observer = (check: Check, held: boolean, clause: Clause) => void;

/** Does a rule match? The only evaluator: for the proxy, the commands and explanations alike. */
export function matches(shape: Shape, facts: RequestFacts, observer: Observer | undefined): boolean {
  const conditions = holdsAll(shape.conditions, facts, observer);
  if (!conditions && observer === undefined) return false;
  const operations = holdsAny(shape.operations, facts, observer);
  if (!operations && observer === undefined) return false;
  return holdsAny(shape.sources, facts, observer) && conditions && operations;
}

function holdsAny(
  clauses: readonly Clause[] | undefined,
  facts: RequestFacts,
  observer: Observer | undefined,
): boolean {
  if (clauses === undefined) return true;
  let any = false;
  for (const clause of clauses) {
    if (!holdsAll(clause, facts, observer)) continue;
    if (observer === undefined) return true;
    any = true;
  }
  return any;
}

function holdsAll(clause: Clause, facts: RequestFacts, observer: Observer | undefined): boolean {
  let all = true;
  // By index: this runs for every rule that concerns a request, and an iterator makes an object for each check.
  for (let i = 0; i < clause.length; i++) {
    const check = clause[i]!;
    const held = check.holds(facts);
    observer?.(check, held, clause);
    if (held) continue;
    if (observer === undefined) return false;
    all = false;
  }
  return all;
}
