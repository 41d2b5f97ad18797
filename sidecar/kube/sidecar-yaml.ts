// The sidecar.yaml of a pod, as text. It stands in an annotation, so each field is a line that a person can read.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { parseSettings } from '../config/sidecar-settings.ts';
import type { Wishes } from './annotations.ts';
import { adminPort, inboundPort, outboundPort } from './names.ts';
import { type AppPort, guessProtocol } from './ports.ts';
import type { AppProbe } from './probes.ts';
import { isTree, type Tree, treeOf } from './tree.ts';

/** Where the volumes are mounted. */
export const mounts = Object.freeze({
  config: '/etc/sallyport/config',
  policies: '/etc/sallyport/policies',
  token: '/var/run/secrets/tokens',
  identity: '/run/sallyport/identity',
});

export interface SidecarParts {
  readonly trustDomain: string;
  readonly caUrl: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly ports: readonly AppPort[];
  readonly probes: Readonly<Record<string, AppProbe>>;
  readonly upstreams: Tree;
  readonly wishes: Wishes;
}

/** What an annotation may not change: who the pod is, whom it believes, and what stands in the pod as well. */
const fixed = ['trustDomain', 'workload', 'identity', 'inbound', 'admin', 'health', 'appProbes', 'policies'] as const;

/**
 * @throws SallyportError `config_invalid` if the settings of the annotation are none; what is derived is always valid.
 */
export function sidecarYaml(parts: SidecarParts): string {
  const { trustDomain, caUrl, namespace, serviceAccount, labels, ports, probes, wishes } = parts;
  const { settings, drain, healthPort } = wishes;
  const inbound = ports.map(({ port, protocol }, index) => ({
    port: inboundPort(index),
    app: `127.0.0.1:${port}`,
    protocol: wishes.protocols.get(port) ?? protocol ?? guessProtocol(port),
  }));
  const whole: Tree = {
    trustDomain,
    workload: { namespace, serviceAccount, labels },
    identity: {
      ca: {
        url: caUrl,
        bundle: `${mounts.config}/bundle.pem`,
        kubernetesTokenFile: `${mounts.token}/sallyport-token`,
        outDir: `${mounts.identity}/svid`,
      },
    },
    inbound,
    outbound: [{ port: outboundPort }],
    upstreams: parts.upstreams,
    policies: mounts.policies,
    admin: adminPort,
    health: healthPort,
    ...(Object.keys(probes).length > 0 && { appProbes: probes }),
    ...(drain !== undefined && { limits: { drain } }),
  };
  for (const [key, value] of Object.entries(settings)) {
    const isAdded = key === 'upstreams' || key === 'limits';
    whole[key] = isAdded && isTree(value) ? { ...treeOf(whole[key]), ...value } : value;
  }
  const text = `${Object.entries(whole).map(lineOf).join('\n')}\n`;
  if (Object.keys(settings).length === 0) return text;
  const { outbound } = parseSettings(text, 'sidecar.yaml');
  const taken = new Set([adminPort, healthPort, ...inbound.map(({ port }) => port)]);
  // On loopback and on all addresses: the second to listen would fail.
  const twice = outbound.find(({ port }) => taken.has(port));
  if (twice !== undefined) throw new SallyportError('config_invalid', `outbound: port ${twice.port} is taken already`);
  return text;
}

/** The first field of an annotation that it may not set. */
export function fixedField(settings: Tree): string | undefined {
  return fixed.find((field) => Object.hasOwn(settings, field));
}

/** JSON is YAML. */
function lineOf([key, value]: readonly [string, unknown]): string {
  if (Array.isArray(value) && value.length > 0)
    return `${key}:\n${value.map((one) => `  - ${JSON.stringify(one)}`).join('\n')}`;
  if (isTree(value) && (key === 'upstreams' || key === 'appProbes') && Object.keys(value).length > 0) {
    const lines = Object.entries(value).map(([name, one]) => `  ${JSON.stringify(name)}: ${JSON.stringify(one)}`);
    return `${key}:\n${lines.join('\n')}`;
  }
  return `${key}: ${JSON.stringify(value)}`;
}
