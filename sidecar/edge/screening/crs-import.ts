// Reads the rule files of OWASP CRS 4 as far as they search a part of a request in linear time. Rules that need more
// (state, chains, responses, libinjection) are not imported, and listed with the reason.

import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import { whyNotLinear } from './crs-rules.ts';
import { type CrsRule, crsRule, transformationNames } from './crs-schema.ts';
import type { DetectorName } from './finding.ts';

/** One rule that is not imported, or not completely. */
export interface NotCarried {
  /** Absent if the rule has none that can be read. */
  readonly id?: number;
  readonly file: string;
  readonly why: string;
  /** Imported, except for this. */
  readonly inPart: boolean;
}

/** A release of CRS: its imported rules, and for each of the other rules the reason. */
export interface Imported {
  /** `OWASP_CRS/4.3.0`, as stated in the rules; undefined if they do not state it. */
  readonly version: string | undefined;
  readonly rules: readonly CrsRule[];
  readonly notCarried: readonly NotCarried[];
}

/** One directive with its arguments, quotes and continuations resolved. */
interface Directive {
  readonly name: string;
  readonly words: readonly string[];
}

/**
 * Reads all `*.conf` files of a directory, in the order of their names.
 * @throws SallyportError `config_unreadable` for a directory or file that cannot be read.
 */
export function importCrs(directory: string): Imported {
  const removed = new Set<number>();
  const updated = new Map<number, string[]>();
  const rules: CrsRule[] = [];
  const notCarried: NotCarried[] = [];
  let version: string | undefined;
  const files = list(directory).filter((name) => name.endsWith('.conf'));
  if (files.length === 0)
    throw new SallyportError('config_unreadable', `${directory} has no rule file (*.conf)`, {
      hint: "give the directory 'rules' of a CRS release",
    });
  const documents = files.map((file) => ({ file, directives: directivesOf(read(join(directory, file))) }));
  // Exclusions of the user are in files of their own, before or after the rules.
  for (const { directives } of documents)
    for (const { name, words } of directives) {
      if (name === 'SecRuleRemoveById') for (const id of words.flatMap(idsOf)) removed.add(id);
      if (name === 'SecRuleUpdateTargetById')
        for (const id of idsOf(words[0] ?? ''))
          updated.set(id, [...(updated.get(id) ?? []), ...(words[1] ?? '').split('|')]);
    }
  for (const { file, directives } of documents) {
    for (const chain of chainsOf(directives)) {
      const { targets, operator, actions } = chain[0]!;
      const id = Number(actions.find(([key]) => key === 'id')?.[1]);
      if (!Number.isSafeInteger(id)) {
        notCarried.push({ file, why: `has no id: SecRule ${targets} "${operator}"`.slice(0, 120), inPart: false });
        continue;
      }
      version ??= actions.find(([key]) => key === 'ver')?.[1];
      const add = (why: string, inPart = false): void => void notCarried.push({ id, file, why, inPart });
      if (
        !chain.some((one) => one.actions.some(([key, value]) => key === 'setvar' && value.includes('anomaly_score')))
      ) {
        // Rules that only steer others say nothing about a request.
        if (refuses(actions) && typeof placesOf(targets) !== 'string')
          add('adds nothing to an anomaly score: it needs a setvar as the rules of CRS have it');
        continue;
      }
      if (removed.has(id)) {
        add('removed by SecRuleRemoveById');
        continue;
      }
      try {
        const all = [targets, ...(updated.get(id) ?? [])].join('|');
        const rule = ruleOf(id, all, operator, actions, directory, add);
        if (typeof rule === 'string') add(rule);
        else rules.push(rule);
      } catch (error) {
        add(reasonOf(error));
      }
    }
  }
  return { version, rules, notCarried };
}

/** Rules of other sets often refuse by themselves, without a score. */
function refuses(actions: readonly Action[]): boolean {
  return actions.some(([key]) => key === 'deny' || key === 'block' || key === 'drop' || key === 'redirect');
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory).toSorted();
  } catch (error) {
    throw new SallyportError('config_unreadable', `cannot read ${directory}: ${reasonOf(error)}`, {
      hint: "give the directory 'rules' of a CRS release",
    });
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new SallyportError('config_unreadable', `cannot read ${file}: ${reasonOf(error)}`);
  }
}

/** A line that ends with a backslash goes on; in quotes, `\"` is a quote. */
function directivesOf(text: string): Directive[] {
  return text
    .replaceAll(/\\\r?\n[ \t]*/g, '')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => /^Sec\w+/.test(line))
    .map((line) => {
      const [name = '', ...words] = [...line.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(
        ([, quoted, plain]) => quoted?.replaceAll('\\"', '"') ?? plain!,
      );
      return { name, words };
    });
}

/** `942100`, `942100-942190`. */
function idsOf(word: string): number[] {
  return word.split(/[\s,]+/).flatMap((one) => {
    const [, from, to] = /^(\d{1,9})(?:-(\d{1,9}))?$/.exec(one) ?? [];
    if (from === undefined) return [];
    const last = Math.min(Number(to ?? from), Number(from) + 10_000);
    return Array.from({ length: last - Number(from) + 1 }, (_, i) => Number(from) + i);
  });
}

interface RuleLine {
  readonly targets: string;
  readonly operator: string;
  readonly actions: readonly Action[];
}

/** The rules; those that are chained together. */
function chainsOf(directives: readonly Directive[]): RuleLine[][] {
  const chains: RuleLine[][] = [];
  let isOpen = false;
  for (const { name, words } of directives) {
    if (name !== 'SecRule') continue;
    const [targets = '', operator = '', text = ''] = words;
    const actions = actionsOf(text);
    if (isOpen) chains.at(-1)!.push({ targets, operator, actions });
    else chains.push([{ targets, operator, actions }]);
    isOpen = actions.some(([key]) => key === 'chain');
  }
  return chains;
}

type Action = readonly [key: string, value: string];

/** Split by commas outside single quotes. */
function actionsOf(text: string): Action[] {
  return [...text.matchAll(/([\w!]+)(?::(?:'((?:[^'\\]|\\.)*)'|([^,]*)))?/g)].map(([, key, quoted, plain]) => [
    key!,
    quoted ?? plain?.trim() ?? '',
  ]);
}

const detectorOf: Readonly<Record<string, DetectorName>> = {
  'attack-sqli': 'sql',
  'attack-xss': 'xss',
  'attack-lfi': 'path',
  'attack-rfi': 'ssrf',
  'attack-rce': 'command',
  'attack-ssrf': 'ssrf',
  'attack-ssti': 'template',
  'attack-ldap': 'ldap',
  'attack-nosql': 'nosql',
  'attack-protocol': 'header',
};

const scores: Readonly<Record<string, CrsRule['score']>> = { CRITICAL: 5, ERROR: 4, WARNING: 3, NOTICE: 2 };

/** The rule, or why it is not imported. */
function ruleOf(
  id: number,
  targets: string,
  operator: string,
  actions: readonly Action[],
  directory: string,
  add: (why: string, inPart: boolean) => void,
): CrsRule | string {
  const all = (key: string): string[] => actions.flatMap(([name, value]) => (name === key ? [value] : []));
  const phase = Number(all('phase')[0] ?? 2);
  if (phase > 2) return 'reads responses';
  if (actions.some(([key]) => key === 'chain')) return 'is chained with another rule';
  const places = placesOf(targets);
  if (typeof places === 'string') return places;
  const [, not, name = 'rx', rest = ''] = /^(!?)@(\w+)\s*([\s\S]*)$/.exec(operator) ?? [
    undefined,
    operator.startsWith('!') ? '!' : '',
    'rx',
    operator,
  ];
  if (not === '!') return 'matches if nothing is found';
  if (/%\{/.test(rest)) return 'compares with a variable';
  const compared = argumentOf(name, rest, directory);
  if ('why' in compared) return compared.why;
  const transformations = all('t');
  const unknown = transformations.find((one) => !(transformationNames as readonly string[]).includes(one));
  if (unknown !== undefined) return `transforms with ${unknown}`;
  if (compared.operator === 'rx') {
    const why = whyNotLinear(compared.argument as string);
    if (why !== undefined) return `RE2 does not support its expression: ${why.slice(0, 100)}`;
  }
  if (places.dropped.length > 0) add(`does not read ${places.dropped.join(', ')}`, true);
  if (actions.some(([key]) => key === 'multiMatch')) add('compares after the last transformation only', true);
  const tags = all('tag');
  const level = Number(
    /^paranoia-level\/([1-4])$/.exec(tags.find((tag) => tag.startsWith('paranoia-level/')) ?? '')?.[1] ?? 1,
  );
  return crsRule.parse({
    id,
    in: places.in,
    ...(places.names.length === 0 ? {} : { names: places.names }),
    ...(places.notNames.length === 0 ? {} : { notNames: places.notNames }),
    ...compared,
    transformations: transformations.filter((one) => one !== 'none'),
    score: scores[all('severity')[0] ?? ''] ?? 5,
    level,
    detector: tags.map((tag) => detectorOf[tag]).find((one) => one !== undefined) ?? 'code',
  });
}

function argumentOf(
  name: string,
  text: string,
  directory: string,
): Pick<CrsRule, 'operator' | 'argument'> | { readonly why: string } {
  switch (name) {
    case 'rx':
    case 'contains':
    case 'streq':
    case 'beginsWith':
    case 'endsWith':
      return { operator: name, argument: text };
    case 'pm':
      return { operator: 'pm', argument: text.split(/\s+/).filter((word) => word !== '') };
    case 'pmFromFile':
    case 'pmf': {
      // Only files beside the rules: the name comes from an untrusted file.
      const file = join(directory, basename(text.trim()));
      const words = read(file)
        .split('\n')
        .map((line) => line.trim());
      return { operator: 'pm', argument: words.filter((line) => line !== '' && !line.startsWith('#')) };
    }
    case 'detectSQLi':
      return { why: "needs libinjection: the detector 'sql' is in its place" };
    case 'detectXSS':
      return { why: "needs libinjection: the detector 'xss' is in its place" };
    default:
      return { why: `compares with @${name}` };
  }
}

const variables: Readonly<Record<string, readonly CrsRule['in'][number][]>> = {
  ARGS: ['query', 'body'],
  ARGS_GET: ['query'],
  ARGS_POST: ['body'],
  ARGS_NAMES: ['name'],
  ARGS_GET_NAMES: ['name'],
  ARGS_POST_NAMES: ['name'],
  QUERY_STRING: ['query'],
  REQUEST_BODY: ['body'],
  FILES: ['body'],
  FILES_NAMES: ['name'],
  XML: ['body'],
  REQUEST_COOKIES: ['cookie'],
  REQUEST_COOKIES_NAMES: ['name'],
  REQUEST_HEADERS: ['header'],
  REQUEST_FILENAME: ['path'],
  REQUEST_BASENAME: ['path'],
  REQUEST_URI: ['path', 'query'],
  REQUEST_URI_RAW: ['path', 'query'],
};

interface Places {
  readonly in: CrsRule['in'];
  readonly names: string[];
  readonly notNames: string[];
  /** Other parts that it reads, which are not imported. */
  readonly dropped: string[];
}

/** `ARGS|REQUEST_HEADERS:User-Agent|!ARGS:q`. */
function placesOf(targets: string): Places | string {
  const found = new Set<CrsRule['in'][number]>();
  const names: string[] = [];
  const notNames: string[] = [];
  const dropped: string[] = [];
  let readsAllHeaders = false;
  for (const target of targets.split('|')) {
    const [, not, variable = '', name = ''] = /^(!?)([&\w]+)(?::(.*))?$/.exec(target.trim()) ?? [];
    const places = variables[variable];
    if (not === '!') {
      if (name.startsWith('/') || name.startsWith("'/")) dropped.push(`the exception ${target}`);
      else if (name !== '') notNames.push(name.toLowerCase());
      continue;
    }
    if (places === undefined) {
      dropped.push(variable);
      continue;
    }
    for (const one of places) found.add(one);
    if (variable !== 'REQUEST_HEADERS' && variable !== 'REQUEST_COOKIES') continue;
    if (name === '') readsAllHeaders = true;
    else names.push(name.toLowerCase());
  }
  if (found.size === 0) return `reads ${dropped.join(', ')}`;
  return { in: [...found], names: readsAllHeaders ? [] : names, notNames, dropped };
}
