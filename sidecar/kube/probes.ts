// The app's probes, made to ask its sidecar: the kubelet connects to the pod's address, where an app that can be reached
// only through its sidecar does not listen. The sidecar asks the app on loopback.

import { healthPath } from '../config/app-health.ts';
import { isTree, portNumber, type Tree, textOf, treeOf, treesOf } from './tree.ts';

/** Probes of a container and their pages, Istio's names. */
const pages = { livenessProbe: 'livez', readinessProbe: 'readyz', startupProbe: 'startupz' } as const;

export type ProbeKind = keyof typeof pages;
export const probeKinds = Object.keys(pages) as readonly ProbeKind[];

/** An entry of `appProbes` in sidecar.yaml. */
export type AppProbe = { readonly port: number; readonly timeout: string } & (
  | { readonly httpGet: { readonly path: string; readonly httpHeaders?: readonly Tree[] } }
  | { readonly grpc: { readonly service?: string } }
  | { readonly tcpSocket: Tree }
);

export interface RewrittenProbe {
  /** In place of the probe. */
  readonly probe: Tree;
  readonly page: string;
  readonly check: AppProbe;
}

/** Longer than any sensible probe; sidecar.yaml's limit. */
const longestTimeout = 60;

/**
 * The probe that asks the sidecar on `healthPort`, and what the sidecar asks the app. Undefined for a probe that stays:
 * `exec` runs in the container. A reason says why another stays.
 */
export function rewriteProbe(
  kind: ProbeKind,
  container: Tree,
  healthPort: number,
): RewrittenProbe | { readonly stays: string } | undefined {
  const probe = container[kind];
  if (!isTree(probe)) return undefined;
  const { httpGet, tcpSocket, grpc, timeoutSeconds } = probe;
  const handler = [httpGet, tcpSocket, grpc].find(isTree);
  if (handler === undefined) return undefined;
  const name = textOf(container['name']) ?? '';
  const stays = (why: string): { stays: string } => ({ stays: `${kind} of ${name} stays as it is: ${why}` });
  const port = portNumber(handler['port'], container);
  if (port === undefined || port < 1 || port > 65_535) return stays('its port is not known');
  const host = textOf(handler['host']) ?? '';
  if (host !== '' && host !== 'localhost' && host !== '127.0.0.1') return stays(`it asks ${host}`);
  if (isTree(httpGet) && textOf(httpGet['scheme'])?.toUpperCase() === 'HTTPS') return stays('it uses HTTPS');
  const seconds = typeof timeoutSeconds === 'number' && timeoutSeconds > 0 ? timeoutSeconds : 1;
  const base = { port, timeout: `${Math.min(seconds, longestTimeout)}s` };
  const page = `${name}/${pages[kind]}`;
  const asking = { httpGet: { path: `/app-health/${page}`, port: healthPort } };
  const rewritten = Object.fromEntries(
    Object.entries(probe).flatMap(([key, value]) =>
      key === 'httpGet' || key === 'tcpSocket' || key === 'grpc'
        ? value === handler
          ? Object.entries(asking)
          : []
        : [[key, value]],
    ),
  );
  if (isTree(httpGet)) {
    const written = textOf(httpGet['path']) ?? '/';
    const path = written.startsWith('/') ? written : `/${written}`;
    if (!healthPath.safeParse(path).success) return stays('its path has characters that a request line cannot have');
    const httpHeaders = treesOf(httpGet['httpHeaders']).map(({ name: header, value }) => ({ name: header, value }));
    if (!httpHeaders.every(isHeader)) return stays('it has a header that cannot be sent');
    return {
      probe: rewritten,
      page,
      check: { ...base, httpGet: { path, ...(httpHeaders.length > 0 && { httpHeaders }) } },
    };
  }
  if (isTree(grpc)) {
    const service = textOf(grpc['service']) ?? '';
    return { probe: rewritten, page, check: { ...base, grpc: service === '' ? {} : { service } } };
  }
  return { probe: rewritten, page, check: { ...base, tcpSocket: {} } };
}

function isHeader({ name, value }: Tree): boolean {
  return (
    typeof name === 'string' &&
    typeof value === 'string' &&
    /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) &&
    /^[\x20-\x7e]*$/.test(value)
  );
}

/** Lifecycle handlers whose port has a name that goes to the sidecar: with the number instead. Undefined if none has. */
export function numberedLifecycle(container: Tree, moved: ReadonlySet<string>): Tree | undefined {
  let changed = false;
  const lifecycle = Object.fromEntries(
    Object.entries(treeOf(container['lifecycle'])).map(([hook, handler]) => {
      const parts = Object.entries(treeOf(handler)).map(([kind, value]) => {
        const port = treeOf(value)['port'];
        if (typeof port !== 'string' || !moved.has(port)) return [kind, value];
        changed = true;
        return [kind, { ...treeOf(value), port: portNumber(port, container) }];
      });
      return [hook, isTree(handler) ? Object.fromEntries(parts) : handler];
    }),
  );
  return changed ? lifecycle : undefined;
}
