// Requests in JSON become messages, and messages JSON, by the mapping of protobuf (@bufbuild/protobuf passes its
// conformance tests).

import { isUtf8 } from 'node:buffer';
import {
  type DescField,
  type DescMessage,
  fromBinary,
  fromJsonString,
  type JsonValue,
  type Message,
  mergeFromJson,
  toBinary,
  toJson,
} from '@bufbuild/protobuf';
import { isFieldError } from '@bufbuild/protobuf/reflect';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { framed } from '../../protocol/grpc.ts';
import { type Binding, type Bindings, readBindings } from './bindings.ts';
import { fieldAt, setText, type Tree, textReader } from './field-text.ts';
import type { GrpcJsonPlan } from './schema.ts';
import type { StatusJson } from './status.ts';
import { detailsIn } from './status-details.ts';
import { EscapesInvalid, valuesOf } from './template.ts';

/** A request that a binding stands for. */
export interface Match {
  readonly binding: Binding;
  /** Of the path, without a verb. */
  readonly segments: readonly string[];
}

/** Deeper than any message in use; recursion is bounded by it. */
const maxDepth = 64;

/** Lists and maps of messages have two brackets for each. */
const maxBrackets = 4 * maxDepth;

/** More than any client sets; each costs the reading of a field. */
const maxParameters = 1000;

/** JSON values in a body: reading that many takes up to 0.2 s. Larger bodies may have more. */
const fewestValues = 50_000;
const bytesPerValue = 20;

/** Transcodes by one policy's descriptor set. */
export class Transcoder {
  readonly #plan: GrpcJsonPlan;
  readonly #bindings: Bindings;
  readonly #ignored: ReadonlySet<string>;

  /** @throws Error for a plan that its schema would refuse. */
  constructor(plan: GrpcJsonPlan) {
    const read = readBindings(plan.protoDescriptorBin, plan.services, plan.autoMapping);
    if ('problems' in read) throw new Error(read.problems[0]?.message);
    this.#plan = plan;
    this.#bindings = read.bindings;
    this.#ignored = new Set(plan.ignoredQueryParameters);
  }

  /** The binding of a request, or the methods that its path has, or undefined. */
  find(method: string, path: string): Match | readonly string[] | undefined {
    const found = this.#bindings.tree.find(
      path,
      // RFC 9110 section 9.3.2: HEAD is GET without the body.
      (byMethod) => byMethod.get(method) ?? (method === 'HEAD' ? byMethod.get('GET') : undefined) ?? byMethod.get('*'),
    );
    if ('value' in found) return { binding: found.value, segments: found.segments };
    return found.length === 0 ? undefined : found.toSorted();
  }

  /**
   * The body for the backend: one message, or several where the client streams.
   * @throws SallyportError `request_invalid`, or a code of JSON
   */
  encode({ binding, segments }: Match, query: string, body: Buffer): Buffer {
    const { body: place } = binding;
    if (place === undefined && body.length > 0) throw invalid('the method takes no body');
    if (!isUtf8(body)) throw new SallyportError('json_not_utf8', 'the body is not UTF-8');
    const text = body.toString();
    checkText(text, Math.max(fewestValues, this.#plan.maxRequestBodySize / bytesPerValue));
    const tree: Tree = Object.create(null) as Tree;
    this.#readQuery(binding, query, tree);
    const fromPath = this.#readPath(binding, segments);
    const texts =
      binding.rpc.methodKind === 'client_streaming' || binding.rpc.methodKind === 'bidi_streaming'
        ? elementsIn(text)
        : [text];
    const frames = texts.map((one) => framed(this.#message(binding, one, [tree, fromPath])));
    return frames.length === 1 ? frames[0]! : Buffer.concat(frames);
  }

  #message({ rpc, body: place }: Binding, text: string, more: readonly Tree[]): Uint8Array {
    const { input } = rpc;
    const options = { registry: this.#bindings.registry, recursionLimit: maxDepth };
    try {
      const message = fromJsonString(input, wholeText(place, text), options);
      // The values of the path come last, and win.
      for (const one of more) if (Object.keys(one).length > 0) mergeFromJson(input, message, one, options);
      return toBinary(input, message);
    } catch (error) {
      throw error instanceof SallyportError ? error : unreadable(error, text);
    }
  }

  #readPath({ template, fromPath }: Binding, segments: readonly string[]): Tree {
    const tree = Object.create(null) as Tree;
    try {
      for (const [name, value] of valuesOf(template, segments)) {
        const path = fromPath.get(name)!;
        setText(tree, path, textReader(path.at(-1)!)!(value));
      }
    } catch (error) {
      if (error instanceof EscapesInvalid) throw invalid(error.message);
      throw error;
    }
    return tree;
  }

  #readQuery({ rpc, body, fromPath }: Binding, query: string, tree: Tree): void {
    if (query === '') return;
    const pairs = query.split('&', maxParameters + 1);
    if (pairs.length > maxParameters) throw invalid(`the query has more than ${maxParameters} parameters`);
    const inPath = new Set([...fromPath.values()].map(nameOf));
    for (const pair of pairs) {
      if (pair === '') continue;
      const at = pair.indexOf('=');
      const name = this.#decoded(at === -1 ? pair : pair.slice(0, at));
      const value = this.#decoded(at === -1 ? '' : pair.slice(at + 1));
      if (this.#ignored.has(name)) continue;
      const path = fieldAt(rpc.input, name);
      const toValue = path && textReader(path.at(-1)!);
      // A list within a list, or a field that another part of the request sets, has no single meaning.
      const isOthers =
        path === undefined || toValue === undefined || body === '*' || isPartOf(body, path) || inPath.has(nameOf(path));
      if (isOthers && this.#plan.ignoreUnknownQueryParameters) continue;
      if (isOthers) throw invalid('the method has no such query parameter');
      if (!setText(tree, path!, toValue!(value))) throw invalid(`the query parameter '${nameOf(path!)}' is repeated`);
    }
  }

  #decoded(text: string): string {
    try {
      return decodeURIComponent(this.#plan.queryParamUnescapePlus ? text.replaceAll('+', ' ') : text);
    } catch {
      throw invalid('the query has escapes that are not UTF-8');
    }
  }

  /** One message of a response as JSON. @throws SallyportError `upstream_answer_malformed`. */
  decode({ rpc, responseBody }: Binding, bytes: Uint8Array): string {
    const { printOptions } = this.#plan;
    try {
      const message = fromBinary(rpc.output, bytes, { readUnknownFields: false, recursionLimit: maxDepth });
      const json = toJson(rpc.output, message, {
        registry: this.#bindings.registry,
        alwaysEmitImplicit: printOptions.alwaysPrintPrimitiveFields,
        enumAsInteger: printOptions.alwaysPrintEnumsAsInts,
        useProtoFieldName: printOptions.preserveProtoFieldNames,
      }) as JsonValue;
      const shown = responseBody === undefined ? json : this.#part(json, responseBody, rpc.output, message);
      return JSON.stringify(shown, undefined, printOptions.addWhitespace ? 1 : undefined);
    } catch (error) {
      throw new SallyportError('upstream_answer_malformed', `a message is not a ${rpc.output.typeName}`, {
        cause: error,
      });
    }
  }

  #part(json: JsonValue, field: DescField, output: DescMessage, message: Message): JsonValue {
    const name = this.#plan.printOptions.preserveProtoFieldNames ? field.name : field.jsonName;
    const value = (json as Tree)[name];
    if (value !== undefined) return value;
    const whole = toJson(output, message as never, { alwaysEmitImplicit: true, registry: this.#bindings.registry });
    return (whole as Tree)[field.jsonName] ?? null;
  }

  /** A raw body, where the method responds with a google.api.HttpBody. @throws SallyportError as `decode`. */
  rawBody({ rpc }: Binding, bytes: Uint8Array): { readonly type: string; readonly data: Buffer } {
    try {
      const message = fromBinary(rpc.output, bytes) as unknown as { contentType?: string; data?: Uint8Array };
      return { type: String(message.contentType ?? ''), data: Buffer.from(message.data ?? []) };
    } catch (error) {
      throw new SallyportError('upstream_answer_malformed', 'a message is not a google.api.HttpBody', { cause: error });
    }
  }

  /** google.rpc.Status of a response. */
  status(code: number, message: string, details: string | undefined): StatusJson {
    return { code, message, details: detailsIn(details, this.#bindings.registry) };
  }
}

/** Fields beside the body are in a message of their own. The body is one JSON value, so it cannot close the object. */
function wholeText(place: Binding['body'], text: string): string {
  if (place === undefined || text === '') return '{}';
  if (place === '*') return text;
  if (!isJson(text)) throw new SallyportError('json_syntax', 'the body is not JSON');
  return `{${JSON.stringify(place.jsonName)}:${text}}`;
}

/** An integer of up to 15 digits is exact as a double. */
const longInteger = /^\d{16,}(?:\.0*)?$/;

/**
 * JSON.parse would round an integer that a double cannot hold, and the backend would get another number. As a string it
 * passes. Each value costs some microseconds, most in lists and maps, so there is a limit. Linear in the length,
 * also for text that is not JSON.
 * @throws SallyportError `json_number_out_of_range`, `json_too_deep`, `request_invalid`.
 */
function checkText(text: string, most: number): void {
  let values = 1;
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x22) at = endOfString(text, at);
    // Each value but the first comes after one of these: , [ {
    else if (code === 0x2c) values++;
    else if (code === 0x5b || code === 0x7b) {
      values++;
      if (++depth > maxBrackets) throw tooDeep();
    } else if (code === 0x5d || code === 0x7d) depth--;
    else if (isDigit(code)) {
      const end = endOfNumber(text, at);
      if (end - at >= shortestBad) checkNumber(text.slice(at, end));
      at = end - 1;
    }
  }
  // The messages of a stream may also be on lines, where the objects are counted.
  if (values > most) throw invalid(`the body has more than ${Math.floor(most)} values`);
}

/** `1e309` is more than a double holds: it would become Infinity, which JSON does not have. */
const shortestBad = 5;

function checkNumber(text: string): void {
  if (Number(text) === Number.POSITIVE_INFINITY)
    throw new SallyportError('json_number_out_of_range', 'a number exceeds the range of a double');
  if (!longInteger.test(text)) return;
  const [whole] = text.split('.');
  if (BigInt(whole!) !== BigInt(Number(whole)))
    throw new SallyportError('json_number_out_of_range', 'an integer of more than 53 bits must be a string');
}

const isDigit = (code: number): boolean => code >= 0x30 && code <= 0x39;

/** The index of the closing quote, or the length of a text without one. */
function endOfString(text: string, quote: number): number {
  let at = quote + 1;
  for (; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x22) return at;
    if (code === 0x5c) at++;
  }
  return at;
}

function endOfNumber(text: string, from: number): number {
  let at = from;
  for (; at < text.length; at++) {
    const code = text.charCodeAt(at);
    // . e E + -
    if (!isDigit(code) && code !== 0x2e && (code | 0x20) !== 0x65 && code !== 0x2b && code !== 0x2d) break;
  }
  return at;
}

/** The messages of a client that streams: the elements of an array, or one value a line. */
function elementsIn(text: string): readonly string[] {
  if (!text.trimStart().startsWith('[')) return text.split('\n').filter((line) => line.trim() !== '');
  if (!isJson(text)) throw new SallyportError('json_syntax', 'the body is not JSON');
  return elementTexts(text.trim());
}

/** The texts of an array's elements: parsed and printed again, numbers would lose digits. `text` is valid JSON. */
function elementTexts(text: string): readonly string[] {
  const found: string[] = [];
  let depth = 0;
  let from = 1;
  for (let at = 0; at < text.length; at++) {
    const one = text[at];
    if (one === '"') {
      for (at++; text[at] !== '"'; at++) if (text[at] === '\\') at++;
    } else if (one === '[' || one === '{') depth++;
    else if (one === ']' || one === '}') depth--;
    if (depth > 1 || (one !== ',' && depth > 0)) continue;
    found.push(text.slice(from, at));
    from = at + 1;
  }
  return found.length === 1 && found[0]!.trim() === '' ? [] : found;
}

/** In the body, or in one oneof with it. */
function isPartOf(body: Binding['body'], [first]: readonly DescField[]): boolean {
  if (body === undefined || body === '*') return false;
  return first === body || (body.oneof !== undefined && first?.oneof === body.oneof);
}

function nameOf(path: readonly DescField[]): string {
  return path.map(({ name }) => name).join('.');
}

function invalid(message: string): SallyportError {
  return new SallyportError('request_invalid', message);
}

/** Names the field and none of its values: the message goes to the log and to clients. */
function unreadable(error: unknown, text: string): SallyportError {
  const cause = error instanceof Error ? error.cause : undefined;
  const field = isFieldError(error) ? error.field() : isFieldError(cause) ? cause.field() : undefined;
  if (field !== undefined) return invalid(`the field '${field.parent.typeName}.${field.name}' is invalid`);
  const message = error instanceof Error ? error.message : '';
  if (message.includes('maximum recursion depth') || error instanceof RangeError) return tooDeep();
  if (message.includes('is unknown')) return invalid('the body has a field that the message does not have');
  if (text !== '' && !isJson(text)) return new SallyportError('json_syntax', 'the body is not JSON');
  return invalid('the request does not match the message');
}

function tooDeep(): SallyportError {
  return new SallyportError('json_too_deep', `the message is deeper than ${maxDepth}`);
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
