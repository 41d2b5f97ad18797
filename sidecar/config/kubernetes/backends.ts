// The upstreams behind Services, from their EndpointSlices: ready endpoints, or those that still serve while they end if
// none is ready. An address that the API server would not accept, as loopback, is not used: our own admin port is there.

import { BlockList, isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { Address } from '../../../cert-agent/base/address.ts';
import { reasonOf } from '../../../cert-agent/base/errors.ts';
import { parseSpiffeId, type SpiffeId } from '../../../cert-agent/identity/spiffe-id.ts';
import { identityAnnotation } from '../../cluster/objects.ts';
import type { GatewaySettings, KubernetesSettings, Settings } from '../settings.ts';
import { bundleMissing, withoutBundle } from '../settings-schema.ts';
import { type ReadObject, treeOf } from './place.ts';

/** The upstreams of a reading, and why some Services have none. */
export interface ServiceBackends {
  readonly settings: Settings;
  /** By `namespace/name`. */
  readonly refused: ReadonlyMap<string, string>;
}

/**
 * `settings` with the upstreams of the Services that the documents refer to. What gateway.yaml names itself stays.
 * `closed` are Services that must have none, and why, by `namespace/name`.
 */
export function withServices(
  objects: readonly ReadObject[],
  settings: Settings,
  kubernetes: KubernetesSettings,
  closed: ReadonlyMap<string, string> = new Map(),
): ServiceBackends {
  const gateway = settings.gateway!;
  const slices = Map.groupBy(
    objects.filter((one) => one.object.kind === 'EndpointSlice' && serviceOf(one) !== undefined),
    (one) => `${one.object.namespace}/${serviceOf(one)}`,
  );
  const wanted = namesIn(objects);
  const backends: Record<string, string> = { ...gateway.backends };
  const outside: Record<string, GatewaySettings['outside'][string]> = { ...gateway.outside };
  const upstreams: Record<string, Settings['upstreams'][string]> = { ...settings.upstreams };
  const refused = new Map<string, string>();
  for (const { object, value } of objects) {
    if (object.kind !== 'Service' || !wanted.has(object.name)) continue;
    const service = `${object.namespace}/${object.name}`;
    const spec = treeOf(value['spec']);
    const why = closed.get(service);
    if (why !== undefined) {
      refused.set(service, why);
      continue;
    }
    if (spec['type'] === 'ExternalName') {
      // Its owner could have the gateway send requests to any host.
      refused.set(service, `Service ${service} is of type ExternalName: name its host as an upstream in gateway.yaml`);
      continue;
    }
    const who = identitiesOf(value, object.namespace, settings);
    if (who !== undefined && 'problem' in who) {
      refused.set(service, `Service ${service}: ${identityAnnotation}: ${who.problem}`);
      continue;
    }
    for (const port of listOf(spec['ports'])) {
      const key = `${service}:${port['port']}`;
      const endpoints = endpointsOf(slices.get(service) ?? [], port, spec);
      if (typeof port['port'] !== 'number' || Object.hasOwn(backends, key) || endpoints.length === 0) continue;
      backends[key] = key;
      if (who === undefined)
        outside[key] = { endpoints, unsafePlaintext: kubernetes.unsafePlaintext, protocol: undefined };
      else {
        const hosts = [`${object.name}.${object.namespace}.svc.cluster.local`];
        upstreams[key] = { endpoints, identity: who.identities, hosts };
      }
    }
  }
  const next = {
    ...settings,
    upstreams: Object.freeze(upstreams),
    gateway: Object.freeze({ ...gateway, backends, outside }),
  };
  return { settings: Object.freeze(next), refused };
}

/** The Service of a slice; undefined without a label, which is no Service of the name `undefined`. */
function serviceOf({ value }: ReadObject): string | undefined {
  const name = treeOf(treeOf(value['metadata'])['labels'])['kubernetes.io/service-name'];
  return typeof name === 'string' && name !== '' ? name : undefined;
}

/** The names beside a `port` anywhere in routes and policies: Services of these names may be backends. */
function namesIn(objects: readonly ReadObject[]): ReadonlySet<string> {
  const names = new Set<string>();
  const look = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    const { name, port } = value as Readonly<Record<string, unknown>>;
    if (typeof name === 'string' && port !== undefined) names.add(name);
    for (const inner of Object.values(value)) look(inner);
  };
  for (const { object, value } of objects) if (!data.has(object.kind)) look(value['spec']);
  return names;
}

const data: ReadonlySet<string> = new Set(['Service', 'EndpointSlice', 'Secret', 'ConfigMap', 'Namespace']);

/**
 * The IDs of a Service's annotation. To name an ID is to have our SVID presented to whoever proves it, at addresses that
 * the Service's namespace chooses: so only IDs of that namespace are taken, or else a tenant could call the workloads of
 * another one as the gateway, past that one's routes, policies and grants. The gateway's own namespace may name any.
 */
function identitiesOf(
  value: Readonly<Record<string, unknown>>,
  namespace: string | undefined,
  settings: Settings,
): { readonly identities: readonly string[] } | { readonly problem: string } | undefined {
  const text = treeOf(treeOf(value['metadata'])['annotations'])[identityAnnotation];
  if (text === undefined) return undefined;
  try {
    const ids = String(text)
      .split(',')
      .map((one) => parseSpiffeId(one.trim()));
    const foreign = ids.find((one) => !mayName(namespace, one, settings));
    if (foreign !== undefined)
      return {
        problem: `${foreign.uri} is not of namespace ${namespace} (spiffe://${settings.trustDomain}/ns/${namespace}/sa/...): name it as an upstream in gateway.yaml`,
      };
    const identities = ids.map(({ uri }) => uri);
    const [missing] = withoutBundle(identities, settings);
    return missing === undefined ? { identities } : { problem: bundleMissing(missing) };
  } catch (error) {
    return { problem: reasonOf(error) };
  }
}

/** A namespace of the same name in another trust domain may be somebody else's. */
function mayName(namespace: string | undefined, { trustDomain, path }: SpiffeId, settings: Settings): boolean {
  if (namespace === settings.workload.namespace) return true;
  const [, ns, name, sa, account, ...more] = path.split('/');
  const isOwn = ns === 'ns' && name === namespace && sa === 'sa' && account !== undefined && more.length === 0;
  return isOwn && trustDomain === settings.trustDomain;
}

type Tree = Readonly<Record<string, unknown>>;

interface Found {
  readonly address: Address;
  readonly family: string;
  readonly isReady: boolean;
}

/** The addresses of one port of a Service, sorted: the order of slices changes. */
function endpointsOf(slices: readonly ReadObject[], port: Tree, { ipFamilies }: Tree): readonly Address[] {
  const found = slices.flatMap(({ value }): Found[] => {
    const { addressType: family } = value;
    if (family !== 'IPv4' && family !== 'IPv6') return [];
    // A port is found by its name: numbers differ where pods name their ports.
    const own = listOf(value['ports']).find((one) => (one['name'] ?? '') === (port['name'] ?? ''))?.['port'];
    if (typeof own !== 'number' || !Number.isInteger(own) || own < 1 || own > 65_535) return [];
    return listOf(value['endpoints']).flatMap((endpoint) => {
      // Absent conditions: unknown, which counts as ready, serving, and not terminating (EndpointConditions).
      const { ready, serving, terminating } = treeOf(endpoint['conditions']);
      const isReady = (ready ?? true) === true;
      if (!isReady && !((serving ?? true) === true && terminating === true)) return [];
      // Of several addresses the others are the same endpoint.
      const [host] = Array.isArray(endpoint['addresses']) ? (endpoint['addresses'] as unknown[]) : [];
      return typeof host === 'string' && isUsable(host) ? [{ address: { host, port: own }, family, isReady }] : [];
    });
  });
  const first = Array.isArray(ipFamilies) ? ipFamilies[0] : undefined;
  const inFamily = found.some(({ family }) => family === first)
    ? found.filter(({ family }) => family === first)
    : found;
  const fit = inFamily.some(({ isReady }) => isReady) ? inFamily.filter(({ isReady }) => isReady) : inFamily;
  const byText = new Map(fit.map(({ address }) => [JSON.stringify(address), address]));
  return [...byText].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, address]) => address);
}

const forbidden = new BlockList();
for (const [net, bits] of [
  ['0.0.0.0', 8],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
  // Metadata and host agents of Alibaba, Azure and Oracle.
  ['100.100.100.200', 32],
  ['168.63.129.16', 32],
  ['192.0.0.192', 32],
] as const)
  forbidden.addSubnet(net, bits, 'ipv4');
for (const [net, bits] of [
  // IPv4 in IPv6: compatible, translated by NAT64, 6to4. Each could be any address of the list above.
  ['::', 96],
  ['64:ff9b::', 96],
  ['64:ff9b:1::', 48],
  ['2002::', 16],
  // Metadata of AWS and Google.
  ['fd00:ec2::254', 128],
  ['fd20:ce::254', 128],
  ['fe80::', 10],
  ['ff00::', 8],
] as const)
  forbidden.addSubnet(net, bits, 'ipv6');

/**
 * Our own ports are behind our own addresses, too. The process that reads is a short one: they do not change. The list
 * compares addresses, however they are spelled, and IPv4 in IPv6 as well.
 */
function refuseOwn(): void {
  try {
    for (const { address, family } of Object.values(networkInterfaces()).flatMap((list = []) => list))
      forbidden.addAddress(address, family === 'IPv4' ? 'ipv4' : 'ipv6');
  } catch {
    // Where they cannot be listed, only those above are refused.
  }
}
refuseOwn();

function isUsable(host: string): boolean {
  const version = isIP(host);
  return version !== 0 && !forbidden.check(host, version === 4 ? 'ipv4' : 'ipv6');
}

function listOf(value: unknown): readonly Tree[] {
  return Array.isArray(value) ? value.map(treeOf) : [];
}
