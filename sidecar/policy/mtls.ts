// PeerAuthentication: whether a port demands mutual TLS, takes both, or takes plaintext only. Istio's resolution, from the
// widest scope to the narrowest; pure.

import type { Workload } from './policy.ts';

/** What a port takes: mutual TLS only, both, or plaintext only. */
export type MtlsMode = 'STRICT' | 'PERMISSIVE' | 'DISABLE';

/** A PeerAuthentication of security.istio.io, read and checked. */
export interface PeerAuthentication {
  readonly name: string;
  readonly namespace: string;
  /** Milliseconds; 0 where the document does not say: such a one counts as the oldest. */
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

export interface MtlsScope {
  readonly workload: Workload;
  readonly rootNamespace: string;
  /** Where no document says anything. */
  readonly defaultMtls: 'STRICT' | 'PERMISSIVE';
}

/** The mode of the port that policies see as `port`, and which document decided: `ns/name`, or `defaultMtls`. */
export function resolveMtls(
  documents: readonly PeerAuthentication[],
  { workload, rootNamespace, defaultMtls }: MtlsScope,
  port: number,
): { readonly mode: MtlsMode; readonly from: string } {
  const oldestOf = (fits: (one: PeerAuthentication) => boolean): PeerAuthentication | undefined =>
    documents.filter(fits).toSorted(byAge)[0];
  const whole = (namespace: string) => (one: PeerAuthentication) =>
    one.namespace === namespace && one.matchLabels === undefined;
  const mesh = oldestOf(whole(rootNamespace));
  const namespace = oldestOf(whole(workload.namespace));
  // In the root namespace a selector selects nothing.
  const own =
    workload.namespace === rootNamespace
      ? undefined
      : oldestOf((one) => one.namespace === workload.namespace && selects(one, workload));
  const decided = [own, namespace, mesh].find((one) => one?.mode !== undefined);
  const ofPort = own?.portLevel.get(port);
  if (own !== undefined && ofPort !== undefined && ofPort !== 'UNSET') return { mode: ofPort, from: nameOf(own) };
  if (decided?.mode === undefined) return { mode: defaultMtls, from: 'defaultMtls' };
  return { mode: decided.mode, from: nameOf(decided) };
}

function selects({ matchLabels }: PeerAuthentication, { labels }: Workload): boolean {
  return matchLabels !== undefined && Object.entries(matchLabels).every(([key, value]) => labels[key] === value);
}

/** The oldest wins; of the same age the first by name, so that the order of files decides nothing. */
function byAge(a: PeerAuthentication, b: PeerAuthentication): number {
  return a.createdAt - b.createdAt || (nameOf(a) < nameOf(b) ? -1 : 1);
}

function nameOf({ namespace, name }: PeerAuthentication): string {
  return `${namespace}/${name}`;
}
