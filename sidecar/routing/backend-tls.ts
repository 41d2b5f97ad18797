// BackendTLSPolicy: which one is for which Service's port, and what its status says to each Gateway through which that Service
// is reached. Of two for one port the older holds.

import type { Attachments } from './attach.ts';
import { sayFor } from './conditions.ts';
import { type BackendTlsSpec, byAge, type Document, type GatewayDocuments, keyOf } from './documents.ts';
import { controllerName } from './names.ts';
import type { AncestorStatus } from './policies.ts';
import { resolveAuthorities } from './references.ts';
import type { PolicyItem } from './status.ts';

type BackendTls = Document<BackendTlsSpec>;

const group = 'gateway.networking.k8s.io';

/** The policy of a Service's port, `namespace/name:port`; one that names the port by its section comes before one for all. */
export function backendTlsFor(service: string, documents: GatewayDocuments): BackendTls | undefined {
  const [, namespace = '', name = '', port = ''] = /^([^/]+)\/(.+):(\d*)$/.exec(service) ?? [];
  const section = documents.services
    .find((one) => one.namespace === namespace && one.name === name)
    ?.spec.ports.find((one) => String(one.port) === port)?.name;
  const fits = (one: BackendTls, wanted: string | undefined): boolean =>
    one.namespace === namespace &&
    one.spec.targetRefs.some(
      (ref) => ref.group === '' && ref.kind === 'Service' && ref.name === name && ref.sectionName === wanted,
    );
  const sorted = documents.backendTls.toSorted(byAge);
  const ofSection = section === undefined ? undefined : sorted.find((one) => fits(one, section));
  return ofSection ?? sorted.find((one) => fits(one, undefined));
}

/** The CA certificates, PEM, that a policy names, or `System`; else why there are none. */
export function authoritiesOf(
  { spec, namespace, name }: BackendTls,
  documents: GatewayDocuments,
): { readonly ca: string } | { readonly problem: string; readonly reason: string } {
  const { caCertificateRefs = [], wellKnownCACertificates } = spec.validation;
  if (wellKnownCACertificates !== undefined) return { ca: 'System' };
  const authorities = resolveAuthorities(caCertificateRefs, { group, kind: 'BackendTLSPolicy', namespace }, documents);
  const [first] = authorities.problems;
  if (first === undefined && authorities.pem !== '') return { ca: authorities.pem };
  return {
    problem: `BackendTLSPolicy ${namespace}/${name}: ${first?.message ?? 'it names no CA certificate'}`,
    reason: first?.reason ?? 'InvalidCACertificateRef',
  };
}

/** The status of each policy. `now` in milliseconds. */
export function backendTlsStatuses(attachments: Attachments, documents: GatewayDocuments, now: number): PolicyItem[] {
  return documents.backendTls.map((policy): PolicyItem => {
    const say = sayFor(policy, now);
    const found = authoritiesOf(policy, documents);
    const services = servicesOf(policy);
    const ancestors = attachments.gateways.flatMap(({ gateway, listeners }): AncestorStatus[] => {
      const keys = listeners
        .flatMap(({ attached }) => attached)
        .flatMap(({ route }) => attachments.backendsOf(route))
        .map(({ key }) => key)
        .filter((key) => services.includes(key.slice(0, key.lastIndexOf(':'))));
      if (keys.length === 0) return [];
      const inForce = keys.some((key) => backendTlsFor(key, documents) === policy);
      const accepted = !inForce
        ? say('Accepted', false, 'Conflicted', 'an older BackendTLSPolicy is for the same Service')
        : 'problem' in found
          ? say('Accepted', false, 'NoValidCACertificate', found.problem)
          : say('Accepted', true, 'Accepted');
      const refs =
        'problem' in found
          ? say('ResolvedRefs', false, found.reason, found.problem)
          : say('ResolvedRefs', true, 'ResolvedRefs');
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
