// Reads one request of an MCP client: its messages, and whether its headers agree with them.

import type { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { isInUtf8, isPlain, readContentType } from '../content.ts';
import { type Message, readMessages } from './message.ts';
import { refuseMessage } from './refusal.ts';

/** The messages of one request. */
export interface Messages {
  readonly messages: readonly Message[];
  readonly isBatch: boolean;
}

/** Before the body arrives: whether it will be JSON. `of` names the policy, for the log. */
export function checkType(exchange: Exchange, of: string): SallyportError | undefined {
  const type = readContentType(headerOf(exchange, 'content-type') ?? '');
  if (type?.type !== 'application/json' || !isInUtf8(type))
    return refuseMessage(exchange, 'content_type_unsupported', `${of}: the body must be application/json in UTF-8`);
  if (!isPlain(headerOf(exchange, 'content-encoding')))
    return refuseMessage(exchange, 'content_encoding_unsupported', `${of}: the body must have no Content-Encoding`);
  return undefined;
}

const firstVersion = '2025-03-26';

/** The messages of a body. @throws SallyportError for an unreadable body, and for headers that disagree with it. */
export function messagesOf(exchange: Exchange, body: Buffer, of: string): Messages {
  // 2025-06-18 and later, Protocol Version Header: without one, the first version is meant.
  const version = headerOf(exchange, 'mcp-protocol-version');
  const read = readMessages(body, (version ?? firstVersion) === firstVersion);
  if ('code' in read) throw refuseMessage(exchange, read.code, `${of}: ${read.why}`, { id: read.id });
  const [first] = read.messages;
  const wrong = mismatchOf(exchange, version, first!, read.isBatch);
  if (wrong !== undefined)
    throw refuseMessage(exchange, 'mcp_header_mismatch', `${of}: ${wrong} does not match the message`, {
      id: first!.id,
    });
  return read;
}

/**
 * The header that disagrees with the message (2026-07-28, Server Validation): proxies before or behind us may
 * route by it.
 */
function mismatchOf(
  exchange: Exchange,
  version: string | undefined,
  { method, targets, version: said }: Message,
  isBatch: boolean,
): string | undefined {
  const named = headerOf(exchange, 'mcp-method');
  if (named !== undefined && (isBatch || named !== method)) return 'Mcp-Method';
  const name = headerOf(exchange, 'mcp-name');
  if (name !== undefined && (isBatch || targets.length !== 1 || readValue(name) !== targets[0]!.name))
    return 'Mcp-Name';
  return version !== undefined && said !== undefined && said !== version ? 'MCP-Protocol-Version' : undefined;
}

/** 2026-07-28, Value Encoding. Undefined for invalid base64. */
function readValue(written: string): string | undefined {
  const [, coded] = /^=\?base64\?(.*)\?=$/.exec(written) ?? [];
  if (coded === undefined) return written;
  const bytes = Buffer.from(coded, 'base64');
  return bytes.toString('base64') === coded ? bytes.toString('utf8') : undefined;
}
