// The configuration as a Live value: sidecar.yaml and the policies beside it, read together as one generation. A change
// that cannot be read keeps the last good generation, says why, and counts.

import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { asSallyportError, errnoOf, formatProblem, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { type Live, LiveCell } from '../../cert-agent/base/live.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { watchForChange } from '../../cert-agent/base/watch.ts';
import type { AuthorizationPolicy } from '../policy/policy.ts';
import { parsePolicies } from './istio.ts';
import { parseSettings, type Settings } from './settings.ts';

/** Settings and policies that were read together. */
export interface Configuration {
  /** Rises by one with each change that was taken. */
  readonly generation: number;
  readonly settings: Settings;
  readonly policies: readonly AuthorizationPolicy[];
}

export interface ConfigurationWatch {
  readonly configuration: Live<Configuration>;
  /** How many changes could not be taken. */
  failures(): number;
  /** Why the newest change was not taken; undefined when it was. */
  lastProblem(): SallyportError | undefined;
  reload(): void;
  close(): void;
}

interface Source {
  readonly file: string;
  readonly text: string;
}

/**
 * Reads the configuration and follows it.
 * @throws SallyportError `config_invalid` or `config_unreadable` when the first reading fails.
 */
export function watchConfiguration(file: string, log: Log): ConfigurationWatch {
  let sources = readSources(file);
  const cell = new LiveCell<Configuration>(compile(sources, file, 1));
  let failures = 0;
  let problem: SallyportError | undefined;

  const look = (): void => {
    let next: readonly Source[];
    try {
      next = readSources(file);
    } catch (error) {
      keepLast(error);
      return;
    }
    if (sameSources(next, sources)) return;
    sources = next;
    try {
      const { generation, settings } = cell.current();
      const taken = compile(next, file, generation + 1);
      refuseUnreloadable(settings, taken.settings);
      problem = undefined;
      log.info(
        { code: 'config_loaded', generation: taken.generation, policies: taken.policies.length },
        `configuration generation ${taken.generation} is in force`,
      );
      cell.set(taken);
    } catch (error) {
      keepLast(error);
    }
  };

  const keepLast = (error: unknown): void => {
    const known = asSallyportError(error, 'config_unreadable', 'the configuration cannot be read');
    // The same broken file is seen every second; it is said and counted once.
    if (problem?.message === known.message) return;
    problem = known;
    failures++;
    const problems = known.problems.map(formatProblem);
    log.error(
      { code: known.code, problems, hint: known.hint },
      `the new configuration is not taken, generation ${cell.current().generation} stays: ${known.message}`,
    );
  };

  const watch = watchForChange(() => {
    const { policies } = cell.current().settings;
    return [dirname(resolve(file)), ...(policies === undefined ? [] : [policies])];
  }, look);

  return {
    configuration: cell,
    failures: () => failures,
    lastProblem: () => problem,
    reload: look,
    close: () => watch.close(),
  };
}

/** Reads once, for tests and for commands that only look. @throws SallyportError `config_invalid` or `config_unreadable`. */
export function readConfiguration(file: string): Configuration {
  return compile(readSources(file), file, 1);
}

function compile(sources: readonly Source[], file: string, generation: number): Configuration {
  const [main, ...policies] = sources;
  return Object.freeze({ generation, settings: parseSettings(main!.text, file), policies: parsePolicies(policies) });
}

/** sidecar.yaml first, then the policy files by name. A settings file that cannot be parsed has no policies to read. */
function readSources(file: string): readonly Source[] {
  const text = readText(file);
  const directory = policiesOf(text, file);
  if (directory === undefined) return [{ file, text }];
  return [
    { file, text },
    ...namesIn(directory).map((name) => ({ file: join(directory, name), text: readText(join(directory, name)) })),
  ];
}

function policiesOf(text: string, file: string): string | undefined {
  try {
    return parseSettings(text, file).policies;
  } catch {
    // The same error, with all its problems, comes from compile().
    return undefined;
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
      .filter((name) => /\.(?:ya?ml|json)$/.test(name) && !basename(name).startsWith('.'))
      .toSorted();
  } catch (error) {
    throw new SallyportError('config_unreadable', `the policies in ${directory} cannot be read: ${reasonOf(error)}`, {
      hint: "make the directory, or leave 'policies' out of sidecar.yaml (nothing passes then)",
    });
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const why = errnoOf(error) === 'ENOENT' ? 'it does not exist' : reasonOf(error);
    throw new SallyportError('config_unreadable', `${file} cannot be read: ${why}`, { hint: 'name it with --config' });
  }
}

function sameSources(a: readonly Source[], b: readonly Source[]): boolean {
  return a.length === b.length && a.every((one, index) => one.file === b[index]?.file && one.text === b[index]?.text);
}

/** What a running process cannot change: who it is and where its own pages are. */
function refuseUnreloadable(old: Settings, next: Settings): void {
  const fixed = ['trustDomain', 'workload', 'identity', 'admin', 'health', 'accessLog', 'minTlsVersion'] as const;
  const changed = fixed.filter((key) => JSON.stringify(old[key]) !== JSON.stringify(next[key]));
  if (changed.length === 0) return;
  throw new SallyportError('config_invalid', `${changed.join(', ')} cannot change while the sidecar runs`, {
    hint: 'restart it to take this change',
  });
}
