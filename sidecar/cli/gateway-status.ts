// `sallyport gateway status` and `sallyport gateway --check`: the state of a running gateway, and the result of
// compiling its documents. The two may differ: of two conflicting documents, a running gateway keeps the one that it
// serves.

import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { formatAddress } from '../../cert-agent/base/address.ts';
import { formatProblem, type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Snapshot } from '../cluster/store.ts';
import type { Settings } from '../config/settings.ts';
import type { RedisPlace } from '../edge/redis.ts';
import type { Condition } from '../routing/conditions.ts';
import type { StatusItem, StatusList, StatusSection } from '../routing/status.ts';
import { placed, printChecked } from './checked.ts';
import { noteValid } from './sidecar.ts';
import { counted, exitCodes, note, noteWarning, printJson, printTable } from './terminal.ts';

/** Prints the statuses. @throws SallyportError `usage`, `config_invalid` or `config_unreadable`. */
export async function showStatus({
  config,
  output,
  offline = false,
}: {
  readonly config?: string;
  readonly output: string;
  readonly offline?: boolean;
}) {
  if (config === undefined)
    throw new SallyportError('usage', 'no gateway or directory given', {
      hint: 'give a directory or gateway.yaml with --config',
    });
  if (output !== 'json' && output !== 'table')
    throw new SallyportError('usage', `-o must be 'json' or 'table', not '${output}'`);
  if (offline) note('evaluated from the files');
  const list = (offline ? undefined : await askRunning(config)) ?? (await readAndWarn(config));
  if (output === 'json') printJson(list);
  else printRows(await lookAt(list));
  return exitCodes.ok;
}

/**
 * Checks that everything would be served as intended. @throws SallyportError `config_invalid` or `config_unreadable`.
 */
export async function checkGateway(
  file: string,
  { strict, json }: { readonly strict: boolean; readonly json: boolean },
): Promise<number> {
  const found = await objectsFor(file);
  if ('unknown' in found) return printUnknown(file, found.unknown, json);
  const { objects, unread } = found;
  const { list, spoken, redis, settings, warnings } = await readOffline(file, objects);
  const more = [
    ...(redis === undefined ? [] : await warningsOfRedis(redis)),
    ...(settings === undefined ? [] : await warningsOf(settings)),
  ];
  if (list.items.length === 0 && settings === undefined)
    throw new SallyportError('usage', `no Gateway and no route in ${file}: nothing was checked`);
  if (list.items.length === 0)
    more.push(
      `${file}:1:1: nothing is served: there is no Gateway and no route (${objects === undefined ? `put them into ${settings?.policies ?? file}` : 'apply them to the API server'})`,
    );
  const parts = await lookAt(list);
  const said = [...unread, ...warnings, ...more];
  if (json) {
    const problems = parts.flatMap((part) => problemsOf(part, file));
    const worries = said.map((one) => placed(one, file));
    const documents = list.items.length;
    return printChecked({ documents, problems, warnings: worries, passedOver: [], otherKinds: [] }, strict);
  }
  for (const one of said) noteWarning(one);
  for (const one of spoken.slice(0, mostNamed)) note(one);
  if (spoken.length > mostNamed) note(`and ${spoken.length - mostNamed} more backends`);
  const isGood = parts.every(({ bad, section }) => bad.length === 0 && section !== undefined);
  if (!isGood) {
    printRows(parts);
    return exitCodes.no;
  }
  const documents = new Set(parts.map(({ item }) => item));
  const what = `${file} is valid: ${counted(documents.size, 'document')} with a status, all accepted and resolved`;
  return noteValid(what, said.length, strict);
}

/** The objects of the API server that gateway.yaml names, if it names one; or why they cannot be known. */
async function objectsFor(
  file: string,
): Promise<
  { readonly objects?: Snapshot; readonly unread: readonly string[] } | { readonly unknown: readonly Problem[] }
> {
  const { isWatched } = await import('../compile/gateway-status.ts');
  if (!isWatched(file)) return { unread: [] };
  const { readCluster } = await import('../process/read-cluster.ts');
  const read = await readCluster(file);
  if ('objects' in read) {
    const unread = read.unread.map(
      ({ message, hint }) => `${file}:1:1: ${message}: its objects are passed over (${hint})`,
    );
    return { objects: read.objects, unread };
  }
  const said = new Map(read.problems.map(({ message, hint }) => [message, hint === undefined ? '' : ` (${hint})`]));
  const at = { file, line: 1, column: 1 };
  return { unknown: [...said].slice(0, mostNamed).map(([message, hint]) => ({ ...at, message: `${message}${hint}` })) };
}

function printUnknown(file: string, problems: readonly Problem[], json: boolean): number {
  if (json) return printChecked({ documents: 0, problems, warnings: [], passedOver: [], otherKinds: [] }, false);
  for (const one of problems) noteWarning(formatProblem(one));
  note(`${file} is valid, and a gateway would not be ready: its documents cannot be read`);
  return exitCodes.no;
}

/** What `--check` warns of beside the documents. */
async function warningsOf(settings: Settings): Promise<string[]> {
  const { configurationWarnings } = await import('../analyze/configuration-warnings.ts');
  const documents = {
    ...{ authorizationPolicies: [], peerAuthentications: [] },
    ...{ requestAuthentications: [], destinationRules: [] },
  };
  const text = readFileSync(settings.file, 'utf8');
  return (await configurationWarnings({ settings, text, documents }, Date.now())).map(formatProblem);
}

/** Lists longer than this are cut; the rest is counted. */
const mostNamed = 50;

/** The statuses of the running gateway of this gateway.yaml; undefined if it does not respond. */
async function askRunning(path: string): Promise<StatusList | undefined> {
  const { readAdmin } = await import('../compile/gateway-status.ts');
  const found = readAdmin(path);
  if (found === undefined) return undefined;
  const { file, admin } = found;
  const instead = (why: string): undefined => {
    note(`${why}: evaluated from the files`);
  };
  if (admin === undefined) return instead(`no 'admin' in ${file}`);
  const { askAdmin } = await import('../analyze/admin-client.ts');
  const place = 'path' in admin ? formatAddress(admin) : `http://${formatAddress(admin)}`;
  const page = async (name: string): Promise<object> => {
    const [url, socket] = 'path' in admin ? [`http://localhost${name}`, admin.path] : [`${place}${name}`, undefined];
    const { status, body } = await askAdmin(new URL(url), socket);
    return status === 200 && typeof body === 'object' && body !== null ? body : {};
  };
  try {
    const { configFile, lastProblem, kubernetes } = (await page('/state')) as Partial<State>;
    if (configFile === undefined) return instead(`no gateway responds at ${place}`);
    if (realPath(configFile) !== realPath(file)) return instead(`the process at ${place} serves ${configFile}`);
    const list = (await page('/gateway-status')) as Partial<StatusList>;
    if (list.items === undefined) return instead(`no gateway responds at ${place}`);
    note(`status of the running gateway at ${place}`);
    if (lastProblem) noteWarning(`the last change was rejected: ${lastProblem.message}`);
    for (const one of kubernetes?.worries ?? []) noteWarning(one);
    return list as StatusList;
  } catch (error) {
    if (error instanceof SallyportError && error.code === 'upstream_connect')
      return instead(`no gateway responds at ${place}`);
    throw error;
  }
}

/** The part of `GET /state` that is used here. */
interface State {
  readonly configFile: string;
  readonly lastProblem: { readonly message: string } | null;
  readonly kubernetes: { readonly worries: readonly string[] };
}

/** The path with links resolved, if it exists here. */
function realPath(file: string): string {
  return existsSync(file) ? realpathSync(file) : file;
}

/** What a gateway that starts now would serve. */
async function readOffline(path: string, objects?: Snapshot) {
  const { readStatus } = await import('../process/dry-run.ts');
  return readStatus(path, Date.now(), objects);
}

async function readAndWarn(path: string): Promise<StatusList> {
  const { warnings, list } = await readOffline(path);
  for (const one of warnings) noteWarning(one);
  return list;
}

/** A part that is not served as it is meant, as problems. */
function problemsOf({ item: { kind, metadata }, section, bad }: Part, file: string): Problem[] {
  const name = `${kind} ${metadata.namespace}/${metadata.name}`;
  const at = { file, line: 1, column: 1 };
  if (section === undefined) return [{ ...at, message: `${name} is not attached: it has no parent Gateway` }];
  const where = section.section === '' ? name : `${name} (${section.section})`;
  return bad.map(({ type, status, reason, message }) => ({
    ...at,
    message: `${where}: ${type}=${status} ${reason}: ${message}`,
  }));
}

/** An unreachable Redis may come back; a Redis Cluster node never works. @throws SallyportError `config_invalid`. */
async function warningsOfRedis(redis: RedisPlace): Promise<string[]> {
  const { tryRedis } = await import('../edge/redis-link.ts');
  const problem = await tryRedis(redis);
  return problem === undefined ? [] : [problem];
}

/** A section of a status, and its conditions that are not as they should be. */
interface Part {
  readonly item: StatusItem;
  /** Undefined if the document has none. A route without a parent has no conditions and is not served. */
  readonly section: StatusSection | undefined;
  readonly bad: readonly Condition[];
}

async function lookAt({ items }: StatusList): Promise<readonly Part[]> {
  const { isBad, sectionsOf } = await import('../routing/status.ts');
  return items.flatMap((item): Part[] => {
    const isLost = (item.status as { readonly parents?: readonly unknown[] }).parents?.length === 0;
    if (isLost) return [{ item, section: undefined, bad: [] }];
    return sectionsOf(item).map((section) => ({ item, section, bad: section.conditions.filter(isBad) }));
  });
}

/** One row for each condition that is not as it should be, and one for each section without such conditions. */
function printRows(parts: readonly Part[]): void {
  const rows = parts.flatMap(({ item: { kind, metadata }, section, bad }): string[][] => {
    const name = `${metadata.namespace}/${metadata.name}`;
    if (section === undefined) return [[kind, name, '', 'not attached', '', 'no parent Gateway']];
    if (bad.length > 0)
      return bad.map((one) => [kind, name, section.section, `${one.type}=${one.status}`, one.reason, one.message]);
    // In effect, but not alone or not everywhere: not an error, but worth showing.
    const other = section.conditions.find(
      ({ type, status }) => status === 'True' && (type === 'Overridden' || type === 'Merged' || type === 'PassedOver'),
    );
    if (other !== undefined) return [[kind, name, section.section, other.type, other.reason, other.message]];
    const { routes } = section;
    return [[kind, name, section.section, 'ok', '', routes === undefined ? '' : counted(routes, 'route')]];
  });
  printTable(['KIND', 'NAME', 'SECTION', 'CONDITION', 'REASON', 'MESSAGE'], rows, 'no document with a status');
}
