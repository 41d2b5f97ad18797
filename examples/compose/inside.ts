// What the tour does inside the containers, through `compose exec`: it sends requests, runs commands, and reads pages
// that are served only inside.

import { execFile, spawnSync } from 'node:child_process';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Answer, Question } from '../two-services/demo/ask.ts';
import type { Job } from './client.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const client = '/examples/compose/client.ts';
const patienceMs = 30_000;

/** The compose command of this machine, split into words; COMPOSE in the environment overrides it. */
export const compose = composeCommand();

function composeCommand(): readonly string[] {
  const named = process.env['COMPOSE'];
  if (named !== undefined) return named.split(' ');
  const docker = ['docker', 'compose'];
  return spawnSync('docker', ['compose', 'version'], { stdio: 'ignore' }).status === 0 ? docker : ['podman-compose'];
}

/** Runs a command in a service's container; resolves to what it prints. */
function exec(service: string, command: readonly string[], input = ''): Promise<string> {
  const [program = '', ...words] = compose;
  return new Promise((resolve, reject) => {
    const child = execFile(
      program,
      [...words, 'exec', '-T', service, ...command],
      { cwd: here },
      (error, stdout, stderr) => {
        if (error === null) resolve(stdout);
        else reject(new Error(`${service}: ${stderr.trim().split('\n').at(-1) ?? error.message}`));
      },
    );
    child.stdin?.end(input);
  });
}

/** Runs shell text that must succeed. */
export function execIn(service: string, text: string, input?: string): Promise<string> {
  return exec(service, ['sh', '-ec', text], input);
}

/** Runs a `sallyport ca ...` command in a container that has the CA's socket. */
export async function sallyportOf(service: string, ...args: readonly string[]): Promise<string> {
  return await exec(service, ['sallyport', ...args, '--socket', '/run/sallyport/operator/ca.sock']);
}

async function run<T>(service: string, job: Job): Promise<T> {
  const outcome = JSON.parse(await exec(service, ['node', client, JSON.stringify(job)])) as T | { error: string };
  if (typeof outcome === 'object' && outcome !== null && 'error' in outcome) throw new Error(outcome.error);
  return outcome;
}

/** Sends a plain HTTP request from inside a container. @throws what the client got instead of a response. */
export function ask(service: string, question: Question): Promise<Answer> {
  return run(service, { ask: question });
}

/** Sends a request from the stranger to the mutual-TLS port of orders. */
export function direct(job: { readonly identity?: string; readonly trust: string }): Promise<Answer> {
  return run('stranger', { direct: job });
}

/** Keeps sending requests to orders from inside web. */
export function load(job: {
  readonly port: number;
  readonly seconds: number;
}): Promise<{ requests: number; failures: string[] }> {
  return run('web', { load: job });
}

/** The outcome of a request, as text. */
export function outcomeText(question: Promise<Answer>): Promise<string> {
  return question.then(
    ({ status, body }) => `${status} ${body.trim()}`,
    (error: Error) => error.message,
  );
}

/** How many peers the sidecar of orders has refused for `code`. */
export async function metricOf(code: string): Promise<number> {
  const { body } = await ask('orders', { port: 15_021, path: '/stats/prometheus' });
  return Number(
    new RegExp(`^sallyport_connections_refused_total\\{.*code="${code}".*\\} (\\d+)`, 'm').exec(body)?.[1] ?? 0,
  );
}

/** The serial of the certificate that a service's sidecar uses. */
export async function serialOf(service: string): Promise<string> {
  const { body } = await ask(service, { port: 15_000, path: '/certs' });
  return (JSON.parse(body) as { serial: string }).serial;
}

/** Repeats `question` until it resolves to true. */
export async function until(what: string, question: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + patienceMs;
  while (!(await question().catch(() => false))) {
    if (performance.now() > end) throw new Error(`waited ${patienceMs / 1000} s for ${what}`);
    await pause(100);
  }
}
