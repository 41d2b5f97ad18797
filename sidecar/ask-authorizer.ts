// Step: asks the providers of CUSTOM policies. They can only refuse, never allow what DENY and ALLOW refuse; a provider
// that is unknown, late, unreachable or unreadable refuses too.

import { asSallyportError, SallyportError } from '../cert-agent/base/errors.ts';
import { policiesOf } from './authorize.ts';
import type { Connection } from './connection.ts';
import type { Asked, Authorizer, Party, Ruling } from './exchange/authorizer.ts';
import type { ConnectionFacts } from './exchange/connection-facts.ts';
import { deny } from './exchange/decision.ts';
import type { Exchange } from './exchange/exchange.ts';
import { factsOf } from './exchange/facts.ts';
import { addFields, changeRequest } from './exchange/fields.ts';
import { type Fields, isSafeField, role } from './exchange/message.ts';
import type { CompiledRule } from './policy/compile.ts';
import { customOf } from './policy/decide.ts';
import type { Refusal } from './policy/policy.ts';

/** At a gateway: asks the rule's authorizers. @throws SallyportError `ext_authz_denied`, `ext_authz_failed`. */
export async function askAtEdge(exchange: Exchange, connection: ConnectionFacts): Promise<void> {
  const { phases, permit } = exchange.edge!;
  for (const authorizer of phases.authorizers) {
    await askOne(exchange, connection, authorizer, permit.policy);
    if (exchange.finished) return;
  }
}

/**
 * @returns a promise if an authorizer must be asked.
 * @throws SallyportError `ext_authz_denied`, `ext_authz_failed`, `policy_denied`.
 */
export function askAuthorizers(exchange: Exchange, connection: Connection): undefined | Promise<void> {
  const { policies, policyPort } = exchange.rules;
  if (policies === undefined || policies.tables.CUSTOM.all.length === 0) return undefined;
  const rules = customOf(policiesOf(connection, policies), factsOf(exchange, connection, policyPort));
  if (rules.length === 0) return undefined;
  return askEach(exchange, connection, rules);
}

async function askEach(exchange: Exchange, connection: Connection, rules: readonly CompiledRule[]): Promise<void> {
  for (const rule of rules) {
    const { policy, details } = rule.verdict as Refusal;
    const authorizer = exchange.rules.authorizers.get(rule.provider!);
    if (authorizer === undefined) {
      const why = `${policy} denies it: there is no extension provider '${rule.provider}'`;
      const hint = "define it under 'extensionProviders' in sidecar.yaml";
      throw deny(exchange, new SallyportError('policy_denied', why, { hint }), { policy, details });
    }
    // On TCP an HTTP authorizer cannot be asked. A stream of requests that it should be asked about, inside the app's
    // own TLS, does not pass unseen.
    if (exchange.rules.protocol === 'tcp' && authorizer.kind === 'http') {
      if (exchange.rules.unread === undefined) continue;
      const why = `${policy} denies it: '${rule.provider}' checks requests, which are inside the app's own TLS here`;
      throw deny(exchange, new SallyportError('policy_denied', why), { policy, details });
    }
    await askOne(exchange, connection, authorizer, policy);
    if (exchange.finished) return;
  }
}

async function askOne(
  exchange: Exchange,
  connection: ConnectionFacts,
  authorizer: Authorizer,
  policy: string,
): Promise<void> {
  checkSpellings(exchange.fields, authorizer);
  exchange.judges = [...(exchange.judges ?? []), authorizer];
  let ruling: Ruling;
  try {
    ruling = await authorizer.ask(describe(exchange, connection));
    for (const [name, value] of [...ruling.replyFields, ...ruling.requestFields]) {
      if (!isSafeField(name, value))
        throw new SallyportError(
          'ext_authz_failed',
          `the authorizer ${authorizer.name} names a field that cannot be set`,
        );
    }
  } catch (error) {
    const why = asSallyportError(error, 'ext_authz_failed', 'the authorizer cannot be asked');
    const message = `the authorizer ${authorizer.name} did not answer: ${why.message}`;
    throw deny(exchange, new SallyportError('ext_authz_failed', message), {
      policy,
      details: 'ext_authz_error',
      denial: { status: authorizer.statusOnError, fields: { names: [], values: [] }, body: Buffer.alloc(0) },
    });
  }
  if (!ruling.allowed) {
    const message = `${policy}: the authorizer ${authorizer.name} refused with ${ruling.status}`;
    throw deny(exchange, new SallyportError('ext_authz_denied', message), {
      policy,
      details: 'ext_authz_denied',
      denial: {
        status: ruling.status,
        fields: addFields({ names: [], values: [] }, ruling.replyFields),
        body: ruling.body,
      },
    });
  }
  const replaced = new Set([...ruling.removed, ...ruling.requestFields.map(([name]) => name)]);
  if (replaced.size > 0) changeRequest(exchange, replaced, ruling.requestFields);
  if (ruling.replyFields.length > 0)
    exchange.replyFields = addFields(exchange.replyFields ?? { names: [], values: [] }, ruling.replyFields);
}

/**
 * A field that it gets in one spelling must not reach the app in another as well.
 * @throws SallyportError `head_malformed`.
 */
function checkSpellings({ names }: Fields, authorizer: Authorizer): void {
  const spellings = new Map<string, string>();
  for (const { lower, folded, role: which } of names) {
    // Hop-by-hop fields end here.
    if (which === role.hop || !authorizer.judges(folded)) continue;
    if ((spellings.get(folded) ?? lower) !== lower)
      throw new SallyportError(
        'head_malformed',
        `the header '${lower}', which the authorizer ${authorizer.name} receives, occurs in two spellings that servers treat as one`,
      );
    spellings.set(folded, lower);
  }
}

function describe(exchange: Exchange, connection: ConnectionFacts): Asked {
  const { policyPort } = exchange.rules;
  const source: Party = {
    address: connection.remoteIp?.text ?? '',
    port: Number(/:(\d+)$/.exec(connection.remoteAddress)?.[1] ?? 0),
    principal: connection.peer?.id.uri ?? '',
  };
  const tcp = exchange.rules.protocol === 'tcp';
  return {
    id: exchange.requestId,
    method: exchange.method,
    path: exchange.path,
    authority: exchange.authority,
    protocol: tcp ? '' : exchange.minor === 2 ? 'HTTP/2' : `HTTP/1.${exchange.minor}`,
    fields: exchange.fields,
    source,
    destination: { address: connection.localIp?.text ?? '', port: policyPort, principal: '' },
    sni: connection.serverName ?? '',
    time: exchange.startedAt,
  };
}
