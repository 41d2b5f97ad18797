// Refusals in JSON-RPC's own form (section 5.1). A request with an ID gets its error with status 200, like any other
// response: clients take other statuses for the end of the connection. A message without an ID gets its code's status.

import { type Code, SallyportError } from '../../../cert-agent/base/errors.ts';
import { deny } from '../../exchange/decision.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { addFields } from '../../exchange/fields.ts';
import { emptyFields } from '../../exchange/message.ts';
import type { Id } from './message.ts';

const jsonType: readonly (readonly [string, string])[] = [
  ['content-type', 'application/json'],
  ['cache-control', 'no-store'],
];

/** -32000 to -32019 are for implementations (MCP 2026-07-28, Error Codes); others use this one as well. */
const accessDenied = -32008;

function numberOf(code: Code): number {
  if (code === 'policy_denied') return accessDenied;
  if (code === 'mcp_session_unknown') return -32001;
  if (code === 'mcp_header_mismatch') return -32020;
  return code.startsWith('json_') ? -32700 : -32600;
}

/** The text for the client. It does not reveal what exists. */
const texts: Partial<Readonly<Record<Code, string>>> = {
  policy_denied: 'access denied',
  mcp_session_unknown: 'session not found',
  mcp_header_mismatch: 'a header does not match the message',
  mcp_message_invalid: 'invalid request',
};

function errorOf(code: Code, id: Id | undefined, text = texts[code] ?? code.replaceAll('_', ' ')): object {
  return { jsonrpc: '2.0', id: id ?? null, error: { code: numberOf(code), message: text } };
}

/** Details of a refusal. */
export interface Refused {
  /** Of the request that is refused. */
  readonly id?: Id | undefined;
  /** The rule that decided. */
  readonly policy?: string;
  readonly fields?: readonly (readonly [string, string])[];
}

/** Refuses a message that cannot be read or has no ID. `why` is for the log. */
export function refuseMessage(exchange: Exchange, code: Code, why: string, refused: Refused = {}): SallyportError {
  const error = new SallyportError(code, why);
  return denied(exchange, error, error.row.status, errorOf(code, refused.id), refused);
}

/** Refuses requests by policy: each id of `ids` gets an error. Without one, the request as a whole is refused. */
export function refuseByRule(
  exchange: Exchange,
  why: string,
  policy: string,
  ids: readonly (readonly [id: Id, isDenied: boolean])[],
  isBatch: boolean,
): SallyportError {
  const error = new SallyportError('policy_denied', why);
  const errors = ids.map(([id, isDenied]) =>
    errorOf('policy_denied', id, isDenied ? undefined : 'not executed: another message of the batch is denied'),
  );
  if (errors.length === 0)
    return denied(exchange, error, error.row.status, errorOf('policy_denied', undefined), { policy });
  return denied(exchange, error, 200, isBatch ? errors : errors[0]!, { policy });
}

function denied(
  exchange: Exchange,
  error: SallyportError,
  status: number,
  body: object,
  { policy, fields = [] }: Refused,
): SallyportError {
  return deny(exchange, error, {
    ...(policy === undefined ? {} : { policy, details: `rbac_access_denied_matched_policy[${policy}]` }),
    denial: {
      status,
      fields: addFields(emptyFields, [...jsonType, ...fields]),
      body: Buffer.from(JSON.stringify(body)),
    },
  });
}
