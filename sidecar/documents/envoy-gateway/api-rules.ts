// What a Kubernetes API server refuses by the CRDs of Envoy Gateway (v1.6), beyond what makes a policy unusable for a
// gateway. For `check` only: a gateway reads durations in our own form too, and addresses without a length.

import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { problemsByRows, type Row, row } from '../api-rows.ts';

const host = /^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$/;

/** A duration of Gateway API (GEP-2257): up to four numbers of at most five digits, each with its unit. */
const duration = /^(?:\d{1,5}(?:h|m|s|ms)){1,4}$/;

const durations = [
  ...['retry.perRetry.backOff.baseInterval', 'retry.perRetry.backOff.maxInterval', 'retry.perRetry.timeout'],
  ...['timeout.tcp.connectTimeout', 'timeout.http.requestTimeout', 'timeout.http.connectionIdleTimeout'],
  ...['loadBalancer.consistentHash.cookie.ttl', 'healthCheck.active.interval', 'healthCheck.active.timeout'],
  ...['healthCheck.passive.interval', 'healthCheck.passive.baseEjectionTime'],
  ...['cors.maxAge', 'extAuth.timeout', 'jwt.providers[].remoteJWKS.cacheDuration'],
  ...['oidc.csrfTokenTTL', 'oidc.defaultTokenTTL', 'oidc.defaultRefreshTokenTTL'],
];

interface Backend {
  readonly group?: string;
  readonly kind?: string;
}

const backendGroups = ['', 'multicluster.x-k8s.io', 'gateway.envoyproxy.io'];
const backendKinds = ['Service', 'ServiceImport', 'Backend'];

const rows: readonly Row[] = [
  ...durations.map((path) =>
    row<unknown>('SecurityPolicy BackendTrafficPolicy', path, (value) => {
      return !duration.test(String(value)) && `'${String(value)}' is not a duration of Envoy Gateway, such as 1h30m`;
    }),
  ),
  row<string>('SecurityPolicy', 'authorization.rules[].principal.clientCIDRs[]', (block) => {
    return !block.includes('/') && `'${block}' is an address: a block has a length, such as /32`;
  }),
  row<readonly unknown[]>('SecurityPolicy', 'authorization.rules[].principal.jwt.claims[].values', (values) => {
    return values.length > 128 && 'a claim has at most 128 values';
  }),
  row<string>('SecurityPolicy', 'jwt.providers[].remoteJWKS.uri', (uri) => {
    return uri.length > 253 && 'a URI has at most 253 characters';
  }),
  ...['grpc', 'http'].flatMap((form) =>
    ['backendRef', 'backendRefs[]'].map((path) =>
      row<Backend>('SecurityPolicy', `extAuth.${form}.${path}`, ({ group = '', kind = 'Service' }) => {
        if (!backendGroups.includes(group)) return [[['group'], `'${group}' is not a group of backends`]];
        return !backendKinds.includes(kind) && [[['kind'], `'${kind}' is not a kind of backend`]];
      }),
    ),
  ),
  row<{ readonly type: string; readonly tcp?: object }>('BackendTrafficPolicy', 'healthCheck.active', (active) => {
    return active.type === 'TCP' && active.tcp === undefined && "type TCP needs 'tcp', which may be {}";
  }),
  row<string>('BackendTrafficPolicy', 'healthCheck.active.http.hostname', (name) => {
    return !host.test(name) && `'${name}' is not a host`;
  }),
];

/** Everything that an API server refuses in a policy that has passed its kind's schema. */
export function policyProblems(document: YamlDocument): Problem[] {
  const { kind, apiVersion, spec } = document.value as {
    readonly kind: string;
    readonly apiVersion: string;
    readonly spec: unknown;
  };
  return problemsByRows(rows, { document, kind, apiVersion, spec });
}
