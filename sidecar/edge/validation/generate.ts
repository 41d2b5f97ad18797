// Turns schemas into JavaScript with ajv, in the process that reads documents: the processes that serve load neither
// ajv nor the schemas, and compile nothing on their event loop.
//
// Two programs are generated. The first stops at the first violation, and its verdict counts. The second finds all
// places; it may take quadratic time, so it runs only after a refusal, and within a budget.

import { _, Ajv, type KeywordCxt, Name, type Options, str, stringify } from 'ajv';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { getProperty } from 'ajv/dist/compile/codegen/index.js';
import standalone from 'ajv/dist/standalone/index.js';
import { callRef } from 'ajv/dist/vocabularies/core/ref.js';
import unevaluated from 'ajv/dist/vocabularies/unevaluated/unevaluatedProperties.js';
import enumeration from 'ajv/dist/vocabularies/validation/enum.js';
import { reasonOf } from '../../../cert-agent/base/errors.ts';
import { circlesIn } from './circles.ts';
import { exactKeyword, isExact, withExact } from './exact.ts';
import { formats, numberFormats } from './formats.ts';
import { metered } from './meter.ts';
import { isMultiple } from './multiple.ts';
import { compilePattern, whyUnusable } from './pattern.ts';
import { type Node, walkSchema } from './subschemas.ts';
import { isOneOf, isUnique, withoutPrototype } from './support.ts';

/** Both programs, as text for `loadValidators`. */
export interface Programs {
  readonly verdict: string;
  readonly places: string;
}

/** A problem of a schema, and its place. */
export interface SchemaProblem {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/** The dialects of JSON Schema that are read. */
export type Draft = '2020-12' | 'draft-07';

/** The dialects that are read, by their `$schema`. */
const drafts: Readonly<Record<string, Draft>> = {
  'https://json-schema.org/draft/2020-12/schema': '2020-12',
  'http://json-schema.org/draft-07/schema': 'draft-07',
};

/** The dialect of a schema; undefined if it is not read. Without `$schema` it is 2020-12. */
export function draftOf({ $schema }: Node): Draft | undefined {
  if ($schema === undefined) return '2020-12';
  return typeof $schema === 'string' ? drafts[$schema.replace(/#$/, '')] : undefined;
}

function createAjv(draft: Draft, allErrors: boolean, optimize: number | false = 1): Ajv {
  // support.ts provides what the generated programs require.
  const regExp = Object.assign((pattern: string) => compilePattern(pattern), { code: 'require("sallyport/pattern")' });
  const options: Options = {
    // An unknown keyword or format would have no effect although its author expects one.
    ...{ strict: true, strictTypes: false, strictTuples: false, strictRequired: false, logger: false },
    // `ownProperties`: `{}` has no property `constructor`.
    ...{ ownProperties: true, allErrors, unicodeRegExp: true },
    code: { source: true, optimize, regExp: regExp as never, formats: _`require("sallyport/formats")` },
  };
  const ajv = draft === 'draft-07' ? new Ajv(options) : (new Ajv2020(options) as unknown as Ajv);
  for (const [name, validate] of Object.entries(formats)) ajv.addFormat(name, { type: 'string', validate });
  for (const [name, validate] of Object.entries(numberFormats)) ajv.addFormat(name, { type: 'number', validate });
  // ajv's own compares each item with each.
  ajv.removeKeyword('uniqueItems');
  ajv.addKeyword({
    ...{ keyword: 'uniqueItems', type: 'array', schemaType: 'boolean' },
    error: { message: 'must NOT have duplicate items' },
    code(cxt: KeywordCxt) {
      if (cxt.schema !== true) return;
      const unique = cxt.gen.scopeValue('func', { ref: isUnique, code: _`require("sallyport/unique")` });
      cxt.pass(_`${unique}(${cxt.data})`);
    },
  });
  ownEnum(ajv);
  ajv.addKeyword({
    ...{ keyword: exactKeyword, type: 'number', schemaType: ['string', 'array'] },
    // Under `not`, what a limit refuses would pass.
    before: 'maximum',
    code(cxt: KeywordCxt) {
      const exact = cxt.gen.scopeValue('func', { ref: isExact, code: _`require("sallyport/exact")` });
      cxt.pass(_`${exact}(${cxt.data}, ${stringify(cxt.schema)})`);
    },
  });
  ajv.removeKeyword('multipleOf');
  ajv.addKeyword({
    ...{ keyword: 'multipleOf', type: 'number', schemaType: 'number' },
    error: { message: ({ schemaCode }) => str`must be multiple of ${schemaCode}` },
    code(cxt: KeywordCxt) {
      const multiple = cxt.gen.scopeValue('func', { ref: isMultiple, code: _`require("sallyport/multiple")` });
      cxt.pass(_`${multiple}(${cxt.data}, ${cxt.schemaCode})`);
    },
  });
  if (draft === '2020-12') ownUnevaluated(ajv);
  return ajv;
}

/** ajv compares a value with each of the list. */
function ownEnum(ajv: Ajv): void {
  const { default: original } = enumeration;
  ajv.removeKeyword('enum');
  ajv.addKeyword({
    ...original,
    $data: false,
    code(cxt: KeywordCxt) {
      const values = stringify(cxt.schema);
      const code = _`require("sallyport/enum")(${values})`;
      const isIn = cxt.gen.scopeValue('func', { ref: isOneOf(cxt.schema), key: `enum ${values}`, code });
      cxt.pass(_`${isIn}(${cxt.data})`);
    },
  });
}

/** ajv looks names up in an object that inherits: `constructor` and `toString` would count as evaluated. */
function ownUnevaluated(ajv: Ajv): void {
  const { default: original } = unevaluated;
  ajv.removeKeyword(original.keyword as string);
  ajv.addKeyword({
    ...original,
    code(cxt: KeywordCxt) {
      const { gen, it } = cxt;
      if (it.props instanceof Name) {
        const own = gen.scopeValue('func', { ref: withoutPrototype, code: _`require("sallyport/own")` });
        gen.assign(it.props, _`${own}(${it.props})`);
      }
      original.code(cxt);
    },
  });
}

/**
 * All problems of a schema: against its dialect, and keywords that cannot be evaluated here.
 * @param path its place in the document
 */
export function problemsOf(schema: unknown, draft: Draft, path: SchemaProblem['path'] = []): SchemaProblem[] {
  const ajv = createAjv(draft, true);
  if (ajv.validateSchema(schema as never) !== true) {
    // The first for each place: the others say which alternatives it does not match either.
    const first = new Map((ajv.errors ?? []).toReversed().map((one) => [one.instancePath, one]));
    return [...first.values()].map(({ instancePath, message = 'is invalid', params }) => ({
      path: [...path, ...stepsOf(instancePath)],
      message: `not a valid JSON Schema: it ${message}${Array.isArray(params['allowedValues']) ? ` (${params['allowedValues'].join(', ')})` : ''}`,
    }));
  }
  const problems: SchemaProblem[] = circlesIn(schema).map((at) => ({
    ...{ path: [...path, ...at], message: circleHint },
  }));
  // ajv then counts all items as evaluated, not only those that match.
  let hasContains = false;
  walkSchema(schema, [], (one) => {
    hasContains ||= Object.hasOwn(one, 'contains');
  });
  walkSchema(schema, path, (one, at) => {
    for (const [keyword, value] of Object.entries(one)) {
      const note = (message: string, ...more: readonly string[]): void =>
        void problems.push({ path: [...at, keyword, ...more], message });
      if (keyword === '$ref' && typeof value === 'string' && isRemote(value, schema as Node))
        note(`'${value}': remote references are never fetched: copy the schema into this document`);
      else if (keyword === 'format' && !isKnownFormat(String(value))) note(`the format '${value}' is unknown`);
      else if (keyword === 'pattern') checkPattern(String(value), note);
      else if (keyword === 'patternProperties')
        for (const pattern of Object.keys(value as object)) checkPattern(pattern, (why) => note(why, pattern));
      else if (keyword === 'nullable') note(`'nullable' is not a keyword of JSON Schema: use type: [..., 'null']`);
      else if (keyword === 'unevaluatedItems' && hasContains)
        note(`'unevaluatedItems' cannot be evaluated beside 'contains'`);
      else if (keyword === 'properties' && Object.hasOwn(value as object, '__proto__'))
        note(`the property '__proto__' cannot be evaluated`, '__proto__');
      else if ((!Object.hasOwn(ajv.RULES.keywords, keyword) || keyword === '$async') && !keyword.startsWith('x-'))
        note(`unknown keyword '${keyword}'`);
    }
  });
  return problems;
}

const circleHint =
  'the reference leads back to its own schema, for the same value: move what both need to a schema that both refer to';

export function isKnownFormat(name: string): boolean {
  return Object.hasOwn(formats, name) || Object.hasOwn(numberFormats, name);
}

function checkPattern(pattern: string, note: (why: string) => void): void {
  const why = whyUnusable(pattern);
  if (why !== undefined)
    note(
      `the pattern '${pattern}' cannot be evaluated in linear time (RE2 syntax): ${why.replace(/^error parsing regexp: /, '')}`,
    );
}

/** True for an absolute reference to none of the identifiers in this schema, or to no dialect. */
function isRemote(reference: string, root: Node): boolean {
  const [base = ''] = reference.split('#', 1);
  if (!/^[a-z][a-z0-9+.-]*:|^\/\//i.test(base) || Object.hasOwn(drafts, base)) return false;
  let isHere = false;
  walkSchema(root, [], ({ $id }) => {
    isHere ||= typeof $id === 'string' && (URL.parse($id, String(root['$id'] ?? 'schema:/'))?.href ?? $id) === base;
  });
  return !isHere;
}

/** A JSON pointer's parts. */
function stepsOf(pointer: string): (string | number)[] {
  const parts = pointer.split('/').slice(1);
  return parts
    .map((one) => one.replaceAll('~1', '/').replaceAll('~0', '~'))
    .map((one) => (/^\d+$/.test(one) ? Number(one) : one));
}

/**
 * Generates the function `body` for a schema that stands alone.
 * @throws Error if a reference has no target.
 */
export function generateOne(schema: Node, draft: Draft): Programs {
  return bothPrograms((allErrors) => {
    const ajv = createAjv(draft, allErrors);
    for (const keyword of extensionsIn(schema)) ajv.addKeyword(keyword);
    ajv.addSchema(withExact(schema), 'body', undefined, false);
    return standalone.default(ajv, { body: 'body' });
  });
}

/**
 * Generates a function for each of `$defs`, under its name. Their references are all `#/$defs/name`. Each schema is
 * compiled for itself, and calls the others when it runs: ajv would follow a chain of a few hundred references until its
 * stack is full.
 */
export function generateAll({ $defs }: { readonly $defs: Node }): Programs {
  const names = Object.keys($defs);
  const parts = Array.from({ length: Math.ceil(names.length / functionsInPart) }, (_part, index) =>
    names.slice(index * functionsInPart, (index + 1) * functionsInPart),
  );
  const areMany = names.length > mostOptimized;
  return bothPrograms((allErrors) => parts.map((part) => generatePart(part, $defs, allErrors, areMany)).join(''));
}

/** A block with some of the functions, from an ajv of its own: one would keep all of them in memory. */
function generatePart(names: readonly string[], $defs: Node, allErrors: boolean, areMany: boolean): string {
  const ajv = createAjv('2020-12', allErrors, areMany ? false : 1);
  ajv.removeKeyword('$ref');
  ajv.addKeyword({
    keyword: '$ref',
    schemaType: 'string',
    code: (cxt: KeywordCxt) => callRef(cxt, _`exports${getProperty(String(cxt.schema).slice('#/$defs/'.length))}`),
  });
  for (const name of names) ajv.addSchema(withExact($defs[name] as Node), name, undefined, false);
  return `{${standalone.default(ajv, Object.fromEntries(names.map((name) => [name, name])))}}`;
}

/** ajv's optimization of the code takes half of the time. */
const mostOptimized = 500;
const functionsInPart = 100;

function bothPrograms(program: (allErrors: boolean) => string): Programs {
  try {
    return { verdict: counted(program(false)), places: counted(program(true)) };
  } catch (error) {
    throw new Error(reasonOf(error), { cause: error });
  }
}

function extensionsIn(schema: Node): ReadonlySet<string> {
  const found = new Set<string>();
  walkSchema(schema, [], (one) => {
    for (const keyword of Object.keys(one))
      if (keyword.startsWith('x-') && keyword !== exactKeyword) found.add(keyword);
  });
  return found;
}

/**
 * ajv merges a called function's evaluated names into its caller's, in place: without a copy, one schema would
 * know the fields of all schemas that refer to it.
 */
const merged = /(var props\d+ = )([\w.]+\.evaluated\.props);/g;

/** Texts of the schema, which may look like code. */
const texts = /"(?:[^"\\]|\\.)*"/g;

/** The end of a place, by a client's name. */
const escaped = /(\w+)\.replace\(\/~\/g, ("\d+")\)\.replace\(\/\\\/\/g, ("\d+")\)/g;

/** Functions that a program calls and that take time by the length of a value: each has a counted form. */
const costly = /\bObject\.(keys|assign)\(/g;

/** ajv copies all violations so far for each called function that finds more. */
const copying = /\bvErrors\.concat\(/g;

const provided =
  '"use strict";const countCall = require("sallyport/count"), spend = require("sallyport/spend"), ' +
  'copyOf = require("sallyport/copy"), escape = require("sallyport/escape"), keys = require("sallyport/keys"), ' +
  'assign = require("sallyport/assign"), joined = require("sallyport/joined");';

function counted(written: string): string {
  const kept: string[] = [];
  const program = written.replace(texts, (text) => (text === '""' ? text : `"${kept.push(text) - 1}"`));
  const counted = metered(program)
    .replace(merged, '$1copyOf($2);')
    .replace(escaped, 'escape($1)')
    .replace(costly, '$1(')
    .replace(copying, 'joined(vErrors, ');
  return `${provided}${counted.replace(/"(\d+)"/g, (_, index: string) => kept[Number(index)]!)}`;
}
