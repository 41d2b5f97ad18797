// Removes names from a server's messages that the caller may not use. Lists are recognized by their form, not by the
// request: a resumed stream, or a batch, contains responses to requests that were made elsewhere.

import { isUtf8 } from 'node:buffer';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { type JsonRead, readJson } from '../json.ts';
import type { Kind } from './names.ts';

/** Whether the caller may use a name. */
export type Sees = (kind: Kind, name: string) => boolean;

/** The lists of results, in lower case, and the member that names an entry. */
const lists: Readonly<Record<string, readonly [kind: Kind, name: string]>> = {
  tools: ['tool', 'name'],
  prompts: ['prompt', 'name'],
  resources: ['resource', 'uri'],
  resourcetemplates: ['resource', 'uriTemplate'],
};

/**
 * Texts without these are not lists, and are not parsed: most results are long texts or images. An escape of a letter or a
 * slash could spell one; other escapes cannot (a text that was cut inside an emoji ends in `\ud83d`).
 */
const interesting =
  /"(?:tools|prompts|resources|resourceTemplates|notifications\\?\/resources\\?\/updated)"|\\u00(?:[4-7][0-9a-f]|2f)/i;

/**
 * The text of one or several messages without names that the caller may not use: unchanged if nothing is removed, and
 * undefined if nothing is left.
 * @throws SallyportError `upstream_answer_malformed` for a text that two parsers could read differently.
 */
export function filterMessages(text: Buffer, sees: Sees): Buffer | undefined {
  // UTF-16, which some clients would read, has zeros.
  if (!isUtf8(text) || text.includes(0)) throw malformed('is not UTF-8');
  if (!interesting.test(text.toString('latin1'))) return text;
  const first = readJson(text);
  if (!('fault' in first && first.fault === 'json_lone_surrogate')) return filterRead(text, first, sees);
  const whole = wellFormed(text);
  return filterRead(whole, readJson(whole), sees);
}

function filterRead(text: Buffer, read: JsonRead, sees: Sees): Buffer | undefined {
  if ('fault' in read) throw malformed(`is refused with ${read.fault}`);
  if (!isChanged(read.value, sees)) return text;
  // Parsed once more, so that numbers keep their notation.
  const value: unknown = JSON.parse(text.toString('utf8'), keepNumbers);
  const left = strip(value, sees);
  return left === undefined ? undefined : Buffer.from(JSON.stringify(left));
}

/** A pair of surrogates, a lone one, or any other escape. */
const escapes = /\\(?:u(d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|u(d[89a-f][0-9a-f]{2})|.)/gi;

/**
 * A description that was cut inside an emoji ends in half of it, and must not hide the whole list. No two readers agree
 * on such a half: it becomes U+FFFD.
 */
function wellFormed(text: Buffer): Buffer {
  return Buffer.from(
    text.toString('utf8').replace(escapes, (all, _pair, lone) => (lone === undefined ? all : '\\ufffd')),
  );
}

function isChanged(value: unknown, sees: Sees): boolean {
  const before = JSON.stringify(value);
  return JSON.stringify(strip(value, sees)) !== before;
}

/** Node 24 has these (ECMAScript proposal JSON.parse source text access); TypeScript does not declare them yet. */
const { rawJSON } = JSON as unknown as { rawJSON(text: string): unknown };

function keepNumbers(this: unknown, _key: string, value: unknown, context?: { readonly source?: string }): unknown {
  return typeof value === 'number' && context?.source !== undefined ? rawJSON(context.source) : value;
}

/** Removes entries from a message, or from each of a batch; undefined if the message as a whole is removed. */
function strip(value: unknown, sees: Sees): unknown {
  if (Array.isArray(value)) {
    const left = value.map((one) => stripOne(one, sees)).filter((one) => one !== undefined);
    return left.length === 0 && value.length > 0 ? undefined : left;
  }
  return stripOne(value, sees);
}

function stripOne(message: unknown, sees: Sees): unknown {
  if (!isObject(message)) return message;
  const { method, params, result } = message;
  if (method === 'notifications/resources/updated') {
    const uri = isObject(params) ? params['uri'] : undefined;
    return typeof uri === 'string' && sees('resource', uri) ? message : undefined;
  }
  if (!isObject(result)) return message;
  for (const key of Object.keys(result)) {
    const lower = key.toLowerCase();
    if (!Object.hasOwn(lists, lower)) continue;
    const [kind, named] = lists[lower]!;
    const entries = result[key];
    // No result of the protocol has another value here.
    if (!Array.isArray(entries)) delete result[key];
    else result[key] = entries.filter((one) => isSeen(one, kind, named, sees));
  }
  return message;
}

function isSeen(entry: unknown, kind: Kind, named: string, sees: Sees): boolean {
  const name = isObject(entry) ? entry[named] : undefined;
  return typeof name === 'string' && sees(kind, name);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** An unreadable message of the server. */
export function malformed(why: string): SallyportError {
  return new SallyportError('upstream_answer_malformed', `a message of the MCP server ${why}`);
}
