// Whether the API server has a kind, and in which version. That it has none is believed only if two witnesses say so: the
// kind's own list, and discovery. An API server that starts, or a proxy before it, may deny a kind for a moment, and
// routes without the policies of that kind would be open.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Budget } from './budget.ts';
import type { Answer, ApiClient } from './client.ts';
import { groupPath, protects, type WatchedKind } from './kinds.ts';
import { type Listed, listAll, type Refused } from './list.ts';
import { treeOf } from './objects.ts';

/** The proof that there is no such kind, but for a version that is not read here. */
export interface Absent {
  readonly unread: string | undefined;
}

/** The version to follow with all its objects, the proof that there is no such kind, or why neither is known. */
export type Found = { readonly version: string; readonly listed: Listed } | Absent | Refused;

/** Looks for a kind, in each version that is read here. @throws as `listAll`. */
export async function findKind(
  client: ApiClient,
  kind: WatchedKind,
  namespace: string | undefined,
  newBudget: () => Budget,
  signal: AbortSignal,
): Promise<Found> {
  for (const version of kind.versions) {
    const listed = await listAll(
      client,
      { kind, version, namespace },
      { budget: newBudget(), known: new Map() },
      signal,
    );
    if (!('error' in listed)) return { version, listed };
    if (listed.isDenied !== true || kind.isBuiltIn === true) return listed;
  }
  return discover(client, kind, signal);
}

/** The second witness. It never finds a version: the list has denied each that is read here. */
async function discover(client: ApiClient, kind: WatchedKind, signal: AbortSignal): Promise<Absent | Refused> {
  const answer = await client.shared('/apis', signal);
  const refused = undiscovered(answer, kind, '/apis');
  if (refused !== undefined) return refused;
  const { kind: said, groups } = treeOf(answer.value);
  if (said !== 'APIGroupList' || !Array.isArray(groups)) return untrue(kind, 'it is no APIGroupList');
  const group = groups.map(treeOf).find(({ name }) => name === kind.group);
  if (group === undefined) return { unread: undefined };
  if (!Array.isArray(group['versions'])) return untrue(kind, 'its group has no versions');
  let unread: string | undefined;
  for (const { version } of group['versions'].map(treeOf)) {
    if (typeof version !== 'string' || !/^[a-z0-9]+$/.test(version))
      return untrue(kind, 'its group has a version without a name');
    const isListed = await lists(client, kind, version, signal);
    if (typeof isListed === 'object') return isListed;
    if (isListed && kind.versions.includes(version))
      return untrue(kind, 'discovery names it, and its list is not found');
    // What protects is missed in any version. Of the other kinds nothing is open without it.
    if (isListed && protects(kind)) return { error: unreadError(kind, version) };
    if (isListed) unread ??= version;
  }
  return { unread };
}

/** Whether discovery names the kind in a version of its group. */
async function lists(
  client: ApiClient,
  kind: WatchedKind,
  version: string,
  signal: AbortSignal,
): Promise<boolean | Refused> {
  const path = groupPath(kind.group, version);
  const answer = await client.shared(path, signal);
  const refused = undiscovered(answer, kind, path);
  if (refused !== undefined) return refused;
  const { kind: said, groupVersion, resources } = treeOf(answer.value);
  if (said !== 'APIResourceList' || groupVersion !== `${kind.group}/${version}` || !Array.isArray(resources))
    return untrue(kind, `it is no APIResourceList of ${kind.group}/${version}`);
  return resources.some((one) => treeOf(one)['name'] === kind.plural);
}

function undiscovered({ status, retryAfterMs }: Answer, { kind }: WatchedKind, path: string): Refused | undefined {
  if (status === 200) return undefined;
  if (status === 403)
    return {
      ...{ status, retryAfterMs },
      error: new SallyportError(
        'kubernetes_forbidden',
        `the API server forbids us to get ${path}, which must say that there is no kind ${kind}`,
        { hint: 'bind our service account to the ClusterRole system:discovery, as all accounts are by default' },
      ),
    };
  const message = `the API server answered ${status} to get ${path}, which must say that there is no kind ${kind}`;
  return { status, retryAfterMs, error: new SallyportError('kubernetes_unavailable', message) };
}

function untrue({ plural }: WatchedKind, why: string): Refused {
  const message = `the API server's answer about ${plural} is not valid: ${why}`;
  return { error: new SallyportError('kubernetes_invalid', message) };
}

/** The kind is there, and no version of it that is read here. */
export function unreadError({ kind, group, versions }: WatchedKind, version: string): SallyportError {
  const message = `the API server has kind ${kind} of ${group} in version ${version}, which is not read here`;
  const hint = `install its CRD with version ${versions.join(' or ')}`;
  return new SallyportError('kubernetes_invalid', message, { hint });
}
