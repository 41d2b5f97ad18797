// Istio's standard labels: who called whom, and with which outcome. Labels with attacker-controlled values (the Host
// header) are left out: they would grow without bound.

import { namespaceOf, parseSpiffeId, serviceAccountOf } from '../../cert-agent/identity/spiffe-id.ts';
import type { Workload } from '../policy/policy.ts';
import type { Labels } from './metric-rows.ts';
import type { Outcome, PeerStats } from './peer-stats.ts';

/** The names, in Istio's order. */
export const istioLabelNames: readonly string[] = [
  'reporter',
  'source_workload',
  'source_canonical_service',
  'source_canonical_revision',
  'source_workload_namespace',
  'source_principal',
  'source_app',
  'source_version',
  'source_cluster',
  'destination_workload',
  'destination_workload_namespace',
  'destination_principal',
  'destination_app',
  'destination_version',
  'destination_service',
  'destination_canonical_service',
  'destination_canonical_revision',
  'destination_service_name',
  'destination_service_namespace',
  'destination_cluster',
  'request_protocol',
  'response_code',
  'grpc_response_status',
  'response_flags',
  'connection_security_policy',
];

/** The labels of one workload's metrics. Unknown values are `unknown`. */
export class IstioLabels {
  readonly #self: Party;

  constructor(trustDomain: string, workload: Workload) {
    this.#self = describe(`spiffe://${trustDomain}/ns/${workload.namespace}/sa/${workload.serviceAccount}`, workload);
  }

  /** For requests with this outcome. */
  http(stats: PeerStats, { grpcStatus, status, flag }: Outcome): Labels {
    return {
      ...this.#parties(stats),
      ...(grpcStatus === undefined
        ? { request_protocol: 'http' }
        : { request_protocol: 'grpc', grpc_response_status: grpcStatus < 0 ? 'unknown' : String(grpcStatus) }),
      response_code: String(status),
      response_flags: flag,
    };
  }

  /** For TCP connections. */
  tcp(stats: PeerStats): Labels {
    return { ...this.#parties(stats), request_protocol: 'tcp', response_flags: '-' };
  }

  #parties({ direction, principal, cluster }: PeerStats): Labels {
    const peer = describe(principal, undefined);
    const service = cluster === undefined ? undefined : serviceOf(cluster);
    const [source, destination] = direction === 'inbound' ? [peer, this.#self] : [this.#self, peer];
    return {
      reporter: direction === 'inbound' ? 'destination' : 'source',
      source_workload: source.workload,
      source_canonical_service: source.service,
      source_canonical_revision: source.revision,
      source_workload_namespace: source.namespace,
      source_principal: source.principal,
      source_app: source.app,
      source_version: source.version,
      source_cluster: 'unknown',
      destination_workload: destination.workload,
      destination_workload_namespace: destination.namespace,
      destination_principal: destination.principal,
      destination_app: destination.app,
      destination_version: destination.version,
      destination_service: service?.host ?? destination.service,
      destination_canonical_service: destination.service,
      destination_canonical_revision: destination.revision,
      destination_service_name: service?.name ?? destination.service,
      destination_service_namespace: service?.namespace ?? destination.namespace,
      destination_cluster: 'unknown',
      connection_security_policy: direction !== 'inbound' ? 'unknown' : principal === undefined ? 'none' : 'mutual_tls',
    };
  }
}

interface Party {
  readonly principal: string;
  readonly namespace: string;
  readonly workload: string;
  readonly service: string;
  readonly revision: string;
  readonly app: string;
  readonly version: string;
}

/** Namespace and workload come from the SPIFFE ID first: it is proved, other sources are not. */
function describe(principal: string | undefined, workload: Workload | undefined): Party {
  const id = principal === undefined ? undefined : parseSpiffeId(principal);
  const labels = workload?.labels ?? {};
  const account = id === undefined ? undefined : serviceAccountOf(id);
  return {
    principal: principal ?? 'unknown',
    namespace: (id === undefined ? undefined : namespaceOf(id)) ?? 'unknown',
    workload: account ?? 'unknown',
    service:
      labels['service.istio.io/canonical-name'] ??
      labels['app.kubernetes.io/name'] ??
      labels['app'] ??
      account ??
      'unknown',
    revision: labels['service.istio.io/canonical-revision'] ?? labels['version'] ?? 'latest',
    app: labels['app'] ?? 'unknown',
    version: labels['version'] ?? 'unknown',
  };
}

/** The Service in Envoy's name of a backend, `outbound|80||name.namespace.svc.cluster.local`. */
function serviceOf(cluster: string): { readonly host: string; readonly name: string; readonly namespace: string } {
  const host = cluster.slice(cluster.lastIndexOf('|') + 1);
  const [name = '', namespace = ''] = host.split('.', 2);
  return { host, name, namespace };
}
