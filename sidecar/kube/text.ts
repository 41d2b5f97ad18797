// Documents of Kubernetes as text: YAML with several documents, Lists, JSON. What is not changed stays as it was
// written, byte for byte; what is changed keeps its comments, except in a document with aliases, which is written anew.

import {
  type Document,
  isCollection,
  isMap,
  isScalar,
  isSeq,
  type Node,
  parseDocument,
  type Scalar,
  type ScalarTag,
  stringify,
  visit,
  type YAMLMap,
  type YAMLSeq,
} from 'yaml';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { unquotedBracket } from '../../cert-agent/base/unquoted-bracket.ts';
import { type InjectOptions, inject, type Result, uninject } from './inject.ts';
import { diff, type Operation, pointer, stepsOf } from './patch.ts';
import { copyOf, treeOf } from './tree.ts';

export interface TextResult {
  readonly text: string;
  readonly results: readonly Result[];
}

/** YAML that may be a workload and is larger than this is no document that an API server would take. */
const maxYamlBytes = 8 * 1_048_576;

/** One document of the text. */
interface Segment {
  readonly text: string;
  readonly line: number;
  readonly isJson: boolean;
  /** Undefined for what is neither a workload nor a Service nor a List: it is not even parsed. */
  readonly value: unknown;
  /** The nodes, for YAML without aliases. */
  readonly document: Document | undefined;
}

/**
 * Injects every document of `text`.
 * @throws SallyportError `config_invalid` for what is not YAML: nothing is printed then.
 */
export function injectText(text: string, file: string, options: InjectOptions): TextResult {
  return notTooDeep(file, () => transform(text, file, (documents) => inject(documents, options)));
}

/** Takes the sidecars out of every document. @throws SallyportError as injectText does. */
export function uninjectText(text: string, file: string, namespace: string): TextResult {
  return notTooDeep(file, () => transform(text, file, (documents) => uninject(documents, { namespace })));
}

/** JSON and Lists may be nested deeper than the stack. */
function notTooDeep<T>(file: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw invalid(file, 1, 'a document is nested too deeply');
  }
}

function transform(text: string, file: string, work: (documents: readonly unknown[]) => readonly Result[]): TextResult {
  const segments = segmentsOf(text, file);
  // Items of Lists count like documents, so that a Service and its workload in one List find each other.
  const all = segments.flatMap((segment, index) => flatten(segment.value, index, ''));
  const results = work(all.map(({ value }) => value));
  const changes = new Map<number, { path: string; before: unknown; after: unknown }[]>();
  for (const [i, result] of results.entries()) {
    if (result.outcome !== 'changed') continue;
    const { index, path, value } = all[i]!;
    const known = changes.get(index) ?? [];
    known.push({ path, before: value, after: result.value });
    changes.set(index, known);
  }
  const added = new AddedNodes();
  const parts = segments.map((segment, index) => write(segment, changes.get(index) ?? [], added));
  const named = results.filter((result, i) => all[i]!.value !== undefined || result.outcome !== 'left_alone');
  return { text: parts.join(''), results: named };
}

interface Flat {
  readonly index: number;
  readonly path: string;
  readonly value: unknown;
}

function flatten(value: unknown, index: number, path: string): readonly Flat[] {
  const { kind, items } = treeOf(value);
  if (typeof kind !== 'string' || !kind.endsWith('List') || !Array.isArray(items)) return [{ index, path, value }];
  return items.flatMap((item, i) => flatten(item, index, pointer(pointer(path, 'items'), i)));
}

/** A line that begins a document (YAML 1.2.2 section 9.1.2); in a block scalar it would end it. */
const marker = /^---(?=[ \t\r\n]|$)/gm;

function segmentsOf(text: string, file: string): readonly Segment[] {
  const starts = [...new Set([0, ...[...text.matchAll(marker)].map(({ index }) => index)])];
  let line = 1;
  return starts.map((start, i) => {
    const part = text.slice(start, starts[i + 1]);
    const segment = readSegment(part, line, file);
    for (let at = part.indexOf('\n'); at !== -1; at = part.indexOf('\n', at + 1)) line++;
    return segment;
  });
}

/** The kinds that matter end in these fields; a ConfigMap of 50 MB is not parsed. */
const interesting =
  /^[ \t]*(?:- )?["']?(?:containers|items|targetPort|ports)["']?[ \t]*:|[{,][ \t]*["']?(?:containers|items|ports)["']?[ \t]*:/m;

function readSegment(text: string, line: number, file: string): Segment {
  const body = text.replace(/^---[ \t]*\r?\n/, '');
  const isJson = /^\s*\{/.test(body);
  const unread = { text, line, isJson, value: undefined, document: undefined };
  if (!interesting.test(body)) return body.trim() === '' ? unread : { ...unread, value: glimpse(body) };
  if (isJson) {
    try {
      return { ...unread, value: JSON.parse(body) };
    } catch {
      // A mapping of YAML in braces.
    }
  }
  if (text.length > maxYamlBytes)
    throw invalid(
      file,
      line,
      `this document has more than ${maxYamlBytes / 1_048_576} MB`,
      'split it, or give it as JSON',
    );
  const document = parseDocument(text, yamlOptions);
  const [problem] = document.errors;
  if (problem !== undefined) {
    const [at] = problem.pos;
    const before = text.slice(0, at).split('\n');
    const place = { line: line + before.length - 1, column: before.at(-1)!.length + 1 };
    throw invalid(file, place, reasonOf(problem.message.split('\n')[0]), unquotedBracket(text, at));
  }
  const value = plainOf(document, file, line);
  return { ...unread, isJson: false, value, document: hasAliases(text, document) ? undefined : document };
}

/** Kind and name of a document that is not parsed, for reports. */
function glimpse(body: string): unknown {
  const field = (pattern: RegExp): string | undefined => pattern.exec(body)?.[1];
  const kind = field(/^(?:\{\s*)?["']?kind["']?\s*:\s*["']?([A-Za-z0-9]+)/m);
  if (kind === undefined) return {};
  const name = field(/(?:^[ \t]+|[{,]\s*)["']?name["']?\s*:\s*["']?([\w.-]+)/m);
  const namespace = field(/(?:^[ \t]+|[{,]\s*)["']?namespace["']?\s*:\s*["']?([\w.-]+)/m);
  return { kind, metadata: { ...(name !== undefined && { name }), ...(namespace !== undefined && { namespace }) } };
}

/**
 * As kubectl reads it (YAML 1.1: `0644` is octal, `yes` is true, `<<` merges), without 1.1's times and numbers to base
 * 60, which kubectl does not know either.
 */
const yamlOptions = {
  version: '1.1' as const,
  prettyErrors: false,
  uniqueKeys: true,
  customTags: (tags: unknown[]) =>
    tags
      .filter((tag) => {
        const { tag: name = '', format = '' } = tag as { tag?: string; format?: string };
        return format !== 'TIME' && !/:(?:timestamp|omap|pairs|set|binary)$/.test(name);
      })
      .map((tag) => quick(tag as ScalarTag)) as never,
};

/** What is printed as it is, in every place: it can be read as nothing but this string. */
const plainWord = /^(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][\w./-]*$/i;

/** Strings are printed a third faster when the library does not try all that a string could be. */
function quick(tag: ScalarTag): ScalarTag {
  const { tag: name, stringify: whole } = tag;
  if (name !== 'tag:yaml.org,2002:str' || whole === undefined) return tag;
  return {
    ...tag,
    stringify(item, ...rest) {
      const { type = 'PLAIN', value } = item as Scalar;
      return type === 'PLAIN' && typeof value === 'string' && plainWord.test(value) ? value : whole(item, ...rest);
    },
  };
}

function plainOf(document: Document, file: string, line: number): unknown {
  try {
    // As everywhere: a billion laughs end here.
    return document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw invalid(file, line, reasonOf(error));
  }
}

/** A change behind an alias would change every other place that it stands for. */
function hasAliases(text: string, document: Document): boolean {
  if (!/(?:^|[\s[{,:-])[&*][^\s,[\]{}]/m.test(text)) return false;
  let found = false;
  visit(document, {
    Alias() {
      found = true;
      return visit.BREAK;
    },
  });
  return found;
}

function invalid(file: string, at: number | Place, message: string, hint?: string): SallyportError {
  const place = typeof at === 'number' ? { line: at, column: 1 } : at;
  const problem = { file, ...place, message, ...(hint === undefined ? {} : { hint }) };
  return new SallyportError('config_invalid', `${file}:${place.line}: ${message}`, { problems: [problem], hint });
}

interface Place {
  readonly line: number;
  readonly column: number;
}

function write(
  segment: Segment,
  changes: readonly { path: string; before: unknown; after: unknown }[],
  added: AddedNodes,
): string {
  if (changes.length === 0) return segment.text;
  const { text, isJson, document } = segment;
  const operations = changes.flatMap(({ path, before, after }) =>
    diff(before, after).map((one) => ({ ...one, path: path + one.path })),
  );
  if (operations.length === 0) return text;
  const begins = /^---[^\r\n]*\r?\n/.exec(text)?.[0] ?? '';
  if (isJson) return `${begins}${JSON.stringify(patched(segment.value, changes), null, indentOf(text))}\n`;
  const isDense = isDenseOf(text);
  const style = {
    lineWidth: 0,
    indentSeq: !isDense,
    indent: indentOf(text),
    flowCollectionPadding: !/[{[][^\s{}[\]]/.test(text),
  };
  let printed: string;
  if (document === undefined)
    printed = `${begins}${stringify(patched(segment.value, changes), { ...style, version: '1.1', aliasDuplicateObjects: false })}`;
  else {
    added.style = JSON.stringify(style);
    for (const operation of operations) apply(document, operation, added);
    printed = document.toString(style);
    if (begins !== '' && !printed.startsWith('---')) printed = `---\n${printed}`;
  }
  return text.includes('\r\n') ? printed.replace(/\r?\n/g, '\r\n') : printed;
}

/** The whole value with its changed items. */
function patched(value: unknown, changes: readonly { path: string; after: unknown }[]): unknown {
  if (changes[0]?.path === '') return changes[0].after;
  const copy: unknown = copyOf(value);
  for (const { path, after } of changes) {
    const steps = stepsOf(path);
    const last = steps.pop()!;
    const parent = steps.reduce<unknown>((one, step) => (one as Record<string, unknown>)[step], copy);
    (parent as Record<string, unknown>)[last] = after;
  }
  return copy;
}

/** The first step of indentation in the text; two if there is none. */
function indentOf(text: string): number {
  const found = /^[^\s#-][^\n]*:[ \t]*\r?\n( +)[^\s-]/m.exec(text)?.[1] ?? /^\{\s*\n( +)/.exec(text)?.[1];
  return Math.min(Math.max(found?.length ?? 2, 1), 8);
}

/** Whether most lists are written under their key without indentation, as kubectl prints them. */
function isDenseOf(text: string): boolean {
  let balance = 0;
  for (const [, key = '', item = ''] of text.matchAll(/^( *)(?:- )?[^\s#:-][^\n]*:[ \t]*\r?\n( *)- /gm))
    balance += item.length <= key.length ? 1 : -1;
  return balance > 0;
}

function apply(document: Document, operation: Operation, added: AddedNodes): void {
  const steps = stepsOf(operation.path);
  const last = steps.at(-1)!;
  const parentPath = steps.slice(0, -1);
  const parent = parentPath.length === 0 ? document.contents : document.getIn(parentPath, true);
  if (operation.op === 'remove') return void document.deleteIn(steps);
  const text = JSON.stringify(operation.value);
  const node = added.nodeOf(document, operation.value, text);
  if (operation.op === 'replace') {
    const known = document.getIn(steps, true);
    if (isScalar(known) && isScalar(node)) known.value = node.value;
    else document.setIn(steps, node);
  } else if (isSeq(parent)) parent.items.splice(Number(last), 0, node);
  else if (isMap(parent)) {
    const pair = document.createPair(last, node);
    // A name comes first, by custom.
    if (last === 'name') parent.items.unshift(pair);
    else parent.items.push(pair);
  } else document.setIn(steps, node);
  if (isCollection(parent) && parent.flow && text.length > 100) parent.flow = false;
}

/** Annotations, for one, are never the same twice, and are not to fill the memory. */
const mostShared = 1000;

/**
 * The nodes of what is added, and how they are printed: the sidecars and volumes of a thousand workloads are mostly the
 * same. They stay as they are once they are made, so that documents can share them.
 */
class AddedNodes {
  /** How collections of the document at hand are printed. */
  style = '';
  readonly #nodes = new Map<string, Node>();

  /** `text` is the value as JSON. */
  nodeOf(document: Document, value: unknown, text: string): Node {
    const create = (): Node => document.createNode(value, { aliasDuplicateObjects: false });
    if (typeof value !== 'object' || value === null) return create();
    const key = `${this.style} ${text}`;
    let node = this.#nodes.get(key);
    if (node === undefined) {
      node = create();
      if (isCollection(node)) printOnce(node);
      if (this.#nodes.size < mostShared) this.#nodes.set(key, node);
    }
    return node;
  }
}

/** Keeps what `node` is printed as, at each depth. */
function printOnce(node: YAMLMap | YAMLSeq): void {
  const printed = new Map<string, string>();
  const print = node.toString.bind(node);
  node.toString = (context, onComment, onChompKeep) => {
    if (context === undefined) return print();
    const place = `${context.inFlow}${context.indent}`;
    const known = printed.get(place);
    if (known !== undefined) return known;
    let isKept = true;
    const text = print(context, onComment, () => {
      // Of a string that ends in empty lines: those around it have to know.
      isKept = false;
      onChompKeep?.();
    });
    if (isKept) printed.set(place, text);
    return text;
  };
}
