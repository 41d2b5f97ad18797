// Lists all objects of a kind, page by page, at one resource version.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { holdYoungGeneration } from '../../cert-agent/base/heap.ts';
import type { Budget } from './budget.ts';
import { type Answer, type ApiClient, maxAnswerBytes, maxLineBytes, TooLarge } from './client.ts';
import { pathOf, type WatchedKind } from './kinds.ts';
import { type Asked, eventBytes, invalid, type KeptObject, keep, keyOfObject, tooLarge, treeOf } from './objects.ts';

/** A complete list, and the version from which a watch continues it. */
export interface Listed {
  readonly objects: ReadonlyMap<string, KeptObject>;
  readonly resourceVersion: string;
  /** What the objects have of it. */
  readonly budget: Budget;
}

/** Why a request was refused. */
export interface Refused {
  readonly error: SallyportError;
  /** The version asked for is too old (HTTP 410): list again. */
  readonly isGone?: true;
  /** There is no such kind, says the API server itself: a proxy before it answers HTTP 404, too, but not as it does. */
  readonly isDenied?: true;
  /** Of HTTP, or of the Status of an ERROR event. */
  readonly status?: number;
  readonly retryAfterMs?: number | undefined;
}

/** What a list is counted in, and what is known of the same kind. */
export interface Counting {
  /** An empty one. If the list is not taken, it must be dropped. */
  readonly budget: Budget;
  readonly known: ReadonlyMap<string, KeptObject>;
}

/** 250 objects of the usual size have 1 MB. */
const pageSize = 250;
/** A page with more is asked for again with fewer objects: as trees, small values take many times their text. */
const maxPageBytes = 4 * 1024 * 1024;
/** The API server may hand out pages without end. */
const maxPages = 10_000;
/** Of a `continue` token, which goes into a URL. */
const maxTokenLength = 8192;

/**
 * All objects, or why there are none: those of this version, if one is given, or else the newest.
 * @throws SallyportError `kubernetes_unavailable`, `kubernetes_invalid`.
 */
export async function listAll(
  client: ApiClient,
  asked: Asked,
  counting: Counting,
  signal: AbortSignal,
  atVersion?: string,
): Promise<Listed | Refused> {
  let listed: Listed | Refused | undefined;
  const release = holdYoungGeneration();
  try {
    listed = await listPages(client, asked, counting, signal, atVersion);
    return listed;
  } finally {
    release();
    if (listed === undefined || 'error' in listed) counting.budget.drop();
  }
}

async function listPages(
  client: ApiClient,
  asked: Asked,
  { budget, known }: Counting,
  signal: AbortSignal,
  atVersion: string | undefined,
): Promise<Listed | Refused> {
  const { kind, version, namespace } = asked;
  const objects = new Map<string, KeptObject>();
  const path = pathOf(kind, version, namespace);
  let next = '';
  let limit = pageSize;
  const seen = new Set<string>();
  for (let page = 0; page < maxPages; page++) {
    const ask = (size: number): Promise<Answer> => {
      const query = new URLSearchParams({ limit: String(size) });
      if (kind.fieldSelector !== undefined) query.set('fieldSelector', kind.fieldSelector);
      // The token has the version.
      if (next !== '') query.set('continue', next);
      else if (atVersion !== undefined) {
        query.set('resourceVersion', atVersion);
        query.set('resourceVersionMatch', 'Exact');
      }
      const mostBytes = size === 1 ? maxAnswerBytes : maxPageBytes;
      return client.page(`${path}?${query}`, signal, kind.isData === true ? 'data' : 'documents', mostBytes);
    };
    let answer: Answer;
    [answer, limit] = await fitting(limit, ask, asked);
    // The large objects of one tenant must not make small pages of everybody's.
    if (answer.bytes < maxPageBytes / 4) limit = Math.min(pageSize, 2 * limit);
    if (answer.status !== 200) return refusalOf(answer, asked, 'list');
    const { kind: said, metadata, items } = treeOf(answer.value);
    if (said !== `${kind.kind}List`) throw invalid(asked, `it is no ${kind.kind}List`);
    // An empty list of Go is null.
    if (!Array.isArray(items ?? [])) throw invalid(asked, 'it has no items');
    for (const item of (items ?? []) as unknown[]) {
      const object = keep(item, asked);
      const key = keyOfObject(object);
      // As the event of such an object, which is not read either.
      const isTooLarge = object.tooMuch === undefined && answer.bytes > maxLineBytes && eventBytes(item) > maxLineBytes;
      const one = isTooLarge ? { ...object, tooMuch: tooLarge } : shared(object, known.get(key));
      objects.set(key, budget.add(one, objects.get(key)));
    }
    const { resourceVersion, continue: more = '' } = treeOf(metadata);
    if (typeof resourceVersion !== 'string' || resourceVersion === '' || typeof more !== 'string')
      throw invalid(asked, 'it has no resourceVersion');
    // Of other pages too: a list of several versions was never true.
    atVersion ??= resourceVersion;
    if (resourceVersion !== atVersion)
      throw invalid(asked, `it is of version ${resourceVersion.slice(0, 40)}, and not ${atVersion.slice(0, 40)}`);
    if (more === '') return { objects, resourceVersion, budget };
    if (more.length > maxTokenLength || seen.has(more)) throw invalid(asked, 'its pages have no end');
    seen.add(more);
    next = more;
  }
  throw invalid(asked, 'its pages have no end');
}

/** The known object if it is the same, or with its text: a list must not hold once more what has not changed. */
function shared(object: KeptObject, known: KeptObject | undefined): KeptObject {
  if (known?.text !== object.text) return object;
  const isSame = known.resourceVersion === object.resourceVersion && known.status === object.status;
  return isSame ? known : { ...object, text: known.text };
}

/** A page of at most `limit` objects, and of how many it was: fewer if they are too large. */
async function fitting(
  limit: number,
  ask: (size: number) => Promise<Answer>,
  asked: Asked,
): Promise<readonly [Answer, number]> {
  for (let size = limit; ; size = Math.max(1, Math.floor(size / 4))) {
    try {
      return [await ask(size), size];
    } catch (error) {
      if (!(error instanceof TooLarge)) throw error;
      if (size === 1) throw invalid(asked, 'an object is too large');
    }
  }
}

/** What an answer that is no success means. */
export function refusalOf(
  { status, retryAfterMs, value }: Omit<Answer, 'bytes'>,
  { kind, namespace }: Asked,
  verb: string,
): Refused {
  const where = namespace === undefined ? '' : ` in namespace ${namespace}`;
  const what = `${verb} ${kind.plural}${where}`;
  const resource = kind.group === '' ? kind.plural : `${kind.plural}.${kind.group}`;
  const scope = kind.isClusterWide === true ? '' : namespace === undefined ? ' -A' : ` -n ${namespace}`;
  if (status === 403)
    return {
      error: new SallyportError('kubernetes_forbidden', `the API server forbids us to ${what}`, {
        hint: `grant it to our service account; 'kubectl auth can-i ${verb} ${resource}${scope} --as=...' tells`,
      }),
      ...{ retryAfterMs, status },
    };
  if (status === 401)
    return {
      status,
      error: new SallyportError('kubernetes_unavailable', `the API server does not accept our token to ${what}`, {
        hint: 'it is read again for the next try',
      }),
    };
  if (status === 405)
    return {
      status,
      error: new SallyportError(
        'kubernetes_invalid',
        `the API server does not allow to ${what}: it has no verb ${verb} for them`,
        {
          hint: 'a gateway follows what can be listed and watched: serve it by a CRD',
        },
      ),
    };
  const gone = isGone(status, value);
  // A Status in a watch has no header.
  const { retryAfterSeconds } = treeOf(treeOf(value)['details']);
  const fromStatus = typeof retryAfterSeconds === 'number' ? retryAfterSeconds * 1000 : undefined;
  const error = new SallyportError('kubernetes_unavailable', `the API server answered ${status} to ${what}`);
  if (gone) return { error, isGone: true, status };
  return {
    error,
    retryAfterMs: retryAfterMs ?? fromStatus,
    status,
    ...(status === 404 && isNoKind(value) && { isDenied: true }),
  };
}

/** A group that is built in answers with a Status. Where no CRD has made the path, there is only the page of Go. */
function isNoKind(value: unknown): boolean {
  return treeOf(value)['kind'] === 'Status' || value === '404 page not found\n';
}

/** HTTP 410, or the Status of an ERROR event that says so. */
export function isGone(code: unknown, value: unknown): boolean {
  const { code: inner, reason } = treeOf(value);
  return code === 410 || inner === 410 || reason === 'Expired' || reason === 'Gone';
}

/** Of a kind that was there: its objects stay until it is certain. */
export function goneError(kind: WatchedKind): Refused {
  const message = `the API server has no kind ${kind.kind} of ${kind.group} any more`;
  return { error: new SallyportError('kubernetes_invalid', message, { hint: 'its objects go once that is certain' }) };
}

/** For a kind without which no gateway works. */
export function absentError(kind: WatchedKind): Refused {
  const error = new SallyportError('kubernetes_invalid', `the API server has no kind ${kind.kind} of ${kind.group}`, {
    hint: 'install the CRDs of Gateway API',
  });
  return { error };
}
