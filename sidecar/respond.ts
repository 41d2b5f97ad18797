// Step: answer. Either what the upstream said, without what belongs to its hop, or a refusal of our own: the code's row
// in the error table, and a body that tells a stranger nothing that he does not know.

import { asSallyportError, type SallyportError } from '../cert-agent/base/errors.ts';
import { wordDenial } from './edge/error-pages/error-pages.ts';
import { ownReplyAtEdge, replyAtEdge } from './edge/hardening/hardening.ts';
import type { Denial } from './exchange/ends.ts';
import type { Exchange } from './exchange/exchange.ts';
import { addFields } from './exchange/fields.ts';
import { emptyFields, type Fields, fieldName, type Reply } from './exchange/message.ts';
import { grpcRefusal } from './protocol/grpc.ts';

/** Passes a 1xx on. */
export function answerInterim(exchange: Exchange, reply: Reply): void {
  if (!exchange.responded) exchange.downstream.informational(reply);
}

/** Passes the upstream's answer on; `whole` is its entire body where that came with the head. */
export function answerReply(exchange: Exchange, reply: Reply, whole: Buffer | undefined): void {
  exchange.status = reply.status;
  exchange.details = 'via_upstream';
  if (exchange.rules.edge !== undefined) respondAtEdge(exchange, reply, whole);
  else exchange.downstream.respond(withReplyFields(exchange, reply), whole);
}

function respondAtEdge(exchange: Exchange, reply: Reply, whole: Buffer | undefined): void {
  const told = withReplyFields(exchange, replyAtEdge(exchange, reply));
  const filter = exchange.phases?.body;
  if (filter === undefined) exchange.downstream.respond(told, whole);
  else filter(exchange, told, whole, (error) => refuse(exchange, error));
}

/** Answers in place of the upstream: a redirect, a preflight's answer. It is no refusal. */
export function answerOwn(
  exchange: Exchange,
  status: number,
  fields: readonly (readonly [string, string])[],
  body: Buffer = noBody,
): void {
  exchange.status = status;
  exchange.details = 'direct_response';
  respondOwn(exchange, status, addFields(emptyFields, fields), body);
}

/** Ends the exchange with an error: as an answer if none has begun, else by a cut that cannot look complete. */
export function refuse(exchange: Exchange, thrown: unknown): void {
  if (exchange.finished) return;
  const error = asSallyportError(thrown, 'internal', 'the request could not be served');
  const { row } = error;
  exchange.failure = error;
  exchange.flag = row.flag;
  // What a policy or an authorizer refuses has details that the table cannot know.
  if (error.code !== 'policy_denied' && exchange.denial === undefined) exchange.details = row.details;
  exchange.carrier = undefined;
  if (exchange.responded) {
    exchange.downstream.abort();
    return;
  }
  const hint = hints[row.flag];
  if (hint !== undefined) exchange.replyFields = addFields(exchange.replyFields ?? emptyFields, [hint]);
  if (exchange.grpc) {
    const reply = grpcRefusal(error, exchange.denial?.body.toString('latin1') || bodyOf(error));
    exchange.status = reply.status;
    exchange.grpcStatus = row.grpc;
    exchange.downstream.respond(withReplyFields(exchange, reply), noBody);
    return;
  }
  const { edge } = exchange.rules;
  const denial = exchange.denial ?? ownDenial(error);
  const { status, fields, body } = edge === undefined ? denial : wordDenial(exchange, denial, edge.replies);
  exchange.status = status;
  respondOwn(exchange, status, fields, body);
}

function respondOwn(exchange: Exchange, status: number, fields: Fields, body: Buffer): void {
  const dated = addFields(fields, [['date', httpDate()]]);
  const told = withReplyFields(exchange, refusalReply(status, dated, body.length));
  const reply = exchange.rules.edge === undefined ? told : ownReplyAtEdge(exchange, told);
  exchange.downstream.respond(reply, exchange.method === 'HEAD' ? noBody : body);
}

function ownDenial(error: SallyportError): Denial {
  const body = Buffer.from(bodyOf(error));
  return { status: error.row.status, fields: body.length === 0 ? emptyFields : textFields, body };
}

/** With the fields that go with whatever is answered. */
function withReplyFields(exchange: Exchange, reply: Reply): Reply {
  const { replyFields } = exchange;
  if (replyFields === undefined) return reply;
  const { names, values } = reply.fields;
  return { ...reply, fields: { names: [...names, ...replyFields.names], values: [...values, ...replyFields.values] } };
}

const noBody = Buffer.alloc(0);

let dateSecond = 0;
let dateText = '';

/** RFC 9110 section 6.6.1: whoever answers himself says when. Made once a second. */
function httpDate(): string {
  const now = Date.now();
  const second = Math.floor(now / 1000);
  if (second !== dateSecond) {
    dateSecond = second;
    dateText = new Date(now).toUTCString();
  }
  return dateText;
}

/** Envoy's words for clients and meshes that hold back when they read them. */
const hints: Readonly<Record<string, readonly [string, string]>> = {
  RL: ['x-envoy-ratelimited', 'true'],
  UO: ['x-envoy-overloaded', 'true'],
};

const textFields: Fields = { names: [fieldName('content-type')], values: ['text/plain; charset=utf-8'] };

function refusalReply(status: number, fields: Fields, length: number): Reply {
  return {
    status,
    reason: '',
    fields,
    hopFields: undefined,
    framing: length,
    declaredLength: length,
  };
}

/** What a client reads. Envoy's words where users know them; never the reason, which may name what is behind us. */
function bodyOf(error: SallyportError): string {
  if (error.row.details.startsWith('rbac_access_denied')) return 'RBAC: access denied';
  if (error.row.details === 'no_healthy_upstream') return 'no healthy upstream';
  if (/^U(?:F|C|R|PE)(?:,URX)?$/.test(error.row.flag))
    return 'upstream connect error or disconnect/reset before headers';
  if (error.row.status === 400) return 'bad request';
  return error.code.replaceAll('_', ' ');
}
