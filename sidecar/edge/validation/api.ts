// Compares a request with an OpenAPI document: its path and method, its parameters, its body.

import { isAscii, isUtf8 } from 'node:buffer';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf, pathWithoutQuery, preflightFor } from '../../exchange/facts.ts';
import {
  boundaryOf,
  type ContentType,
  isInUtf8,
  isJson,
  isLoose,
  isOnAscii,
  multipart,
  readContentType,
  urlEncoded,
} from '../content.ts';
import { readJson } from '../json.ts';
import { type FormPart, maxParts, readMultipart } from '../multipart.ts';
import type { ApiPlan, Content, Operation, Parameter, Part } from './api-plan.ts';
import { remembered } from './exact.ts';
import { missingBody, valid, wrongType } from './json-body.ts';
import { compileRoutes, isAmbiguous, type RouteMatch } from './routes.ts';
import { type Validator, type Verdict, type Violation, violationsOf } from './violation.ts';
import {
  decode,
  decodeForm,
  isExploded,
  isList,
  type Pair,
  type ReadValue,
  readFromPairs,
  readFromText,
  readPairs,
  typed,
} from './written.ts';

/** The functions of the plan, by name. */
export type Validators = (name: string) => Validator;

/** Finds operations and compares messages with them. */
export interface Api {
  /** The operation of a request; a fault if there is none. */
  find(exchange: Exchange): { readonly operation: Operation; readonly variables: RouteMatch['variables'] } | Verdict;
  checkRequest(exchange: Exchange, body: Buffer): Verdict;
  /** The body may be undefined if it is not known: then the status and the type are compared. */
  checkResponse(
    operation: Operation,
    status: number,
    contentType: string | undefined,
    body: Buffer | undefined,
  ): Verdict;
}

export function compileApi({ operations, escapedSlashes }: ApiPlan, validators: Validators): Api {
  const findOperations = compileRoutes(operations);
  const find: Api['find'] = (exchange) => {
    const found = findOperations(pathWithoutQuery(exchange.path));
    if (found === undefined) return { fault: 'operation_unknown', violations: [] };
    const { methods, variables } = found;
    // RFC 9110 section 9.3.2: HEAD is GET without the body.
    const operation = methods.get(exchange.method) ?? (exchange.method === 'HEAD' ? methods.get('GET') : undefined);
    if (operation !== undefined) return { operation, variables };
    const allow = [...new Set([...methods.keys(), ...(methods.has('GET') ? ['HEAD'] : [])])].toSorted().join(', ');
    return { fault: 'operation_method_unknown', violations: [], fields: [['allow', allow]] };
  };
  return {
    find,
    checkRequest(exchange, body) {
      const found = find(exchange);
      if ('violations' in found) return isUndescribedPreflight(exchange, found) && body.length === 0 ? valid : found;
      const { operation, variables } = found;
      const violations = [
        ...ambiguousIn(operation, variables, escapedSlashes),
        ...checkParameters(exchange, operation, variables, validators),
      ];
      const { fault, violations: ofBody } = checkBody(exchange, operation, body, validators);
      return { fault, violations: [...violations, ...ofBody] };
    },
    checkResponse(operation, status, contentType, body) {
      const response = responseFor(operation, status);
      if (response === undefined) return inResponse('status', `has the undescribed status ${status}`);
      if (body?.length === 0) return valid;
      const type = readContentType(contentType ?? '');
      const content = type === undefined ? undefined : contentFor(response.content, type.type);
      if (type === undefined || content === undefined)
        return inResponse('contentType', 'has a media type that is not described');
      return body === undefined ? valid : checkContent(content, type, body, validators);
    },
  };
}

function inResponse(code: string, detail: string): Verdict {
  return { violations: [{ in: 'body', pointer: '', code, detail }] };
}

/** By the status, else its class, else the default. */
function responseFor({ responses }: Operation, status: number): Operation['responses'][number] | undefined {
  const wanted = [String(status), `${Math.floor(status / 100)}XX`, 'default'];
  return wanted.map((one) => responses.find((response) => response.status === one)).find((one) => one !== undefined);
}

/** The preflight for another method of the same path, which no document describes. */
function isUndescribedPreflight(exchange: Exchange, { fault }: Verdict): boolean {
  return fault === 'operation_method_unknown' && preflightFor(exchange) !== undefined;
}

function ambiguousIn(
  { parameters }: Operation,
  variables: RouteMatch['variables'],
  escapedSlashes: boolean,
): Violation[] {
  return parameters.flatMap((one): Violation[] => {
    const raw = one.in === 'path' ? variables[one.name] : undefined;
    if (raw === undefined || !isAmbiguous(raw, one.style === 'matrix', escapedSlashes)) return [];
    const detail = `must have no dot segment${one.style === 'matrix' ? '' : ', no semicolon'}${escapedSlashes ? '' : ', no slash'}`;
    return [{ in: 'path', name: one.name, pointer: '', code: 'ambiguous', detail }];
  });
}

function checkParameters(
  exchange: Exchange,
  { parameters }: Operation,
  variables: RouteMatch['variables'],
  validators: Validators,
): Violation[] {
  if (parameters.length === 0) return [];
  const { path } = exchange;
  const at = path.indexOf('?');
  const query = at === -1 ? [] : readPairs(path.slice(at + 1));
  if (query === undefined)
    return [{ in: 'query', pointer: '', code: 'encoding', detail: 'must be percent-encoded UTF-8' }];
  const pairs = { query: byName(query), cookie: byName(cookiesOf(exchange)) };
  const check = (parameter: Parameter, pairs: Readonly<Record<'query' | 'cookie', Pairs>>): Violation[] => {
    const place = { in: parameter.in, name: parameter.name };
    const read = readParameter(exchange, parameter, variables, pairs);
    if (read === undefined && !parameter.required) return [];
    // An exploded object without properties has no pairs.
    const isEmpty = (parameter.in === 'query' || parameter.in === 'cookie') && !parameter.json && isExploded(parameter);
    if (read === undefined && !isEmpty) return [{ ...place, pointer: '', code: 'required', detail: 'is required' }];
    const found = read ?? { value: {} };
    if (!('value' in found)) return [{ ...place, pointer: '', ...found }];
    if (parameter.schema === undefined || (parameter.allowEmpty && found.value === '')) return [];
    return violationsOf(found.value, validators(parameter.schema), place);
  };
  return parameters.flatMap((parameter) => {
    if (parameter.in !== 'cookie') return check(parameter, pairs);
    const cookies = unquoted(parameter, pairs.cookie);
    if (cookies === undefined)
      return [{ in: 'cookie', name: parameter.name, pointer: '', code: 'ambiguous', detail: 'must have no quotes' }];
    // Both as it is, and as read by servers that remove the quotes.
    const found = check(parameter, pairs);
    return found.length > 0 || cookies === pairs.cookie ? found : check(parameter, { ...pairs, cookie: cookies });
  });
}

/**
 * The cookies of a parameter without quotes around their values, which some servers remove; undefined if there are quotes
 * or backslashes elsewhere, since those servers resolve escapes (`"\\141"`).
 */
function unquoted(parameter: Parameter, cookies: Pairs): Pairs | undefined {
  const names = [parameter.name, ...(isExploded(parameter) ? Object.keys(parameter.shape.properties ?? {}) : [])];
  let changed = cookies;
  for (const name of names) {
    const raws = cookies.get(name) ?? [];
    if (!raws.some((raw) => /["\\]/.test(raw))) continue;
    // JSON has quotes of its own.
    if (parameter.json && raws.every((raw) => !raw.startsWith('"'))) continue;
    if (!raws.every((raw) => /^(?:"[^"\\]*"|[^"\\]*)$/.test(raw))) return undefined;
    changed = new Map([...changed, [name, raws.map((raw) => raw.replace(/^"(.*)"$/s, '$1'))]]);
  }
  return changed;
}

type Pairs = ReadonlyMap<string, readonly string[]>;

function byName(pairs: readonly Pair[]): Pairs {
  const found = new Map<string, string[]>();
  for (const [name, raw] of pairs) {
    const known = found.get(name);
    if (known === undefined) found.set(name, [raw]);
    else known.push(raw);
  }
  return found;
}

function cookiesOf(exchange: Exchange): Pair[] {
  const value = headerOf(exchange, 'cookie');
  if (value === undefined) return [];
  return value.split(';').map((part): Pair => {
    const at = part.indexOf('=');
    return at === -1 ? ['', part.trim()] : [part.slice(0, at).trim(), part.slice(at + 1).trim()];
  });
}

function readParameter(
  exchange: Exchange,
  parameter: Parameter,
  variables: RouteMatch['variables'],
  pairs: Readonly<Record<'query' | 'cookie', Pairs>>,
): ReadValue {
  const { name } = parameter;
  switch (parameter.in) {
    case 'path':
      return Object.hasOwn(variables, name) ? readFromText(name, parameter, variables[name]!) : undefined;
    case 'query':
      return readFromPairs(name, parameter, pairs.query, decodeForm);
    case 'cookie':
      return readFromPairs(name, parameter, pairs.cookie, decode);
    case 'header':
      return readHeader(exchange, parameter);
  }
}

/** A list may have several lines; anything else is written once. */
function readHeader(exchange: Exchange, parameter: Parameter): ReadValue {
  const lower = parameter.name.toLowerCase();
  // The app gets the ID of the proxy if the request has none.
  const value = headerOf(exchange, lower) ?? (lower === 'x-request-id' ? exchange.requestId : undefined);
  if (value === undefined) return undefined;
  const lines = exchange.fields.names.filter((one) => one.lower === lower).length;
  if (lines > 1 && !isList(parameter.shape)) return { code: 'repeated', detail: 'must occur exactly once' };
  // RFC 9110 section 5.6.1: spaces around commas belong to no value. OpenAPI encodes nothing in headers.
  const text = parameter.json ? value : value.replace(/[ \t]*,[ \t]*/g, ',').trim();
  return readFromText(parameter.name, parameter, text, (raw) => raw);
}

function checkBody(exchange: Exchange, { body, method }: Operation, bytes: Buffer, validators: Validators): Verdict {
  if (bytes.length === 0)
    return body?.required === true && exchange.method === method ? { violations: [missingBody] } : valid;
  if (body === undefined)
    return { violations: [{ in: 'body', pointer: '', code: 'unexpected', detail: 'the operation has no body' }] };
  const said = headerOf(exchange, 'content-type') ?? '';
  const type = readContentType(said);
  const content = type === undefined ? undefined : contentFor(body.content, type.type);
  if (type === undefined || content === undefined)
    return wrongType(
      said,
      type,
      body.content.map((one) => one.type),
    );
  return checkContent(content, type, bytes, validators);
}

/** The most specific content for a media type. */
export function contentFor(content: readonly Content[], type: string): Content | undefined {
  return content.find((one) => isInRange(type, one.type));
}

/** True for a media type in a range: any, `text/*`, or `application/*+json`, as ASP.NET describes its bodies. */
function isInRange(type: string, range: string): boolean {
  const at = range.indexOf('*');
  if (at === -1 || range === '*/*') return at !== -1 || type === range;
  return type.length >= range.length && type.startsWith(range.slice(0, at)) && type.endsWith(range.slice(at + 1));
}

/** Compares a body with its content. */
export function checkContent(content: Content, type: ContentType, bytes: Buffer, validators: Validators): Verdict {
  if ((isJson(type.type) || isLoose(type.type)) && !isInUtf8(type))
    return { fault: 'content_type_unsupported', violations: [] };
  const read = readBody(content, type, bytes);
  if (read === undefined) return valid;
  if ('violations' in read) return read;
  if (content.schema === undefined) return valid;
  return { violations: violationsOf(read.value, validators(content.schema), { in: 'body' }) };
}

/** The value of a body; undefined if bodies of its type are not compared. */
function readBody(
  content: Content,
  type: ContentType,
  bytes: Buffer,
): { readonly value: unknown } | Verdict | undefined {
  if (isJson(type.type)) {
    const read = remembered(readJson(bytes));
    return 'fault' in read ? { fault: read.fault, violations: [] } : read;
  }
  if (type.type === urlEncoded) return readForm(content, bytes);
  if (type.type === multipart) return readMultipartForm(content, readMultipart(bytes, boundaryOf(type)));
  if (!type.type.startsWith('text/')) return undefined;
  return isUtf8(bytes) ? { value: typed(bytes.toString('utf8'), content.shape) } : unreadableForm;
}

/** A field with the charset of the others (RFC 7578 section 4.6, and HTML's forms). */
const charsetField = '_charset_';
const isNameOfUtf8 = (text: string): boolean => /^utf-8$/i.test(text);

const unreadableForm: Verdict = Object.freeze({ fault: 'form_invalid', violations: [] });

function inForm(name: string, code: string, detail: string): Verdict {
  const pointer = `/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
  return { violations: [{ in: 'body', pointer: pointer.length > 256 ? '' : pointer, code, detail }] };
}

function readForm({ parts }: Content, bytes: Buffer): { readonly value: unknown } | Verdict {
  const pairs = isUtf8(bytes) ? readPairs(bytes.toString('utf8')) : undefined;
  if (pairs === undefined || pairs.length > maxParts) return unreadableForm;
  const all = byName(pairs);
  if (all.get(charsetField)?.every(isNameOfUtf8) === false) return unreadableForm;
  const value = new Map<string, unknown>();
  const used = new Set<string>();
  for (const [name, part] of Object.entries(parts)) {
    const read = readFromPairs(name, part, all, decodeForm);
    used.add(name);
    if (!part.json && isExploded(part)) for (const key of Object.keys(part.shape.properties ?? {})) used.add(key);
    if (part.style === 'deepObject') for (const key of all.keys()) if (key.startsWith(`${name}[`)) used.add(key);
    if (read === undefined) continue;
    if (!('value' in read)) return inForm(name, read.code, read.detail);
    value.set(name, read.value);
  }
  for (const [name, raws] of all) {
    if (used.has(name)) continue;
    const texts = raws.map(decodeForm);
    if (texts.includes(undefined)) return unreadableForm;
    value.set(name, texts.length === 1 ? texts[0] : texts);
  }
  return { value: Object.fromEntries(value) };
}

const unknownPart: Part = Object.freeze({ types: [], json: false, shape: { types: [] }, style: 'form', explode: true });

function readMultipartForm(
  { parts }: Content,
  read: readonly FormPart[] | undefined,
): { readonly value: unknown } | Verdict {
  if (read === undefined) return unreadableForm;
  const value = new Map<string, unknown>();
  for (const one of read) {
    const { name } = one;
    if (name === charsetField && !isNameOfUtf8(one.body.toString('latin1'))) return unreadableForm;
    const part = Object.hasOwn(parts, name) ? parts[name]! : unknownPart;
    const isMany = isList(part.shape);
    const partValue = readPartValue(one, part, isMany ? (part.shape.items ?? unknownPart.shape) : part.shape);
    if (!('value' in partValue)) return inForm(name, partValue.code, partValue.detail);
    const before = value.get(name);
    // A list may be a part of its own, or a part for each item.
    if (isMany && !Array.isArray(partValue.value)) value.set(name, [...((before ?? []) as unknown[]), partValue.value]);
    else if (value.has(name)) return inForm(name, 'repeated', 'must occur exactly once');
    else value.set(name, partValue.value);
  }
  return { value: Object.fromEntries(value) };
}

type PartValue = { readonly value: unknown } | { readonly code: string; readonly detail: string };

function readPartValue({ type, isFile, body }: FormPart, { types, json }: Part, shape: Part['shape']): PartValue {
  const own = type === undefined ? undefined : readContentType(type, true);
  if (type !== undefined && own === undefined) return { code: 'contentType', detail: 'must have one media type' };
  if (own !== undefined && !isInUtf8(own) && !(isOnAscii(own) && (isFile || isAscii(body))))
    return { code: 'encoding', detail: 'must be UTF-8' };
  const said = own?.type ?? (isFile ? 'application/octet-stream' : json ? 'application/json' : 'text/plain');
  if (types.length > 0 && !types.some((range) => isInRange(said, range)))
    return { code: 'contentType', detail: 'has a media type that is not accepted' };
  // A file may be of any type, JSON too.
  if (shape.isBinary === true && !json) return { value: body.toString('latin1') };
  if (isJson(said) || (json && own === undefined)) {
    const read = remembered(readJson(body));
    if ('fault' in read) return { code: read.fault, detail: 'must be JSON' };
    // An app that does not expect JSON reads the text with its quotes and escapes.
    if (typeof read.value === 'string' && !json) return { code: 'contentType', detail: 'must not be JSON' };
    return read;
  }
  // The bytes of a file, each as a character: a schema can only restrict its length.
  if (isFile || !said.startsWith('text/')) return { value: body.toString('latin1') };
  if (!isUtf8(body)) return { code: 'encoding', detail: 'must be UTF-8' };
  return { value: typed(body.toString('utf8'), shape) };
}
