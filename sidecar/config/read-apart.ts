// Reading in a process of its own that then ends: the YAML and schema libraries with their garbage are a quarter of what
// a sidecar holds in memory (measured; a thread leaves most of it behind), a big file would hold up every request, and
// both are needed for some milliseconds a day.

import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type Code, type ErrorDetail, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../cert-agent/base/live.ts';
import type { AuthorizationPolicy } from '../policy/policy.ts';
import type { Reading } from './read.ts';

/** What the process sends: policies, then the rest of what it read; or the parts of the error that it met. */
export type Answer =
  | { readonly policies: readonly AuthorizationPolicy[] }
  | { readonly reading: Reading }
  | { readonly code: Code; readonly message: string; readonly detail: ErrorDetail };

// It has the extension that this file has: .ts from source, .js in dist/.
const program = fileURLToPath(import.meta.url.replace(/read-apart(\.[jt]s)$/, 'read-process$1'));

/** A message is taken in one turn of the event loop, and traffic waits for it. */
export const rulesPerMessage = 500;

/** No configuration takes this long; a reader that hangs must not keep the next change from being read. */
const patienceMs = 120_000;

/** As readConfiguration(), elsewhere. @throws SallyportError `config_invalid`, `config_unreadable`, `internal`. */
export async function readApart(file: string): Promise<Reading> {
  // What the sidecar was started with (an inspector's port, a tracer) is not for it.
  const { NODE_OPTIONS: _, ...env } = process.env;
  const child = fork(program, [file], {
    env,
    execArgv: ['--disable-sigusr1'],
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  // Not fork's own `timeout`: after a failed start that would keep us from ending for as long.
  const timer = setTimeout(() => child.kill(), patienceMs);
  const over = (): void => clearTimeout(timer);
  child.once('exit', over).once('error', over);
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

function join(policies: readonly AuthorizationPolicy[], { documents, ...rest }: Reading): Reading {
  const authorizationPolicies = Object.freeze([...policies, ...documents.authorizationPolicies]);
  return Object.freeze({ ...rest, documents: Object.freeze({ ...documents, authorizationPolicies }) });
}

function noAnswer(why: string): SallyportError {
  return new SallyportError('internal', `the process that reads the configuration did not answer: ${why}`);
}
