// Authorizes the actions of MCP clients, message by message, and shows each caller only what it may use.

import { hash, randomBytes } from 'node:crypto';
import type { ConnectionFacts } from '../../exchange/connection-facts.ts';
import { allow } from '../../exchange/decision.ts';
import { type Exchange, Slot } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { addFields, changeRequest, filterFields } from '../../exchange/fields.ts';
import { type Fields, printable } from '../../exchange/message.ts';
import { noteInLog } from '../../exchange/noted.ts';
import type { Onward } from '../../exchange/onward.ts';
import { limitBody } from '../../protocol/body-limit.ts';
import { isForOneCaller } from '../caller.ts';
import type { EdgeWorkers, Guarding } from '../capability.ts';
import { gatherBody, waitsForBody, wholeBodyOf } from '../gather-body.ts';
import { keysIn, Seal } from '../seal.ts';
import { labelOf, type Message } from './message.ts';
import type { CountMessage } from './metrics.ts';
import { refuseByRule, refuseMessage } from './refusal.ts';
import { McpReply } from './reply.ts';
import { checkType, type Messages, messagesOf } from './request.ts';
import { type Caller, compileRules } from './rules.ts';
import type { McpPlan } from './schema.ts';
import { CallerSeal } from './session.ts';

/** The parts of the process that it uses. */
export interface McpShared extends Pick<Onward, 'refuse'> {
  /** Seals sessions where no key is configured: the same key in all workers, a new one after each start. */
  readonly key: Buffer;
  readonly count: CountMessage;
}

/** One request in progress. */
interface Judged {
  readonly messages: readonly Message[];
  readonly seal: CallerSeal;
  /** The server's id of the session, and the client's. */
  readonly session: readonly [own: string, sealed: string] | undefined;
  /** The server's ID of the last event that the client has received. */
  readonly lastEvent: string | undefined;
  readonly reply: McpReply;
}

const judged = new Slot<Judged>();

export const mcp: Guarding<McpPlan, McpShared> = {
  name: 'mcp',
  guards: 'requests',
  perPolicy: true,
  inboundOnly: true,
  files: ['sessionKeys'],
  fields: [
    {
      ...{ kind: 'sallyport.dev/MCPAuthorization', name: 'MCPAuthorization' },
      schema: async () => (await import('./schema.ts')).mcpAuthorization,
    },
    {
      ...{ kind: 'sidecar.yaml', name: 'mcpAuthorization' },
      schema: async () => (await import('./schema.ts')).mcpAuthorization,
    },
  ],
  ownHeaders: () => [],
  secretParams: () => [],
  async share({ registry, workers, onward }) {
    const { registerMcpMetrics } = await import('./metrics.ts');
    const key = await keyOf(workers);
    return { refuse: (exchange, error) => onward.refuse(exchange, error), key, count: registerMcpMetrics(registry) };
  },
  shareDry: () => ({ refuse() {}, key: randomBytes(32), count() {} }),
  compile([planned], { name, policy, shared, files }) {
    if (planned === undefined) return undefined;
    const { plan, field } = planned;
    const isSidecar = field === 'mcpAuthorization';
    const of = isSidecar ? 'sidecar.yaml/mcpAuthorization' : `mcpauthorization/${policy}`;
    // In a sidecar, RequestAuthentication names its providers by their issuer.
    const callerOf = compileRules(plan, of, isSidecar ? (issuer, auth) => auth.issuer === issuer : undefined);
    const configured = files('sessionKeys')?.['sessionKeys'];
    const seal = new Seal(configured === undefined ? [shared.key] : keysIn(configured, name), `mcp ${of}`);
    const known = hash('sha256', JSON.stringify(plan));

    const begin = (exchange: Exchange, connection: ConnectionFacts, { messages }: Messages, caller: Caller): void => {
      const own = new CallerSeal(seal, exchange, connection);
      const session = sessionOf(exchange, own, name);
      const reply = new McpReply(exchange, {
        sees: (kind, one) => caller.sees(kind, one),
        id: (id) => own.close('event', id),
        limit: plan.responseLimit,
        fail(error) {
          // The request ends at the server as well.
          exchange.carrier?.downstreamGone();
          shared.refuse(exchange, error);
        },
      });
      judged.set(exchange, { messages, seal: own, session, lastEvent: lastEventOf(exchange, own, name), reply });
      exchange.downstream = reply;
      // Another caller's session may be in its stream, whatever the server says of caches.
      isForOneCaller.set(exchange, true);
    };

    const judgeBody = (exchange: Exchange, connection: ConnectionFacts): void => {
      const read = messagesOf(exchange, wholeBodyOf(exchange) ?? none, name);
      const { messages, isBatch } = read;
      note(exchange, messages);
      const caller = callerOf(exchange, connection);
      const verdicts = messages.map((one) => caller.judge(one));
      for (const [i, { isAllowed }] of verdicts.entries())
        shared.count(policy, labelOf(messages[i]!.method), isAllowed ? 'allowed' : 'denied');
      const denied = verdicts.findIndex(({ isAllowed }) => !isAllowed);
      if (denied !== -1) {
        const { rule } = verdicts[denied]!;
        const ids = messages.flatMap(({ id }, i) => (id === undefined ? [] : [[id, !verdicts[i]!.isAllowed] as const]));
        throw refuseByRule(exchange, `${describe(messages[denied]!)}: ${rule} denies it`, rule, ids, isBatch);
      }
      begin(exchange, connection, read, caller);
    };

    return {
      admit(exchange) {
        const { method, framing } = exchange;
        if (exchange.grpc) throw refuseMessage(exchange, 'content_type_unsupported', `${name}: gRPC is not MCP`);
        if (exchange.webSocket || method === 'CONNECT')
          throw refuseMessage(exchange, 'upgrade_unsupported', `${name}: a tunnel cannot be evaluated`);
        if (!methods.includes(method))
          throw refuseMessage(exchange, 'method_not_allowed', `${name}: MCP has no ${printable(method)}`, {
            fields: [['allow', methods.join(', ')]],
          });
        if (method !== 'POST' && framing !== 0)
          throw refuseMessage(exchange, 'mcp_message_invalid', `${name}: a ${method} has no body`);
        limitBody(exchange, plan.bodyLimit, name);
      },
      // Before the body: a body is not read for callers without any rule.
      authorize(exchange, connection) {
        if (!callerOf(exchange, connection).isAdmitted)
          throw refuseByRule(
            exchange,
            `${exchange.method}: no rule of ${name} allows this caller anything`,
            of,
            [],
            false,
          );
        allow(exchange, of);
      },
      serve(exchange, connection) {
        if (exchange.method !== 'POST')
          return begin(exchange, connection, { messages: [], isBatch: false }, callerOf(exchange, connection));
        const wrong = checkType(exchange, name);
        if (wrong !== undefined) throw wrong;
        return waitsForBody(exchange)
          ? gatherBody(exchange).then(() => judgeBody(exchange, connection))
          : judgeBody(exchange, connection);
      },
      rewrite(exchange) {
        const { session, lastEvent } = judged.get(exchange) ?? {};
        changeRequest(exchange, replaced, [
          // An encoded response, or a part of one, cannot be filtered.
          ['accept-encoding', 'identity'],
          ...(session === undefined ? [] : [[sessionField, session[0]] as const]),
          ...(lastEvent === undefined ? [] : [[eventField, lastEvent] as const]),
        ]);
      },
      received: (exchange, { fields }) => {
        const state = judged.get(exchange);
        const kept = filterFields(fields, ({ lower }) => !ofWhole.has(lower));
        // It is filtered behind the step that compresses, for this caller only.
        return addFields(kept, [
          ['cache-control', 'no-store, no-transform'],
          ...(state === undefined ? [] : sessionFields(exchange, fields, state)),
        ]);
      },
      finished: (exchange) => judged.get(exchange)?.reply.drop(),
      guard: {
        known,
        stillHolds(exchange, before) {
          if (before === known) return true;
          const { messages } = judged.get(exchange) ?? {};
          // Open streams and lists were filtered by other rules: the client must request them again.
          if (messages === undefined || messages.length === 0 || messages.some(isFiltered)) return false;
          const caller = callerOf(exchange, exchange.connection);
          return messages.every((one) => caller.judge(one).isAllowed);
        },
      },
    };
  },
};

const none = Buffer.alloc(0);
const methods: readonly string[] = ['POST', 'GET', 'DELETE'];
const sessionField = 'mcp-session-id';
const eventField = 'last-event-id';

/** Fields of the client that the server does not get. */
const replaced: ReadonlySet<string> = new Set([
  ...[sessionField, eventField, 'accept-encoding', 'range', 'if-range'],
  ...['if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since'],
]);

/** Fields of a response that describe its bytes, or apply to other callers. */
const ofWhole: ReadonlySet<string> = new Set([
  ...[sessionField, 'cache-control', 'etag', 'last-modified', 'accept-ranges'],
  ...['content-md5', 'digest', 'content-digest', 'repr-digest'],
]);

function isFiltered({ method }: Message): boolean {
  return method?.endsWith('/list') === true || method === 'subscriptions/listen';
}

/** One key for all workers, which the first worker holds. */
async function keyOf(workers: EdgeWorkers): Promise<Buffer> {
  if (workers.first === undefined) {
    const key = randomBytes(32);
    workers.serve({ answer: () => key.toString('base64url') });
    return key;
  }
  for (;;) {
    const text = await workers.first.ask<string>('key');
    if (text !== undefined) return Buffer.from(text, 'base64url');
  }
}

/** The session that the client names. @throws SallyportError `mcp_session_unknown` unless it is this caller's. */
function sessionOf(exchange: Exchange, own: CallerSeal, name: string): Judged['session'] {
  const sealed = headerOf(exchange, sessionField);
  if (sealed === undefined) return undefined;
  const id = own.open('session', sealed);
  if (id === undefined)
    throw refuseMessage(exchange, 'mcp_session_unknown', `${name}: the session belongs to another caller`);
  return [id, sealed];
}

/** The same for the event after which a stream is resumed. */
function lastEventOf(exchange: Exchange, own: CallerSeal, name: string): string | undefined {
  const sealed = exchange.method === 'GET' ? headerOf(exchange, eventField) : undefined;
  if (sealed === undefined) return undefined;
  const id = own.open('event', sealed);
  if (id === undefined)
    throw refuseMessage(exchange, 'mcp_session_unknown', `${name}: the event to resume from was not for this caller`);
  return id;
}

/** The client's session ID: its existing one, or a new one. An ID that no field can hold is left out. */
function sessionFields(exchange: Exchange, fields: Fields, { seal, session }: Judged): (readonly [string, string])[] {
  const id = headerOf(exchange, sessionField, fields);
  if (id === undefined) return [];
  const sealed = id === session?.[0] ? session[1] : seal.close('session', id);
  return sealed === undefined ? [] : [[sessionField, sealed]];
}

function describe({ method, targets }: Message): string {
  const names = targets.slice(0, 3).map(({ name }) => printable(name));
  return [method === undefined ? 'a response' : printable(method), ...names].join(' ');
}

function note(exchange: Exchange, messages: readonly Message[]): void {
  noteInLog(exchange, { name: 'mcp', text: messages.slice(0, 3).map(describe).join('; ') });
}
