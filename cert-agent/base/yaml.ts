// Parse, don't validate: text becomes a complete, typed, frozen value, or a list of all problems with their positions.
// Unknown keys are errors, with the nearest known key as a hint. So are duplicate keys and all YAML errors and
// warnings.

import {
  type Alias,
  CST,
  type Document,
  isMap,
  isNode,
  isPair,
  isScalar,
  Lexer,
  LineCounter,
  type Node,
  parseAllDocuments,
  type Range,
  visit,
  type YAMLError,
} from 'yaml';
import { z } from 'zod';
import { durationPattern, parseDuration } from './clock.ts';
import { didYouMean } from './did-you-mean.ts';
import { type Problem, reasonOf, SallyportError } from './errors.ts';
import { deepFreeze } from './live.ts';
import { keysAt, whereItBelongs } from './schema-keys.ts';
import { unquotedBracket } from './unquoted-bracket.ts';

export interface ProblemOptions {
  readonly key?: string;
  readonly hint?: string | undefined;
  /** Looks for a hint where there is none; it takes about a millisecond. */
  readonly search?: () => string | undefined;
}

/** Searches for hints in one text: who gave a file of wrong keys reads no more of them, and would wait for seconds. */
const mostSearches = 20;

/** One YAML document with source positions. `value` is plain data. */
export interface YamlDocument {
  readonly value: unknown;
  /** The problem `message`, positioned at the value under `path` or, with `key`, at that key of it. */
  problemAt(path: readonly PropertyKey[], message: string, options?: ProblemOptions): Problem;
}

/** Documents without errors of their own, even beside broken ones. `problems` has errors and warnings. */
export interface ParsedYaml {
  readonly documents: readonly YamlDocument[];
  readonly problems: readonly Problem[];
}

/** The largest text that is read, in characters. */
const longestText = 16 * 1_048_576;

/** How many scalars and collections are read of a text. Each takes some 10 us and 2 KB, however short it is. */
const mostNodes = 1_000_000;

/** A shorter text cannot have so many that it matters; counting takes a tenth of the time of parsing. */
const uncountedText = 262_144;

/**
 * The documents of a YAML or JSON text, without empty ones, and the YAML problems. A text that is too large is a problem,
 * too. Never throws.
 */
export function parseYaml(text: string, file: string): ParsedYaml {
  if (text.length > longestText) {
    const message = `the file is too large: at most ${longestText / 1_048_576} MiB are read`;
    return { documents: [], problems: [{ file, line: 1, column: 1, message, hint: 'split it into several files' }] };
  }
  const tooMany = beyondMostNodes(text);
  if (tooMany !== undefined) {
    const message = `the file has too many values: at most ${mostNodes} are read`;
    return { documents: [], problems: [{ file, ...tooMany, message, hint: 'split it into several files' }] };
  }
  const lines = new LineCounter();
  const problems: Problem[] = [];
  const documents: YamlDocument[] = [];
  const searches = { left: mostSearches };
  const options = { lineCounter: lines, prettyErrors: false, uniqueKeys: true, stringKeys: true } as const;
  for (const document of parseAllDocuments(text, options)) {
    const causes = document.errors.filter(({ code }, index) => index === 0 || !consequences.has(code));
    for (const error of [...causes, ...document.warnings]) {
      const hint = unquotedBracket(text, error.pos[0]);
      problems.push({
        ...placeOf(lines, error.pos[0]),
        file,
        message: messageOf(error),
        ...(hint === undefined ? {} : { hint }),
      });
    }
    const lost = unresolvedAliases(document);
    for (const { range } of lost)
      problems.push({
        ...placeOf(lines, range?.[0] ?? 0),
        file,
        message: `no anchor precedes this alias; ${quoting}`,
      });
    if (document.errors.length > 0 || lost.length > 0) continue;
    try {
      // maxAliasCount stops the billion-laughs attack: ten lines of aliases that expand to gigabytes.
      const value: unknown = document.toJS({ maxAliasCount: 100 });
      // Templates leave an empty document between two `---`. kubectl skips it as well.
      if (value === null) continue;
      documents.push(locate(document, value, file, lines, searches));
    } catch (error) {
      problems.push({ file, line: 1, column: 1, message: reasonOf(error) });
    }
  }
  return { documents, problems };
}

/** Where the first node is that is one too many. */
function beyondMostNodes(text: string): { line: number; column: number } | undefined {
  if (text.length <= uncountedText) return undefined;
  let [nodes, line, column] = [0, 1, 1];
  for (const token of new Lexer().lex(text)) {
    const type = CST.tokenType(token);
    if (type !== null && nodeTokens.has(type) && ++nodes > mostNodes) return { line, column };
    // A text of several lines is one token.
    if (!token.includes('\n')) column += marks.has(token) ? 0 : token.length;
    else [line, column] = [line + token.split('\n').length - 1, token.length - token.lastIndexOf('\n')];
  }
  return undefined;
}

/** What begins a node. A scalar without quotes has a token in front of it that says so. */
const nodeTokens: ReadonlySet<string> = new Set([
  ...['scalar', 'single-quoted-scalar', 'double-quoted-scalar', 'block-scalar-header', 'alias'],
  ...['flow-seq-start', 'flow-map-start', 'seq-item-ind', 'doc-start'],
]);

/** Tokens of the lexer that are not in the text. */
const marks: ReadonlySet<string> = new Set([CST.DOCUMENT, CST.FLOW_END, CST.SCALAR]);

/**
 * The only document of `text`, parsed by `schema` and deeply frozen.
 * @throws SallyportError `config_invalid` with all problems and their positions.
 */
export function readYaml<S extends z.ZodType>(schema: S, text: string, file: string): z.output<S> {
  const { documents, problems } = parseYaml(text, file);
  if (problems.length > 0) throw configError(problems);
  const [document, second] = documents;
  if (document === undefined) throw configError([{ file, line: 1, column: 1, message: 'the file is empty' }]);
  if (second !== undefined) throw configError([second.problemAt([], 'only one document is expected here')]);
  const read = readDocument(schema, document);
  if ('problems' in read) throw configError(read.problems);
  return read.value;
}

/** Parses a document by `schema`: its frozen value, or all problems. */
export function readDocument<S extends z.ZodType>(
  schema: S,
  document: YamlDocument,
): { value: z.output<S> } | { problems: Problem[] } {
  const result = schema.safeParse(document.value);
  if (result.success) return { value: deepFreeze(result.data) };
  return { problems: result.error.issues.flatMap((issue) => problemsOf(issue, schema, document, [])) };
}

/** The error that carries `problems`. Its message is the first of them and the number of the others. */
export function configError(problems: readonly Problem[]): SallyportError {
  const [first] = problems;
  const rest = problems.length > 1 ? ` (and ${problems.length - 1} more)` : '';
  const place = first === undefined ? '' : `${first.file}:${first.line}:${first.column}: `;
  return new SallyportError('config_invalid', `${place}${first?.message ?? 'invalid configuration'}${rest}`, {
    problems,
    hint: first?.hint,
  });
}

/** A duration such as `10s` or `1h30m`, as milliseconds. */
export const durationSchema = z
  .string()
  .transform((text, context) => {
    const ms = parseDuration(text);
    if (ms !== undefined) return ms;
    context.addIssue({ code: 'custom', message: `'${text}' is not a duration: write 500ms, 10s, 5m, 1h or 1h30m` });
    return z.NEVER;
  })
  .meta({ unit: 'duration', pattern: durationPattern.source });

/** Aliases that no anchor precedes. One pass: resolving each alias by itself would take quadratic time. */
function unresolvedAliases(document: Document): Alias[] {
  const anchors = new Set<string>();
  const lost: Alias[] = [];
  visit(document, {
    Alias(_key, alias) {
      if (!anchors.has(alias.source)) lost.push(alias);
    },
    Value(_key, { anchor }) {
      if (anchor !== undefined) anchors.add(anchor);
    },
  });
  return lost;
}

function locate(
  document: Document,
  value: unknown,
  file: string,
  lines: LineCounter,
  searches: { left: number },
): YamlDocument {
  return {
    value,
    problemAt(path, message, options = {}) {
      const hint =
        options.hint ?? (options.search === undefined || searches.left-- <= 0 ? undefined : options.search());
      const offset = offsetOf(document, path, options.key);
      return {
        file,
        ...placeOf(lines, offset),
        message,
        ...(hint === undefined ? {} : { hint }),
      };
    },
  };
}

/** The offset of the node at `path` or, for a missing key, of the nearest node above it. */
function offsetOf(document: Document, path: readonly PropertyKey[], key: string | undefined): number {
  let offset = (document.contents?.range as Range | undefined)?.[0] ?? 0;
  let node: unknown = document.contents;
  for (const step of path) {
    const next: unknown =
      isNode(node) && 'get' in node ? (node.get as (k: unknown, keep: boolean) => unknown)(step, true) : undefined;
    if (!isNode(next)) break;
    node = next;
    offset = (next.range as Range | undefined)?.[0] ?? offset;
  }
  if (key !== undefined && isMap(node)) {
    const pair = node.items.find((item) => isPair(item) && isScalar(item.key) && String(item.key.value) === key);
    offset = ((pair?.key as Node | undefined)?.range as Range | undefined)?.[0] ?? offset;
  }
  return offset;
}

function placeOf(lines: LineCounter, offset: number): { line: number; column: number } {
  const { line, col } = lines.linePos(offset);
  return { line: Math.max(line, 1), column: Math.max(col, 1) };
}

type Issue = z.core.$ZodIssue;

function problemsOf(issue: Issue, schema: z.ZodType, document: YamlDocument, base: readonly PropertyKey[]): Problem[] {
  const path = [...base, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(schema, path);
    return issue.keys.map((key) => {
      const hint = didYouMean(key, known);
      const search = (): string | undefined => whereItBelongs(schema, path, key);
      return document.problemAt(path, `unknown key '${key}'`, { key, hint, search });
    });
  }
  if (issue.code === 'invalid_key') {
    const key = String(path.at(-1));
    const why = issue.issues.map((one) => one.message).join('; ');
    return [document.problemAt(path.slice(0, -1), `${nameOf(path.slice(0, -1))}: '${key}': ${why}`, { key })];
  }
  if (issue.code === 'invalid_union') {
    // The alternative that matched furthest is probably the intended one.
    const deepest = issue.errors.toSorted((a, b) => depthOf(b) - depthOf(a))[0];
    if (deepest !== undefined && depthOf(deepest) > 0) {
      return deepest.flatMap((inner) => problemsOf(inner, schema, document, path));
    }
    return [
      document.problemAt(
        path,
        `${nameOf(path)}: ${issue.message === 'Invalid input' ? 'matches no accepted form' : issue.message}`,
      ),
    ];
  }
  const plain = issue.code === 'custom' ? issue.message : lowerFirst(issue.message);
  const message = plain.replace(/^invalid input: (expected .*), received undefined$/, 'is missing: $1');
  return [document.problemAt(path, path.length === 0 ? message : `${nameOf(path)}: ${message}`)];
}

function depthOf(issues: readonly Issue[]): number {
  return Math.max(0, ...issues.map((issue) => issue.path.length + (issue.code === 'unrecognized_keys' ? 1 : 0)));
}

/** A path as messages write it: `spec.rules[0].to`. */
export function nameOf(path: readonly PropertyKey[]): string {
  return path
    .map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`))
    .join('')
    .replace(/^\./, '');
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** What the parser finds after another error of the same document, because it has lost its place there. */
const consequences: ReadonlySet<string> = new Set([
  ...['UNEXPECTED_TOKEN', 'BAD_INDENT', 'MISSING_CHAR', 'MULTILINE_IMPLICIT_KEY', 'BLOCK_AS_IMPLICIT_KEY'],
]);

/** A password may begin with either, and must not appear in a message. */
const quoting = "quote a string that begins with '*' or '!'";

function messageOf(error: YAMLError): string {
  return error.code === 'TAG_RESOLVE_FAILED' ? `unknown tag; ${quoting}` : reasonOf(error);
}
