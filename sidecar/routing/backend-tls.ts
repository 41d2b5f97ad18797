// BackendTLSPolicy: which one applies to which Service's port, and its status for each Gateway through which that
// Service is reached. Of two for one port the older applies.

import type { Attachments } from './attach.ts';
import { sayFor } from './conditions.ts';
import { type BackendTlsSpec, byAge, type Document, type GatewayDocuments, keyOf } from './documents.ts';
import { controllerName } from './names.ts';
import type { AncestorStatus } from './policies.ts';
import { resolveAuthorities } from './references.ts';
import type { PolicyItem } from './status.ts';

type BackendTls = Document<BackendTlsSpec>;

const group = 'gateway.networking.k8s.io';

/**
 * The policy of a Service's port, `namespace/name:port`; one that names the port by its section precedes one for all.
 */
export function backendTlsFor(service: string, documents: GatewayDocuments): BackendTls | undefined {
  const { namespace, name, port } = placeOf(service);
  const section = portsOf(namespace, name, documents)?.find((one) => String(one.port) === port)?.name;
  const sorted = policiesFor(namespace, name, documents);
  // Envoy Gateway accepts the number as a name, too.
  const ofSection = sorted.find((one) =>
    sectionsFor(one, namespace, name).some((wanted) => wanted !== undefined && (wanted === section || wanted === port)),
  );
  return ofSection ?? sorted.find((one) => sectionsFor(one, namespace, name).includes(undefined));
}

/** A policy that names an unknown port of the Service: what it was meant to protect is unknown. */
export function lostBackendTls(
  service: string,
  documents: GatewayDocuments,
): { readonly policy: BackendTls; readonly why: string } | undefined {
  const { namespace, name, port } = placeOf(service);
  const known = portsOf(namespace, name, documents);
  const ports = known ?? [{ name: undefined, port: Number(port) }];
  for (const policy of policiesFor(namespace, name, documents)) {
    const lost = sectionsFor(policy, namespace, name).find(
      (wanted) => wanted !== undefined && !ports.some((of) => of.name === wanted || String(of.port) === wanted),
    );
    if (lost === undefined) continue;
    const what = `BackendTLSPolicy ${keyOf(policy)} is for port '${lost}' of Service ${namespace}/${name}, which`;
    const why =
      known === undefined
        ? `${what} cannot be resolved without a document of that Service`
        : `${what} it does not have`;
    return { policy, why };
  }
  return undefined;
}

function placeOf(service: string): { readonly namespace: string; readonly name: string; readonly port: string } {
  const [, namespace = '', name = '', port = ''] = /^([^/]+)\/(.+):(\d*)$/.exec(service) ?? [];
  return { namespace, name, port };
}

/** What is looked for by the name of a Service, thousands of times. */
interface ByService {
  readonly services: ReadonlyMap<string, GatewayDocuments['services'][number]>;
  /** The oldest first. */
  readonly policies: ReadonlyMap<string, readonly BackendTls[]>;
}

/** By the lists, which a reading freezes. */
const indexes = new WeakMap<GatewayDocuments['backendTls'], WeakMap<GatewayDocuments['services'], ByService>>();

function byService({ services, backendTls }: GatewayDocuments): ByService {
  const known = indexes.get(backendTls) ?? new WeakMap<GatewayDocuments['services'], ByService>();
  indexes.set(backendTls, known);
  const made = known.get(services) ?? index(services, backendTls);
  known.set(services, made);
  return made;
}

function index(services: GatewayDocuments['services'], backendTls: GatewayDocuments['backendTls']): ByService {
  const policies = new Map<string, BackendTls[]>();
  for (const policy of backendTls.toSorted(byAge))
    for (const service of new Set(servicesOf(policy))) {
      const known = policies.get(service);
      if (known === undefined) policies.set(service, [policy]);
      else known.push(policy);
    }
  // The first of two counts, as in a list.
  return { services: new Map(services.toReversed().map((one) => [keyOf(one), one])), policies };
}

function policiesFor(namespace: string, name: string, documents: GatewayDocuments): readonly BackendTls[] {
  return byService(documents).policies.get(`${namespace}/${name}`) ?? [];
}

function portsOf(namespace: string, name: string, documents: GatewayDocuments) {
  return byService(documents).services.get(`${namespace}/${name}`)?.spec.ports;
}

/** The ports of a Service that a policy applies to; undefined among them: all. */
function sectionsFor({ namespace: own, spec }: BackendTls, namespace: string, name: string): (string | undefined)[] {
  if (own !== namespace) return [];
  return spec.targetRefs.flatMap((ref) =>
    ref.group === '' && ref.kind === 'Service' && ref.name === name ? [ref.sectionName] : [],
  );
}

/**
 * The CA certificates (PEM) that a policy names, or `System`, with problems of some of them; else why there are none.
 */
export function authoritiesOf(
  { spec, namespace, name }: BackendTls,
  documents: GatewayDocuments,
): Authorities | NoAuthority {
  const { caCertificateRefs = [], wellKnownCACertificates } = spec.validation;
  if (wellKnownCACertificates !== undefined) return { ca: 'System' };
  const authorities = resolveAuthorities(caCertificateRefs, { group, kind: 'BackendTLSPolicy', namespace }, documents);
  const [first] = authorities.problems;
  const problem = `BackendTLSPolicy ${namespace}/${name}: ${first?.message ?? 'it names no CA certificate'}`;
  // A listener's condition has a reason of its own for this.
  const reason =
    first?.reason === 'InvalidCACertificateKind' ? 'InvalidKind' : (first?.reason ?? 'InvalidCACertificateRef');
  if (authorities.pem === '') return { problem, reason };
  return { ca: authorities.pem, ...(first === undefined ? {} : { lacking: { problem, reason } }) };
}

interface NoAuthority {
  readonly problem: string;
  readonly reason: string;
}

interface Authorities {
  readonly ca: string;
  /** The remaining authorities must have issued the server's certificate: fewer than configured, never more. */
  readonly lacking?: NoAuthority;
}

/** The status of each policy. `now` in milliseconds. */
export function backendTlsStatuses(attachments: Attachments, documents: GatewayDocuments, now: number): PolicyItem[] {
  const reached = attachments.gateways.map(({ listeners }) =>
    Map.groupBy(
      listeners
        .flatMap(({ attached }) => attached)
        .flatMap(({ route }) => attachments.backendsOf(route))
        .map(({ key }) => key),
      (key) => key.slice(0, key.lastIndexOf(':')),
    ),
  );
  return documents.backendTls.map((policy): PolicyItem => {
    const say = sayFor(policy, now);
    const found = authoritiesOf(policy, documents);
    const services = [...new Set(servicesOf(policy))];
    const ancestors = attachments.gateways.flatMap(({ gateway }, at): AncestorStatus[] => {
      const keys = services.flatMap((service) => reached[at]?.get(service) ?? []);
      if (keys.length === 0) return [];
      const inForce = keys.some((key) => backendTlsFor(key, documents) === policy);
      const lost = keys.map((key) => lostBackendTls(key, documents)).find((one) => one?.policy === policy);
      const accepted = !inForce
        ? lost !== undefined
          ? say('Accepted', false, 'TargetNotFound', lost.why)
          : say('Accepted', false, 'Conflicted', 'an older BackendTLSPolicy is for the same Service')
        : 'problem' in found
          ? say('Accepted', false, 'NoValidCACertificate', found.problem)
          : say('Accepted', true, 'Accepted');
      const lacking = 'problem' in found ? found : found.lacking;
      const refs =
        lacking === undefined
          ? say('ResolvedRefs', true, 'ResolvedRefs')
          : say('ResolvedRefs', false, lacking.reason, lacking.problem);
      const ancestorRef = { group, kind: 'Gateway', name: gateway.name, namespace: gateway.namespace };
      return [{ ancestorRef, controllerName, conditions: [accepted, refs] }];
    });
    return { apiVersion: policy.apiVersion, kind: policy.kind, policy, ancestors };
  });
}

function servicesOf({ spec, namespace }: BackendTls): string[] {
  return spec.targetRefs.flatMap(({ group: of, kind, name }) =>
    of === '' && kind === 'Service' ? [keyOf({ namespace, name })] : [],
  );
}
