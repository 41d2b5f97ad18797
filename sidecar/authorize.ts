// Step: may this pass? Without a Permit nothing is forwarded, and only policy (inbound) or the table of upstreams
// (outbound) makes one. Fails closed: a peer that is no longer good is refused before any policy is asked.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Connection } from './connection.ts';
import type { Exchange, PortRules } from './exchange.ts';
import { pathWithoutQuery } from './head.ts';
import type { PeerCheck } from './peer.ts';
import { decide, policiesFor } from './policy/decide.ts';
import { type Decision, isPermit, type PeerPolicies, type Permit, type PolicySet } from './policy/policy.ts';

/**
 * The permit for this exchange; its decision and policy are on record either way.
 * @throws SallyportError `policy_denied`, `no_route`, or a `svid_*` code when the peer no longer holds.
 */
export function authorize(exchange: Exchange, connection: Connection, checkPeer: PeerCheck): Permit {
  const { rules, route } = exchange;
  if (rules.policies === undefined) return permitOutbound(exchange);
  checkPeer(connection);
  const decision = decide(policiesOf(connection, rules.policies), {
    protocol: 'http',
    method: exchange.method,
    path: pathWithoutQuery(exchange.path),
    host: exchange.authority,
    port: rules.policyPort,
  });
  exchange.policy = decision.policy;
  if (!isPermit(decision)) throw refusal(exchange, decision);
  exchange.decision = 'allow';
  if (route === undefined) throw noRoute(exchange);
  return decision;
}

/**
 * The permit for a TCP stream: the same road, asked once for the connection and again when what decided has changed.
 * @throws SallyportError `policy_denied` or a `svid_*` code.
 */
export function authorizeStream(connection: Connection, rules: PortRules, checkPeer: PeerCheck): Decision {
  checkPeer(connection);
  const policies = policiesOf(connection, rules.policies!);
  return decide(policies, { protocol: 'tcp', method: '', path: '', host: '', port: rules.policyPort });
}

function permitOutbound(exchange: Exchange): Permit {
  const permit = exchange.route?.permit;
  if (permit === undefined) throw noRoute(exchange);
  exchange.decision = 'allow';
  exchange.policy = permit.policy;
  return permit;
}

/** The rules that could concern this peer: looked up once per connection and generation. */
function policiesOf(connection: Connection, set: PolicySet): PeerPolicies {
  if (connection.policies === undefined || connection.policiesFrom !== set) {
    connection.policies = policiesFor(set, connection.peer?.id.uri ?? null);
    connection.policiesFrom = set;
  }
  return connection.policies;
}

function refusal(exchange: Exchange, decision: Exclude<Decision, Permit>): SallyportError {
  exchange.decision = 'deny';
  exchange.details = decision.details;
  const why = decision.policy === 'none' ? 'no ALLOW policy admits it' : `${decision.policy} denies it`;
  return new SallyportError(
    'policy_denied',
    `${exchange.method} ${exchange.path} from ${exchange.connection.peer?.id.uri ?? 'nobody'}: ${why}`,
  );
}

function noRoute(exchange: Exchange): SallyportError {
  return new SallyportError('no_route', `no upstream answers to '${exchange.authority}'`, {
    hint: "name it under 'upstreams' in sidecar.yaml, or add the name to its 'hosts'",
  });
}
