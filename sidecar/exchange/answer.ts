// Responses of the proxy itself: the fields of every response, the date, and what a rule adds to them.

import { end } from './decision.ts';
import type { Exchange } from './exchange.ts';
import { addFields } from './fields.ts';
import { emptyFields, type Fields, type Reply } from './message.ts';

/** An empty body. */
export const noBody = Buffer.alloc(0);

/** Responds instead of the upstream: a redirect, or a preflight's response. It is not a refusal. */
export function answerOwn(
  exchange: Exchange,
  status: number,
  fields: readonly (readonly [string, string])[],
  body: Buffer = noBody,
): void {
  exchange.status = status;
  end(exchange, 'direct_response');
  respondOwn(exchange, status, addFields(emptyFields, fields), body);
}

/** Sends a response of the proxy itself, changed as the rule says. */
export function respondOwn(exchange: Exchange, status: number, fields: Fields, body: Buffer): void {
  const dated = addFields(fields, [['date', httpDate()]]);
  const reply = leaving(exchange, withReplyFields(exchange, ownReply(status, dated, body.length)));
  exchange.downstream.respond(reply, exchange.method === 'HEAD' ? noBody : body);
}

/** Adds what the rule adds to every final response. */
export function leaving(exchange: Exchange, reply: Reply): Reply {
  let changed = reply;
  for (const change of exchange.phases?.reply ?? []) changed = { ...changed, fields: change(exchange, changed) };
  return changed;
}

/** Adds the fields of any response. */
export function withReplyFields(exchange: Exchange, reply: Reply): Reply {
  const { replyFields } = exchange;
  if (replyFields === undefined) return reply;
  const { names, values } = reply.fields;
  return { ...reply, fields: { names: [...names, ...replyFields.names], values: [...values, ...replyFields.values] } };
}

/** Makes fields part of any response to this exchange. */
export function addReplyFields(exchange: Exchange, fields: readonly (readonly [string, string])[]): void {
  if (fields.length > 0) exchange.replyFields = addFields(exchange.replyFields ?? emptyFields, fields);
}

let dateSecond = 0;
let dateText = '';

/** RFC 9110 section 6.6.1: the origin of a response dates it. Formatted once a second. */
function httpDate(): string {
  const now = Date.now();
  const second = Math.floor(now / 1000);
  if (second !== dateSecond) {
    dateSecond = second;
    dateText = new Date(now).toUTCString();
  }
  return dateText;
}

function ownReply(status: number, fields: Fields, length: number): Reply {
  return { status, reason: '', fields, hopFields: undefined, framing: length, declaredLength: length };
}
