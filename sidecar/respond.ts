// Step: respond. Either the upstream's response, without its hop-by-hop fields, or a refusal of our own: the code's row
// in the error table, and a body that tells strangers nothing new.

import { asSallyportError, type SallyportError } from '../cert-agent/base/errors.ts';
import { addReplyFields, leaving, noBody, respondOwn, withReplyFields } from './exchange/answer.ts';
import { end, fail } from './exchange/decision.ts';
import type { Denial, Holding } from './exchange/ends.ts';
import type { Exchange, Phases } from './exchange/exchange.ts';
import { filterFields } from './exchange/fields.ts';
import { emptyFields, type Fields, fieldName, type Reply } from './exchange/message.ts';
import { grpcRefusal } from './protocol/grpc.ts';
import { owned } from './protocol/lent-reads.ts';

/** Passes a 1xx on. */
export function answerInterim(exchange: Exchange, reply: Reply): void {
  if (!exchange.responded) exchange.downstream.informational(reply);
}

/**
 * Passes the upstream's response on, as the rule changes it; `body` is its entire body if that came with the head. It
 * may be lent.
 */
export function answerReply(
  exchange: Exchange,
  reply: Reply,
  body: Buffer | undefined,
  details = 'via_upstream',
): void {
  exchange.status = reply.status;
  end(exchange, details);
  const { phases } = exchange;
  if (phases === undefined) exchange.downstream.respond(withReplyFields(exchange, reply), body);
  // Filters and watches may keep it.
  else answerChanged(exchange, reply, body && owned(body), phases);
}

function answerChanged(exchange: Exchange, reply: Reply, whole: Buffer | undefined, phases: Phases): void {
  // Before it is sent: the record may be written with the last byte.
  const watches = phases.watch.map((watch) => watch(exchange, reply, whole));
  const told = withReplyFields(exchange, leaving(exchange, received(exchange, reply, phases)));
  if (phases.body === undefined) exchange.downstream.respond(told, whole);
  else phases.body(exchange, told, whole, (error) => refuse(exchange, error));
  // In front of the filter of the body: they see what the upstream sends.
  for (const standInFront of watches)
    if (standInFront !== undefined) exchange.downstream = standInFront(exchange.downstream);
}

function received(exchange: Exchange, reply: Reply, phases: Phases): Reply {
  const { hopFields } = reply;
  // Fields that `Connection` names go first: no backend can have one of our fields removed as hop-by-hop.
  const fields =
    hopFields === undefined ? reply.fields : filterFields(reply.fields, ({ lower }) => !hopFields.includes(lower));
  let changed: Reply = hopFields === undefined ? reply : { ...reply, fields, hopFields: undefined };
  for (const change of phases.received) changed = { ...changed, fields: change(exchange, changed) };
  return changed;
}

/** What was held of the body for a step that waited is passed on to nobody: it must not count as held for ever. */
function dropHeld(exchange: Exchange): void {
  const { carrier } = exchange;
  exchange.carrier = undefined;
  if (carrier !== undefined && 'drop' in carrier) (carrier as Holding).drop();
}

/** Ends the exchange with an error: by a response if none has begun, else by a cut that cannot look complete. */
export function refuse(exchange: Exchange, thrown: unknown): void {
  if (exchange.finished) return;
  const error = asSallyportError(thrown, 'internal', 'the request could not be served');
  const { row } = error;
  // Policies and authorizers set details that the table cannot know.
  const isDecided = error.code === 'policy_denied' || exchange.denial !== undefined;
  fail(exchange, error, isDecided ? exchange.details : row.details);
  dropHeld(exchange);
  if (exchange.responded) {
    exchange.downstream.abort();
    return;
  }
  const hint = hints[row.flag];
  if (hint !== undefined) addReplyFields(exchange, [hint]);
  if (exchange.grpc) {
    const reply = grpcRefusal(error, exchange.denial?.body.toString('latin1') || bodyOf(error));
    exchange.status = reply.status;
    exchange.grpcStatus = row.grpc;
    exchange.downstream.respond(withReplyFields(exchange, reply), noBody);
    return;
  }
  let denial = exchange.denial ?? ownDenial(error);
  for (const word of exchange.phases?.denial ?? []) denial = word(exchange, denial);
  const { status, fields, body } = denial;
  exchange.status = status;
  respondOwn(exchange, status, fields, body);
}

function ownDenial(error: SallyportError): Denial {
  const body = Buffer.from(bodyOf(error));
  return { status: error.row.status, fields: body.length === 0 ? emptyFields : textFields, body };
}

/** Envoy's fields for clients and meshes that back off when they see them. */
const hints: Readonly<Record<string, readonly [string, string]>> = {
  RL: ['x-envoy-ratelimited', 'true'],
  UO: ['x-envoy-overloaded', 'true'],
};

const textFields: Fields = { names: [fieldName('content-type')], values: ['text/plain; charset=utf-8'] };

/** The body for the client. Envoy's text where users know it; never the reason, which may name what is behind us. */
function bodyOf(error: SallyportError): string {
  if (error.row.details.startsWith('rbac_access_denied')) return 'RBAC: access denied';
  if (error.row.details === 'no_healthy_upstream') return 'no healthy upstream';
  if (/^U(?:F|C|R|PE)(?:,URX)?$/.test(error.row.flag))
    return 'upstream connect error or disconnect/reset before headers';
  if (error.row.status === 400) return 'bad request';
  return error.code.replaceAll('_', ' ');
}
