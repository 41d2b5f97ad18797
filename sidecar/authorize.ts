// Step: may this pass? Nothing is forwarded without a Permit, and only policy (inbound) or the table of upstreams
// (outbound) makes one. Fails closed: a peer that is no longer valid is refused before any policy is evaluated.

import { SallyportError } from '../cert-agent/base/errors.ts';
import { authenticateAgain } from './authenticate.ts';
import type { Connection } from './connection.ts';
import { allow, deny } from './exchange/decision.ts';
import type { Received } from './exchange/ends.ts';
import type { Exchange, Phases, PortRules, Route } from './exchange/exchange.ts';
import { factsOf, isSpelledTwice, pathWithoutQuery, receivedOf } from './exchange/facts.ts';
import { areSame, stillHolds } from './exchange/still-hold.ts';
import type { PeerCheck } from './peer.ts';
import type { PolicySet } from './policy/compile.ts';
import { auditOf, decide, type PeerPolicies, policiesFor } from './policy/decide.ts';
import { type Decision, isPermit, type Permit, type TunnelPermit } from './policy/policy.ts';

/**
 * The permit for this exchange, a request or a whole TCP stream; its decision and policy are recorded either way.
 * @throws SallyportError `policy_denied`, `head_malformed`, `no_route`, `connect_unsupported`, or a `svid_*` code if
 * the peer is no longer valid.
 */
export function authorize(exchange: Exchange, connection: Connection, checkPeer: PeerCheck): Permit | TunnelPermit {
  const { rules, route } = exchange;
  if (rules.direction !== 'gateway') allowByPort(exchange, connection, rules);
  if (exchange.method === 'CONNECT') return allowOutbound(exchange, tunnelPermitOf(route), connection);
  if (rules.edge !== undefined) return permitAtEdge(exchange, connection);
  if (rules.policies === undefined) return allowOutbound(exchange, route?.permit, connection);
  checkPeer(connection);
  const permit = permitInbound(exchange, connection, rules.policies, rules.policyPort);
  if (route === undefined) throw noRoute(exchange);
  return permit;
}

/**
 * Re-evaluates an exchange in flight, by the current rules and not by those of its head.
 * @throws SallyportError as `authorize`, or `upstream_identity` if the upstream is no longer the expected one.
 */
export function authorizeAgain(exchange: Exchange, connection: Connection, checkPeer: PeerCheck): void {
  const rules = connection.port.rules.current();
  if (rules.policies !== undefined) {
    checkPeer(connection);
    // A token that must be verified anew is evaluated when that is done: until then the last result holds.
    authenticateAgain(exchange, connection, rules)?.then(
      () => connection.speaker?.judge(),
      () => {},
    );
    permitInbound(exchange, connection, rules.policies, rules.policyPort);
    holdOnPort(exchange, connection, rules);
    return;
  }
  if (rules.direction === 'gateway' && rules.protocol === 'http') return permitAtEdgeAgain(exchange, connection);
  checkClient(connection);
  const route =
    rules.findStream?.(connection.listener, connection.serverName, exchange.route) ??
    rules.findRoute(exchange.authority);
  // The same name may now mean another workload.
  const permit = exchange.method === 'CONNECT' ? route?.tunnelPermit : route?.permit;
  if (permit === undefined || !isMeantBy(route, exchange)) throw noRoute(exchange);
  const refusal = exchange.upstreamPeer?.refusal();
  if (refusal !== undefined) throw refusal;
  if (rules.direction !== 'gateway') holdOnPort(exchange, connection, rules);
}

/** What the capabilities of a sidecar's port say. @throws SallyportError `policy_denied`, and what they refuse with. */
function allowByPort(exchange: Exchange, connection: Connection, { phases, protocol }: PortRules): void {
  if (phases === undefined) return;
  // Bytes inside of the app's own TLS, say: they must not be a way around a guard, which evaluates requests.
  const [guard] = protocol === 'tcp' ? phases.guards : [];
  if (guard !== undefined) {
    const why = `a stream of bytes is refused: ${guard.name} evaluates requests only`;
    throw deny(exchange, new SallyportError('policy_denied', why));
  }
  if (protocol === 'http') for (const authorizeBy of phases.authorize) authorizeBy(exchange, connection);
}

/** The same for an exchange in flight, under the current rules of its port. */
function holdOnPort(exchange: Exchange, connection: Connection, rules: PortRules): void {
  const { phases, protocol } = rules;
  if (phases === undefined || phases === exchange.phases) return;
  if (protocol === 'tcp') return allowByPort(exchange, connection, rules);
  asReceived(exchange, exchange.received ?? receivedOf(exchange), () =>
    holdUnder(exchange, connection, phases, exchange.phases),
  );
}

/** Whether `exchange` is connected to (or, before that, was meant for) what `route` means now. */
function isMeantBy(route: Route | undefined, exchange: Exchange): boolean {
  const peer = exchange.upstreamPeer?.identity.id.uri;
  if (peer === undefined || route?.principal === undefined) return route?.principal === exchange.route?.principal;
  return route.principal === peer || route.otherPrincipals?.includes(peer) === true;
}

function permitInbound(exchange: Exchange, connection: Connection, policies: PolicySet, port: number): Permit {
  if (policies.headers.size > 0) checkSpelling(exchange, policies);
  const peer = policiesOf(connection, policies);
  const facts = factsOf(exchange, connection, port);
  const decision = decide(peer, facts);
  const { shadow } = exchange.rules;
  if (shadow !== undefined) exchange.shadow = decide(policiesFor(shadow, connection.peer?.id.uri ?? null), facts);
  exchange.policy = decision.policy;
  exchange.auditPolicy = auditOf(peer, facts);
  if (!isPermit(decision)) throw refusal(exchange, decision);
  allow(exchange, decision.policy);
  exchange.validUntil = Math.min(exchange.tokenValidUntil, connection.peer?.validUntil ?? Number.POSITIVE_INFINITY);
  return decision;
}

function checkSpelling({ fields }: Exchange, { headers }: PolicySet): void {
  for (const name of headers)
    if (isSpelledTwice(fields, name))
      throw new SallyportError(
        'head_malformed',
        `the header '${name}', which a policy tests, occurs in two spellings that servers treat as one`,
      );
}

/**
 * At a gateway the rule's SecurityPolicy decides, if there is one; the mesh itself decides about requests that enter
 * it.
 */
function permitAtEdge(exchange: Exchange, connection: Connection): Permit {
  const { edge, route, listener } = exchange;
  if (edge === undefined) {
    const why =
      listener === undefined
        ? `no listener matches the host '${exchange.authority}'`
        : `no rule of listener ${listener} matches ${exchange.method} ${pathWithoutQuery(exchange.path)}`;
    throw new SallyportError('no_route', why, { hint: "see 'sallyport gateway status'" });
  }
  for (const authorizeBy of edge.phases.authorize) authorizeBy(exchange, connection);
  if (route === undefined && !edge.answers) throw new SallyportError('backend_invalid', `${edge.name} has no backend`);
  allow(exchange, edge.permit.policy);
  exchange.validUntil = Math.min(exchange.tokenValidUntil, connection.client?.validUntil ?? Number.POSITIVE_INFINITY);
  return edge.permit;
}

/** Evaluates the current rules for the request as received: its rule may have another policy, or be gone. */
function permitAtEdgeAgain(exchange: Exchange, connection: Connection): void {
  const { edge } = connection.port.rules.current();
  if (exchange.tokenValidUntil <= Date.now())
    throw new SallyportError('jwt_expired', 'the credential of the client has expired');
  checkClient(connection);
  const refusal = exchange.upstreamPeer?.refusal();
  if (refusal !== undefined) throw refusal;
  if (edge === undefined || edge === exchange.rules.edge || exchange.received === undefined) return;
  asReceived(exchange, exchange.received, () => {
    const { rule } = edge.find(exchange);
    if (rule === undefined) throw new SallyportError('no_route', 'the rule of the request is gone');
    if (rule.broken !== undefined) throw rule.broken;
    holdUnder(exchange, connection, rule.phases, exchange.edge?.phases);
  });
}

/** Whether a request that passed `before` may go on under other phases. @throws SallyportError `policy_denied`. */
function holdUnder(
  exchange: Exchange,
  connection: Connection,
  { authorizers, guards, authorize: authorizing }: Phases,
  before: Phases | undefined,
): void {
  if (authorizers.length > 0 && (before === undefined || before.authorizers.length === 0))
    throw new SallyportError(
      'policy_denied',
      'the updated policy requires external authorization, which the request has not had',
    );
  if (areSame(guards, before?.guards)) return;
  if (!stillHolds(exchange, guards, before?.guards))
    throw new SallyportError('policy_denied', 'the updated policy does not accept the credential of this client');
  for (const authorizeBy of authorizing) authorizeBy(exchange, connection);
}

function checkClient({ client }: Connection): void {
  if (client !== undefined && client.validUntil < Date.now())
    throw new SallyportError('client_certificate_refused', `the certificate of ${client.name} has expired`);
}

function asReceived(exchange: Exchange, received: Received, question: () => void): void {
  const now = receivedOf(exchange);
  Object.assign(exchange, received);
  try {
    question();
  } finally {
    Object.assign(exchange, now);
  }
}

/** A route without a permit for tunnels refuses them: an app's own, and those of a gateway. */
function tunnelPermitOf(route: Route | undefined): TunnelPermit | undefined {
  if (route !== undefined && route.tunnelPermit === undefined)
    throw new SallyportError('connect_unsupported', `tunnels to ${route.cluster} are not allowed`);
  return route?.tunnelPermit;
}

function allowOutbound<P extends Permit | TunnelPermit>(
  exchange: Exchange,
  permit: P | undefined,
  { client }: Connection,
): P {
  if (permit === undefined) throw noRoute(exchange);
  allow(exchange, permit.policy);
  // A stream that a gateway has admitted by its client's certificate ends with that certificate.
  if (client !== undefined) exchange.validUntil = Math.min(exchange.validUntil, client.validUntil);
  return permit;
}

/** The rules that could concern this peer: looked up once per connection and generation. */
export function policiesOf(connection: Connection, set: PolicySet): PeerPolicies {
  if (connection.policies === undefined || connection.policiesFrom !== set) {
    connection.policies = policiesFor(set, connection.peer?.id.uri ?? null);
    connection.policiesFrom = set;
  }
  return connection.policies;
}

function refusal(exchange: Exchange, decision: Exclude<Decision, Permit>): SallyportError {
  const why = decision.policy === 'none' ? 'no ALLOW policy admits it' : `${decision.policy} denies it`;
  const what =
    exchange.rules.protocol === 'tcp' ? 'a TCP connection' : `${exchange.method} ${pathWithoutQuery(exchange.path)}`;
  const error = new SallyportError(
    'policy_denied',
    `${what} from ${exchange.connection.peer?.id.uri ?? 'a peer without identity'}: ${why}`,
  );
  return deny(exchange, error, { details: decision.details });
}

function noRoute(exchange: Exchange): SallyportError {
  return new SallyportError('no_route', `no upstream has the host '${exchange.authority}'`, {
    hint: "define it under 'upstreams' in sidecar.yaml, or add the name to an upstream's 'hosts'",
  });
}
