// `sallyport gateway status` and `sallyport gateway --check`: what a running gateway has in force, and what one would make of its
// documents. The two may differ: of two documents that want the same a running gateway keeps the one that it serves.

import { existsSync, realpathSync } from 'node:fs';
import { formatAddress } from '../../cert-agent/base/address.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { RedisPlace } from '../edge/redis.ts';
import type { Condition } from '../routing/conditions.ts';
import type { StatusItem, StatusList, StatusSection } from '../routing/status.ts';
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
    throw new SallyportError('usage', 'the status of what?', {
      hint: 'name a directory or gateway.yaml with --config',
    });
  if (output !== 'json' && output !== 'table')
    throw new SallyportError('usage', `-o is 'json' or 'table', not '${output}'`);
  if (offline) note('judged from the files');
  const list = (offline ? undefined : await askRunning(config)) ?? (await readAloud(config)).list;
  if (output === 'json') printJson(list);
  else printRows(await lookAt(list));
  return exitCodes.ok;
}

/** Says whether all of it would be served as it is meant. @throws SallyportError `config_invalid` or `config_unreadable`. */
export async function checkGateway(file: string): Promise<number> {
  const { list, spoken, redis } = await readAloud(file);
  if (redis !== undefined) await checkRedis(redis);
  const parts = await lookAt(list);
  for (const one of spoken.slice(0, mostNamed)) note(one);
  if (spoken.length > mostNamed) note(`and ${spoken.length - mostNamed} more backends`);
  const isGood = parts.every(({ bad, section }) => bad.length === 0 && section !== undefined);
  if (!isGood) printRows(parts);
  else {
    const documents = new Set(parts.map(({ item }) => item));
    note(`${file} is good: ${counted(documents.size, 'document')} with a status, all accepted and resolved`);
  }
  return isGood ? exitCodes.ok : exitCodes.no;
}

/** Of a long list the end is only counted. */
const mostNamed = 50;

/** The statuses as the gateway of this gateway.yaml has them in force; undefined where it is not there to be asked. */
async function askRunning(path: string): Promise<StatusList | undefined> {
  const { readAdmin } = await import('../compile/gateway-status.ts');
  const found = readAdmin(path);
  if (found === undefined) return undefined;
  const { file, admin } = found;
  const instead = (why: string): undefined => {
    note(`${why}: judged from the files`);
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
    const { configFile, lastProblem } = (await page('/state')) as Partial<State>;
    if (configFile === undefined) return instead(`no gateway answers at ${place}`);
    if (realPath(configFile) !== realPath(file)) return instead(`the process at ${place} serves ${configFile}`);
    const list = (await page('/gateway-status')) as Partial<StatusList>;
    if (list.items === undefined) return instead(`no gateway answers at ${place}`);
    note(`as the gateway at ${place} has it in force`);
    if (lastProblem) noteWarning(`the last change was not taken: ${lastProblem.message}`);
    return list as StatusList;
  } catch (error) {
    if (error instanceof SallyportError && error.code === 'upstream_connect')
      return instead(`no gateway answers at ${place}`);
    throw error;
  }
}

/** What of `GET /state` is asked for here. */
interface State {
  readonly configFile: string;
  readonly lastProblem: { readonly message: string } | null;
}

/** Without links, where it exists here. */
function realPath(file: string): string {
  return existsSync(file) ? realpathSync(file) : file;
}

async function readAloud(path: string) {
  const { readStatus } = await import('../process/dry-run.ts');
  const { warnings, ...rest } = readStatus(path, Date.now());
  for (const one of warnings) noteWarning(one);
  return rest;
}

/** One that is away may come; one that is a node of a Cluster never will do. @throws SallyportError `config_invalid`. */
async function checkRedis(redis: RedisPlace): Promise<void> {
  const { tryRedis } = await import('../edge/redis-link.ts');
  const problem = await tryRedis(redis);
  if (problem !== undefined) noteWarning(problem);
}

/** A part of a status, and those of its conditions that are not as they should be. */
interface Part {
  readonly item: StatusItem;
  /** Undefined: the document has none. A route without a parent has no conditions, and is served nowhere. */
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

/** A row for each condition that does not hold as it should, and one for each thing that is well. */
function printRows(parts: readonly Part[]): void {
  const rows = parts.flatMap(({ item: { kind, metadata }, section, bad }): string[][] => {
    const name = `${metadata.namespace}/${metadata.name}`;
    if (section === undefined) return [[kind, name, '', 'not attached', '', 'it names no Gateway']];
    if (bad.length > 0)
      return bad.map((one) => [kind, name, section.section, `${one.type}=${one.status}`, one.reason, one.message]);
    // What is in effect, but not alone, or not everywhere: no fault, and not to be missed.
    const other = section.conditions.find(
      ({ type, status }) => status === 'True' && (type === 'Overridden' || type === 'Merged' || type === 'PassedOver'),
    );
    if (other !== undefined) return [[kind, name, section.section, other.type, other.reason, other.message]];
    const { routes } = section;
    return [[kind, name, section.section, 'ok', '', routes === undefined ? '' : counted(routes, 'route')]];
  });
  printTable(
    ['KIND', 'NAME', 'SECTION', 'CONDITION', 'REASON', 'MESSAGE'],
    rows,
    'there is no document that has a status',
  );
}
