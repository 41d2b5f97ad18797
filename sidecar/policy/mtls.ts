// PeerAuthentication: whether a port requires mutual TLS, accepts both, or accepts plaintext only. Istio's resolution,
// from the widest scope to the narrowest; pure.

import type { Workload } from './policy.ts';

/** What a port accepts: mutual TLS only, both, or plaintext only. */
export type MtlsMode = 'STRICT' | 'PERMISSIVE' | 'DISABLE';

/**
 * The ALPN names (RFC 7301) by which a client's TLS is a sidecar's and not an app's own: Istio's names; one is enough.
 * A certificate cannot tell the two apart, since TLS 1.3 shows it only to the server that answers.
 */
export const meshAlpns: readonly string[] = [
  'istio',
  'istio-peer-exchange',
  'istio-http/1.0',
  'istio-http/1.1',
  'istio-h2',
];

/** The name that our own sidecars offer, beside the protocols that they speak. */
export const meshAlpn = 'istio';

/** Whether a client that offers these protocols wants the sidecar's TLS, and not the TLS of the app behind it. */
export function isOfMesh(offered: readonly string[]): boolean {
  return offered.some((one) => meshAlpns.includes(one));
}

/** A PeerAuthentication of security.istio.io, read and checked. */
export interface PeerAuthentication {
  readonly name: string;
  readonly namespace: string;
  /** Milliseconds; 0 if the document does not state it: it then counts as the oldest. */
  readonly createdAt: number;
  /** Absent: all workloads of the namespace, or of the mesh in the root namespace. */
  readonly matchLabels?: Readonly<Record<string, string>>;
  /** Absent: inherited from the wider scope. */
  readonly mode?: MtlsMode;
  /** By the app's port; `UNSET` means the workload's mode. */
  readonly portLevel: ReadonlyMap<number, MtlsMode | 'UNSET'>;
  readonly file: string;
  readonly line: number;
}

/** Whose mode is resolved. In the root namespace only documents without selector count, as in Istio. */
export interface MtlsScope {
  readonly workload: Workload;
  readonly rootNamespace: string;
  /** The mode if no document sets one. */
  readonly defaultMtls: 'STRICT' | 'PERMISSIVE';
}

/** The documents of each scope, the oldest first: all but the first have no effect, as in Istio. */
function scopesOf(documents: readonly PeerAuthentication[], { workload, rootNamespace }: MtlsScope) {
  const all = (fits: (one: PeerAuthentication) => boolean): PeerAuthentication[] =>
    documents.filter(fits).toSorted(byAge);
  const whole = (namespace: string) => (one: PeerAuthentication) =>
    one.namespace === namespace && one.matchLabels === undefined;
  return {
    mesh: all(whole(rootNamespace)),
    namespace: workload.namespace === rootNamespace ? [] : all(whole(workload.namespace)),
    // In the root namespace a selector selects nothing.
    own:
      workload.namespace === rootNamespace
        ? []
        : all((one) => one.namespace === workload.namespace && selects(one, workload)),
  };
}

/** The mode of the port that policies see as `port`, and which document decided: `ns/name`, or `defaultMtls`. */
export function resolveMtls(
  documents: readonly PeerAuthentication[],
  scope: MtlsScope,
  port: number,
): { readonly mode: MtlsMode; readonly from: string } {
  const { mesh, namespace, own } = scopesOf(documents, scope);
  const decided = [own[0], namespace[0], mesh[0]].find((one) => one?.mode !== undefined);
  const ofPort = own[0]?.portLevel.get(port);
  if (ofPort !== undefined && ofPort !== 'UNSET') return { mode: ofPort, from: nameOf(own[0]!) };
  if (decided?.mode === undefined) return { mode: scope.defaultMtls, from: 'defaultMtls' };
  return { mode: decided.mode, from: nameOf(decided) };
}

/**
 * Documents without effect because another one comes first, and documents that allow plaintext where a wider one
 * refuses it.
 */
export function displacedMtls(documents: readonly PeerAuthentication[], scope: MtlsScope): readonly string[] {
  const { mesh, namespace, own } = scopesOf(documents, scope);
  const behind = [mesh, namespace, own].flatMap(([first, ...others]) =>
    others.map(
      (one) => `PeerAuthentication ${nameOf(one)} has no effect: ${nameOf(first!)} has the same scope and comes first`,
    ),
  );
  const order = [own[0], namespace[0], mesh[0]].filter((one) => one !== undefined);
  const weaker = order.flatMap((near, index) => {
    const wider = order.slice(index + 1).find(({ mode }) => mode !== undefined);
    if (wider?.mode !== 'STRICT') return [];
    const ports = [...near.portLevel].filter(([, mode]) => mode === 'PERMISSIVE' || mode === 'DISABLE');
    const modes = [
      ...(near.mode === 'PERMISSIVE' || near.mode === 'DISABLE' ? [near.mode] : []),
      ...ports.map(([port, mode]) => `${mode} on port ${port}`),
    ];
    return modes.map(
      (what) => `PeerAuthentication ${nameOf(near)} (${what}) takes the place of ${nameOf(wider)} (STRICT)`,
    );
  });
  return [...behind, ...weaker];
}

function selects({ matchLabels }: PeerAuthentication, { labels }: Workload): boolean {
  return matchLabels !== undefined && Object.entries(matchLabels).every(([key, value]) => labels[key] === value);
}

/** The oldest wins; of the same age, the first by name, so that the order of files does not matter. */
function byAge(a: PeerAuthentication, b: PeerAuthentication): number {
  return a.createdAt - b.createdAt || (nameOf(a) < nameOf(b) ? -1 : 1);
}

function nameOf({ namespace, name }: PeerAuthentication): string {
  return `${namespace}/${name}`;
}
