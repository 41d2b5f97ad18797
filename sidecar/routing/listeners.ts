// The listeners of all Gateways: which can be served, on which port, with which certificates, and why the others
// cannot.

import type { CrlSettings } from '../../cert-agent/identity/crl-check.ts';
import type { TlsVersion } from '../protocol/tls.ts';
import { type ClientMode, clientDemandsOf, clientPoliciesOf, policyRefusal } from './client-policies.ts';
import type { Condition, Say } from './conditions.ts';
import { holds, sayFor, type Unresolved } from './conditions.ts';
import {
  byAge,
  type ClientValidation,
  type Document,
  type GatewayDocuments,
  type GatewaySpec,
  keyOf,
  type ListenerSpec,
} from './documents.ts';
import { intersectHosts } from './hosts.ts';
import { type GatewayPlace, type GatewayWorld, resolveCertificate, type ServedPair } from './references.ts';
import { readTlsOptions, type TlsOptions } from './tls-options.ts';

/** A listener, resolved. */
export interface ListenerState {
  readonly gateway: Document<GatewaySpec>;
  readonly spec: ListenerSpec;
  readonly supportedKinds: readonly { readonly group: string; readonly kind: string }[];
  readonly certificates: readonly ServedPair[];
  readonly clients: ClientCheck | undefined;
  /** Undefined: the one of gateway.yaml. */
  readonly minVersion: TlsVersion | undefined;
  /** All but `Programmed`, and none about routes. */
  readonly conditions: readonly Condition[];
  /** Whether it is served. */
  readonly programmed: boolean;
  /** What may share its port: `http`, `tls` or `tcp`; undefined for an unsupported protocol. */
  readonly family: string | undefined;
  /** `host:port`, the host empty for all addresses. */
  readonly place: string;
}

/** Which client certificates are requested. */
export interface ClientCheck {
  /** PEM. */
  readonly authorities: string;
  readonly mode: ClientMode;
  /** What certificates are checked against besides; undefined: nothing. */
  readonly crls?: CrlSettings;
}

const own = 'gateway.networking.k8s.io';
const kindsOf: Readonly<Record<string, readonly string[]>> = {
  HTTP: ['HTTPRoute', 'GRPCRoute'],
  HTTPS: ['HTTPRoute', 'GRPCRoute'],
  TLS: ['TLSRoute', 'TCPRoute'],
  TCP: ['TCPRoute'],
};

/** What may share a port: a client selects the listener by SNI. */
const families: Readonly<Record<string, string>> = { HTTP: 'http', HTTPS: 'tls', TLS: 'tls', TCP: 'tcp' };

/**
 * Every listener of every Gateway, older Gateways first. Of two for one place the one in force keeps it, else the
 * older.
 */
export function stateListeners(documents: GatewayDocuments, world: GatewayWorld): readonly ListenerState[] {
  const owners = new Map<string, GatewayPlace>();
  for (const one of world.inForce.places)
    if (isStillMeant(one, documents, world)) owners.set(`${one.gateway} ${one.host}:${one.port}`, one);
  return documents.gateways.toSorted(byAge).flatMap((gateway) => {
    const say = sayFor(gateway, world.now);
    return gateway.spec.listeners.map((spec) => stateListener(gateway, spec, documents, world, say, owners));
  });
}

function stateListener(
  gateway: Document<GatewaySpec>,
  spec: ListenerSpec,
  documents: GatewayDocuments,
  world: GatewayWorld,
  say: Say,
  owners: Map<string, GatewayPlace>,
): ListenerState {
  const { kinds, unsupported } = routeKinds(spec);
  const tls = spec.protocol === 'HTTPS' || (spec.protocol === 'TLS' && spec.tls?.mode !== 'Passthrough');
  const certificates: ServedPair[] = [];
  const problems: Unresolved[] = unsupported.map((kind) => ({
    reason: 'InvalidRouteKinds',
    message: `a listener of protocol ${spec.protocol} does not accept a ${kind}`,
  }));
  for (const ref of tls ? (spec.tls?.certificateRefs ?? []) : []) {
    const { pair, problem: why } = resolveCertificate(ref, gateway, documents, world);
    if (why !== undefined) problems.push(why);
    if (pair !== undefined) certificates.push(pair);
  }
  if (tls && (spec.tls?.certificateRefs ?? []).length === 0)
    problems.push({
      reason: 'InvalidCertificateRef',
      message: "a listener that terminates TLS needs 'certificateRefs'",
    });
  const options = tlsOptionsOf(gateway.spec, spec, tls);
  const policies = clientPoliciesOf(gateway, spec, documents);
  const validation = tls ? validationOf(gateway.spec, spec, options) : undefined;
  const demands = tls ? clientDemandsOf(gateway, validation, policies, documents, world) : undefined;
  problems.push(...(demands?.problems ?? []));
  const conflict = conflictOf(gateway.spec, spec);
  const refusal =
    refusalOf(gateway, spec, world, owners, conflict) ??
    optionsRefusal(spec, options) ??
    policyRefusal(spec, policies, tls, options, demands !== undefined);
  const noAuthority = demands !== undefined && demands.check.authorities === '';
  const [problem] = problems;
  const accepted = refusal === undefined && !noAuthority;
  const conditions = [
    accepted
      ? say('Accepted', true, 'Accepted')
      : say(
          'Accepted',
          false,
          refusal === undefined ? 'NoValidCACertificate' : refusal === conflict ? 'Invalid' : refusal.reason,
          refusal?.message ?? 'none of the authorities for client certificates can be resolved',
        ),
    say('Conflicted', conflict !== undefined, conflict?.reason ?? 'NoConflicts', conflict?.message),
    problem === undefined
      ? say('ResolvedRefs', true, 'ResolvedRefs')
      : say('ResolvedRefs', false, problem.reason, problems.map(({ message }) => message).join('; ')),
  ];
  const twin = overlapOf(gateway.spec, spec);
  if (twin !== undefined)
    conditions.push(
      say(
        'OverlappingTLSConfig',
        true,
        'OverlappingHostnames',
        `a client may request a host of listener ${twin} on a connection to this one: such requests get 421`,
      ),
    );
  const servable = !tls || certificates.length > 0;
  const programmed = accepted && servable && kinds.length > 0;
  return {
    ...{ gateway, spec, certificates, conditions, programmed },
    family: families[spec.protocol],
    place: placeOf(gateway, spec, world),
    minVersion: 'reason' in options ? undefined : options.minVersion,
    supportedKinds: kinds.map((kind) => ({ group: own, kind })),
    clients: demands?.check,
  };
}

/** The whole list, including `Programmed`. */
export function conditionsOf(listener: ListenerState, now: number): readonly Condition[] {
  const say = sayFor(listener.gateway, now);
  return [
    ...listener.conditions,
    listener.programmed
      ? say('Programmed', true, 'Programmed')
      : say('Programmed', false, 'Invalid', listener.conditions.find((one) => one.message !== '')?.message),
  ];
}

/** A Gateway's own conditions, from those of its listeners. */
export function gatewayConditions(
  gateway: Document<GatewaySpec>,
  listeners: readonly ListenerState[],
  now: number,
): readonly Condition[] {
  const say = sayFor(gateway, now);
  const bad = listeners.filter(
    ({ conditions }) => !holds(conditions, 'Accepted') || !holds(conditions, 'ResolvedRefs'),
  );
  const served = listeners.some(({ programmed }) => programmed);
  const names = bad.map(({ spec }) => spec.name).join(', ');
  const refusal = gatewayRefusal(gateway.spec);
  if (refusal !== undefined)
    return [
      say('Accepted', false, refusal.reason, refusal.message),
      say('Programmed', false, 'Invalid', 'it is not accepted'),
    ];
  return [
    bad.length === 0
      ? say('Accepted', true, 'Accepted')
      : say('Accepted', served, 'ListenersNotValid', `not valid: ${names}`),
    served
      ? say('Programmed', true, 'Programmed')
      : say('Programmed', false, 'Invalid', 'none of its listeners can be served'),
    ...(isInsecure(gateway.spec)
      ? [
          say(
            'InsecureFrontendValidationMode',
            true,
            'ConfigurationChanged',
            'AllowInsecureFallback admits clients without a valid certificate',
          ),
        ]
      : []),
  ];
}

/** The standard requires a condition if a client's certificate may be missing. */
function isInsecure({ tls }: GatewaySpec): boolean {
  const { default: usual, perPort = [] } = tls?.frontend ?? {};
  return [usual, ...perPort.map((one) => one.tls)].some((one) => one?.validation?.mode === 'AllowInsecureFallback');
}

/** A setting of a Gateway as a whole that is not supported: nothing of it is served then. */
function gatewayRefusal({ addresses = [], infrastructure, tls, backendTLS }: GatewaySpec): Unresolved | undefined {
  const other = addresses.find(({ type }) => type !== 'IPAddress');
  const reason = 'UnsupportedAddress';
  if (other !== undefined) return { reason, message: `addresses of type ${other.type} are not served` };
  if (addresses.length > 1) return { reason, message: 'a Gateway is served on one address, or on all of the machine' };
  const { parametersRef } = infrastructure ?? {};
  if (parametersRef !== undefined)
    return {
      reason: 'InvalidParameters',
      message: `${parametersRef.kind} ${parametersRef.name} is not supported`,
    };
  // `backendTLS` is the former name of `tls.backend`.
  const shown = tls?.backend !== undefined ? 'tls.backend' : backendTLS !== undefined ? 'backendTLS' : undefined;
  if (shown !== undefined)
    return { reason: 'Invalid', message: `'${shown}' is not served: a gateway shows backends its own SVID` };
  return undefined;
}

function routeKinds({ protocol, allowedRoutes, tls }: ListenerSpec): { kinds: string[]; unsupported: string[] } {
  // With passthrough a TCPRoute would only get ciphertext.
  const possible = protocol === 'TLS' && tls?.mode === 'Passthrough' ? ['TLSRoute'] : (kindsOf[protocol] ?? []);
  const asked = allowedRoutes?.kinds;
  if (asked === undefined || asked.length === 0) return { kinds: [...possible], unsupported: [] };
  const fits = ({ group, kind }: { group: string; kind: string }): boolean => group === own && possible.includes(kind);
  return {
    kinds: [...new Set(asked.filter(fits).map(({ kind }) => kind))],
    unsupported: asked.filter((one) => !fits(one)).map(({ kind }) => kind),
  };
}

/** For a listener without a certificate that problem comes first: it is closed either way. */
function optionsRefusal({ tls }: ListenerSpec, options: TlsOptions | Unresolved): Unresolved | undefined {
  const isTold = tls?.mode !== 'Passthrough' && (tls?.certificateRefs ?? []).length === 0;
  return 'reason' in options && !isTold ? options : undefined;
}

/** The effective `tls.options`; options without effect on this listener are refused. */
function tlsOptionsOf(gateway: GatewaySpec, spec: ListenerSpec, terminates: boolean): TlsOptions | Unresolved {
  const { options = {}, frontendValidation } = spec.tls ?? {};
  const vain = (what: string): Unresolved => ({
    reason: 'UnsupportedValue',
    message: `'${what}' has no effect where TLS is not terminated`,
  });
  if (!terminates && Object.keys(options).length > 0) return vain('tls.options');
  if (!terminates && frontendValidation !== undefined) return vain('tls.frontendValidation');
  const read = readTlsOptions(options);
  if ('reason' in read) return read;
  if (read.clients === 'SIMPLE' && clientValidationOf(gateway, spec) !== undefined)
    return {
      reason: 'UnsupportedValue',
      message:
        "tls.options ask for no client certificates, and the Gateway's 'tls.frontend' or 'frontendValidation' does",
    };
  return read;
}

/** The authorities for client certificates. MUTUAL alone means the `ca.crt` beside the listener's own certificate. */
function validationOf(
  gateway: GatewaySpec,
  spec: ListenerSpec,
  options: TlsOptions | Unresolved,
): ClientValidation | undefined {
  const validation = clientValidationOf(gateway, spec);
  if ('reason' in options || options.clients !== 'MUTUAL') return validation;
  const beside = spec.tls?.certificateRefs?.slice(0, 1) ?? [];
  // MUTUAL admits no client without one.
  return { caCertificateRefs: validation?.caCertificateRefs ?? beside, mode: 'AllowValidOnly' };
}

/** GEP-91: the Gateway's own setting for the port, then its default, then the listener's older field. */
function clientValidationOf({ tls }: GatewaySpec, listener: ListenerSpec): ClientValidation | undefined {
  const perPort = tls?.frontend?.perPort?.find(({ port }) => port === listener.port);
  if (perPort !== undefined) return perPort.tls.validation;
  return tls?.frontend?.default?.validation ?? listener.tls?.frontendValidation;
}

/** GEP-3567: another listener of the port whose certificates may also be valid for hosts of this one. */
function overlapOf({ listeners }: GatewaySpec, spec: ListenerSpec): string | undefined {
  if (spec.protocol !== 'HTTPS') return undefined;
  return listeners.find(
    (other) =>
      other !== spec &&
      other.port === spec.port &&
      other.protocol === 'HTTPS' &&
      other.hostname !== spec.hostname &&
      intersectHosts(other.hostname, spec.hostname) !== undefined,
  )?.name;
}

/** Of two that cannot be told apart neither is served: it is unknown which was meant. */
function conflictOf({ listeners }: GatewaySpec, spec: ListenerSpec): Unresolved | undefined {
  for (const other of listeners) {
    // A listener of an unsupported protocol occupies no port.
    if (other === spec || other.port !== spec.port || families[other.protocol] === undefined) continue;
    const sameHost = (other.hostname ?? '') === (spec.hostname ?? '');
    if (families[other.protocol] !== families[spec.protocol] || (sameHost && other.protocol !== spec.protocol))
      return {
        reason: 'ProtocolConflict',
        message: `listener ${other.name} has port ${spec.port} for ${other.protocol}`,
      };
    if (spec.protocol === 'TCP' || sameHost)
      return { reason: 'HostnameConflict', message: `listener ${other.name} has the same port and host name` };
  }
  return undefined;
}

function refusalOf(
  gateway: Document<GatewaySpec>,
  spec: ListenerSpec,
  world: GatewayWorld,
  owners: Map<string, GatewayPlace>,
  conflict: Unresolved | undefined,
): Unresolved | undefined {
  if (families[spec.protocol] === undefined)
    return { reason: 'UnsupportedProtocol', message: `protocol ${spec.protocol} is not served` };
  if (gatewayRefusal(gateway.spec) !== undefined) return { reason: 'Invalid', message: 'the Gateway is not accepted' };
  if (conflict !== undefined) return conflict;
  const place = placeOf(gateway, spec, world);
  const [, host = '', port = ''] = /^(.*):(\d+)$/.exec(place) ?? [];
  const taken = [...owners.values()].find((one) => one.gateway !== keyOf(gateway) && overlaps(one, { host, port }));
  if (taken === undefined) {
    owners.set(`${keyOf(gateway)} ${place}`, { gateway: keyOf(gateway), host, port });
    return undefined;
  }
  return {
    reason: 'PortUnavailable',
    message: `${place} belongs to Gateway ${taken.gateway}: map one of them in 'listeners'`,
  };
}

function placeOf(gateway: Document<GatewaySpec>, spec: ListenerSpec, { listeners }: GatewayWorld): string {
  const { [`${keyOf(gateway)}:${spec.port}`]: mapped } = listeners;
  return mapped ?? `${gateway.spec.addresses?.[0]?.value ?? ''}:${spec.port}`;
}

/** Whether a Gateway would still be served at its place. */
function isStillMeant(
  { gateway, host, port }: GatewayPlace,
  { gateways }: GatewayDocuments,
  world: GatewayWorld,
): boolean {
  const now = gateways.find((one) => keyOf(one) === gateway);
  if (now === undefined || gatewayRefusal(now.spec) !== undefined) return false;
  return now.spec.listeners.some(
    (spec) =>
      families[spec.protocol] !== undefined &&
      conflictOf(now.spec, spec) === undefined &&
      placeOf(now, spec, world) === `${host}:${port}`,
  );
}

/** A listener on all addresses overlaps every other; a port that the system chooses overlaps none. */
function overlaps(a: Omit<GatewayPlace, 'gateway'>, b: Omit<GatewayPlace, 'gateway'>): boolean {
  const isAll = ({ host }: Pick<GatewayPlace, 'host'>): boolean => ['', '0.0.0.0', '[::]', '::'].includes(host);
  return a.port === b.port && a.port !== '0' && (a.host === b.host || isAll(a) || isAll(b));
}
