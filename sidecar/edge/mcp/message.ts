// Reads the JSON-RPC messages of a request (JSON-RPC 2.0; MCP, Base Protocol), and their targets. Strict: a message
// that two parsers could read differently is refused.

import type { Code } from '../../../cert-agent/base/errors.ts';
import { readJson } from '../json.ts';
import type { Kind } from './names.ts';

export type Id = string | number;

/** The target of a message. */
export interface Target {
  readonly kind: Kind;
  readonly name: string;
}

/** One message. */
export interface Message {
  /** Undefined for a notification and for a response of the client. */
  readonly id: Id | undefined;
  /** Undefined for a response of the client to a request of the server. */
  readonly method: string | undefined;
  readonly targets: readonly Target[];
  /** False for a method, or a form of one, that the protocol does not have. */
  readonly isKnown: boolean;
  /** True for a method that is spelled almost as one of the protocol: no rule allows it. */
  readonly isTwin: boolean;
  /** The protocol version in its `_meta`, since 2026-07-28. */
  readonly version: string | undefined;
}

/** Why messages cannot be read. */
export interface Unreadable {
  readonly code: Extract<Code, 'mcp_message_invalid' | `json_${string}`>;
  readonly why: string;
  readonly id?: Id | undefined;
}

export type Read = { readonly messages: readonly Message[]; readonly isBatch: boolean } | Unreadable;

/** More messages in one request are refused. */
const maxBatch = 100;
/** Characters of a name, a URI or a method. Each rule compares it. */
const longestName = 4096;
/** Resources of one `subscriptions/listen`. */
const maxSubscriptions = 1000;

/**
 * The messages of a body.
 * @param mayBatch true for protocol version 2025-03-26, the only one with batches
 */
export function readMessages(body: Buffer, mayBatch: boolean): Read {
  const json = readJson(body);
  if ('fault' in json) return { code: json.fault, why: 'the body is not unambiguous JSON' };
  const { value } = json;
  if (!Array.isArray(value)) {
    const message = readMessage(value);
    return 'code' in message ? message : { messages: [message], isBatch: false };
  }
  if (!mayBatch) return invalid('batches exist in protocol version 2025-03-26 only');
  if (value.length === 0 || value.length > maxBatch) return invalid(`a batch has 1 to ${maxBatch} messages`);
  const messages: Message[] = [];
  for (const item of value) {
    const message = readMessage(item);
    if ('code' in message) return message;
    messages.push(message);
  }
  return { messages, isBatch: true };
}

type Members = Readonly<Record<string, unknown>>;

const members: ReadonlySet<string> = new Set(['jsonrpc', 'id', 'method', 'params', 'result', 'error']);

const tooLong = `a name has at most ${longestName} characters`;

function readMessage(value: unknown): Message | Unreadable {
  if (!isObject(value)) return invalid('a message is an object');
  const { jsonrpc, id, method, params } = value;
  const own = isId(id) ? id : undefined;
  // Some parsers take `Method` for `method`: only the members of the standard are allowed.
  if (!Object.keys(value).every((one) => members.has(one)))
    return invalid('a message has a member that JSON-RPC does not have', own);
  if (jsonrpc !== '2.0') return invalid("a message has jsonrpc: '2.0'", own);
  if (Object.hasOwn(value, 'id') && own === undefined) return invalid('an id is a text or an integer');
  const isResponse = Object.hasOwn(value, 'result') !== Object.hasOwn(value, 'error');
  if (method === undefined && isResponse && own !== undefined && params === undefined)
    return { id: undefined, method: undefined, targets: [], isKnown: true, isTwin: false, version: undefined };
  if (typeof method !== 'string' || Object.hasOwn(value, 'result') || Object.hasOwn(value, 'error'))
    return invalid('a message is a request, a notification or a response', own);
  if (method.length > longestName) return invalid(tooLong, own);
  if (params !== undefined && !isObject(params)) return invalid('params is an object', own);
  const about = aboutOf(method, params ?? {});
  if (typeof about === 'string') return invalid(about, own);
  return { id: own, method, ...about, isTwin: isTwinOfKnown(method), version: versionIn(params ?? {}) };
}

/** JSON-RPC section 4: no fractions. An integer that is not exact as a double could be taken for another ID. */
function isId(id: unknown): id is Id {
  return typeof id === 'string' || Number.isSafeInteger(id);
}

function versionIn({ _meta: meta }: Members): string | undefined {
  const version = isObject(meta) ? meta['io.modelcontextprotocol/protocolVersion'] : undefined;
  return typeof version === 'string' ? version : undefined;
}

type About = Pick<Message, 'targets' | 'isKnown'>;

/** Methods of the protocol that name something, each with the reader of its params; a text describes the fault. */
const naming: Readonly<Record<string, (params: Members) => About | string>> = {
  'tools/call': (params) => named('tool', params, 'name'),
  'prompts/get': (params) => named('prompt', params, 'name'),
  'resources/read': (params) => named('resource', params, 'uri'),
  'resources/subscribe': (params) => named('resource', params, 'uri'),
  'resources/unsubscribe': (params) => named('resource', params, 'uri'),
  'completion/complete': readCompletion,
  'subscriptions/listen': readListen,
};

/** Methods that name nothing: those that a session needs, and lists, which are filtered. */
const plainMethods: ReadonlySet<string> = new Set([
  ...['initialize', 'server/discover', 'ping', 'logging/setLevel'],
  ...['tools/list', 'prompts/list', 'resources/list', 'resources/templates/list'],
  ...['notifications/initialized', 'notifications/cancelled', 'notifications/progress'],
  'notifications/roots/list_changed',
]);

const isOfProtocol = (method: string): boolean => plainMethods.has(method) || Object.hasOwn(naming, method);

const foldedMethods = new Set([...plainMethods, ...Object.keys(naming)].map((one) => one.toLowerCase()));

/** A server that takes `tools/CALL` for `tools/call` would use a tool whose name no rule has seen. */
function isTwinOfKnown(method: string): boolean {
  return !isOfProtocol(method) && foldedMethods.has(method.normalize('NFKC').toLowerCase().trim());
}

/** The method, if it is part of the protocol: a name that a client made up must not become a label. */
export function labelOf(method: string | undefined): string {
  if (method === undefined) return 'response';
  return isOfProtocol(method) ? method : 'other';
}

function aboutOf(method: string, params: Members): About | string {
  if (Object.hasOwn(naming, method)) return naming[method]!(params);
  return { targets: [], isKnown: plainMethods.has(method) };
}

function named(kind: Kind, params: Members, key: 'name' | 'uri'): About | string {
  const name = params[key];
  if (typeof name !== 'string') return `params.${key} is a text`;
  if (name.length > longestName) return tooLong;
  return twinOf(params, [key]) ?? { targets: [{ kind, name }], isKnown: true };
}

function readCompletion(params: Members): About | string {
  const { ref } = params;
  if (!isObject(ref)) return 'params.ref is an object';
  const twin = twinOf(params, ['ref']) ?? twinOf(ref, ['type', 'name', 'uri']);
  if (twin !== undefined) return twin;
  if (ref['type'] === 'ref/prompt' && ref['uri'] === undefined) return named('prompt', ref, 'name');
  if (ref['type'] === 'ref/resource' && ref['name'] === undefined) return named('resource', ref, 'uri');
  return 'params.ref names a prompt or a resource';
}

const filters: ReadonlySet<string> = new Set(['toolsListChanged', 'promptsListChanged', 'resourcesListChanged']);

function readListen(params: Members): About | string {
  const { notifications } = params;
  if (!isObject(notifications)) return 'params.notifications is an object';
  const twin = twinOf(params, ['notifications']) ?? twinOf(notifications, [...filters, 'resourceSubscriptions']);
  if (twin !== undefined) return twin;
  const { resourceSubscriptions: uris = [], ...others } = notifications;
  if (!Array.isArray(uris) || !uris.every((one) => typeof one === 'string'))
    return 'params.notifications.resourceSubscriptions is a list of texts';
  if (uris.length > maxSubscriptions) return `one message is about at most ${maxSubscriptions} resources`;
  if (uris.some(({ length }: string) => length > longestName)) return tooLong;
  // Extensions add filters, such as `taskIds`.
  const isKnown = Object.keys(others).every((one) => filters.has(one));
  return { targets: uris.map((name) => ({ kind: 'resource', name })), isKnown };
}

/** The fault of an object with another spelling of one of `keys`, which some parsers accept. */
function twinOf(value: Members, keys: readonly string[]): string | undefined {
  const folded = new Set(keys.map((one) => one.toLowerCase()));
  const isTwin = (key: string): boolean => !keys.includes(key) && folded.has(key.normalize('NFKC').toLowerCase());
  return Object.keys(value).some(isTwin) ? `a member is spelled almost as ${keys.join(' or ')}` : undefined;
}

function isObject(value: unknown): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(why: string, id?: Id): Unreadable {
  return { code: 'mcp_message_invalid', why, id };
}
