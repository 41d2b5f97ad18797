// Reads the configuration in a separate process that then ends. The YAML and schema libraries and their garbage would
// be a quarter of a sidecar's memory (measured; a thread would leave most of it behind), and a big file would block
// every request. Both are needed only for milliseconds a day.

import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { withCompileCache } from '../../cert-agent/base/compile-cache.ts';
import { type Code, type ErrorDetail, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../cert-agent/base/live.ts';
import type { Snapshot } from '../cluster/store.ts';
import type { AuthorizationPolicy } from '../policy/policy.ts';
import type { Reading } from './read.ts';

/** Messages of the process: policies, then the rest of the configuration; or the parts of an error. */
export type Answer =
  | { readonly policies: readonly AuthorizationPolicy[] }
  | { readonly reading: Reading }
  | { readonly code: Code; readonly message: string; readonly detail: ErrorDetail };

// It has the same extension as this file: .ts in the source, .js in dist/.
const program = fileURLToPath(import.meta.url.replace(/read-apart(\.[jt]s)$/, 'read-process$1'));

/** Tells the process to wait for one message: the objects of the API server. */
export const withObjects = '--with-objects';

/** A message is received in one turn of the event loop, and traffic waits meanwhile. */
export const rulesPerMessage = 500;

/** No configuration takes this long. A hanging reader must not block the next change. */
const patienceMs = 120_000;

/** readConfiguration() in a process. @throws SallyportError `config_invalid`, `config_unreadable`, `internal`. */
export async function readApart(file: string, objects?: Snapshot): Promise<Reading> {
  // It does not inherit the sidecar's Node options (an inspector's port, a tracer).
  const { NODE_OPTIONS: _, ...env } = process.env;
  const child = fork(program, objects === undefined ? [file] : [file, withObjects], {
    env: withCompileCache(env),
    execArgv: ['--disable-sigusr1'],
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  // Not fork's own `timeout`: after a failed start it would keep our process alive for that long.
  const timer = setTimeout(() => child.kill(), patienceMs);
  const over = (): void => clearTimeout(timer);
  child.once('exit', over).once('error', over);
  // If it cannot be sent, the process has ended, which is reported below.
  if (objects !== undefined) child.send(objects, () => {});
  const policies: AuthorizationPolicy[] = [];
  return new Promise((resolve, reject) => {
    child.on('message', (answer: Answer) => {
      if ('policies' in answer) policies.push(...deepFreeze(answer.policies));
      else if ('reading' in answer) resolve(join(policies, deepFreeze(answer.reading)));
      else reject(new SallyportError(answer.code, answer.message, answer.detail));
    });
    child.once('exit', (status, signal) => reject(noAnswer(`it ended with ${signal ?? status}`)));
    child.once('error', (error) => reject(noAnswer(reasonOf(error))));
  });
}

/**
 * readApart() whose first reading of `file` has begun: its process starts while the modules of ours load, which is a
 * third of the time until a sidecar is ready.
 */
export function readAhead(file: string): typeof readApart {
  let ahead: Promise<Reading> | undefined = readApart(file);
  // The caller that takes the result gets the error.
  ahead.catch(() => {});
  return (wanted, objects) => {
    const first = wanted === file && objects === undefined ? ahead : undefined;
    ahead = undefined;
    return first ?? readApart(wanted, objects);
  };
}

function join(policies: readonly AuthorizationPolicy[], { documents, ...rest }: Reading): Reading {
  const authorizationPolicies = Object.freeze([...policies, ...documents.authorizationPolicies]);
  return Object.freeze({ ...rest, documents: Object.freeze({ ...documents, authorizationPolicies }) });
}

function noAnswer(why: string): SallyportError {
  return new SallyportError('internal', `the process that reads the configuration did not respond: ${why}`);
}
