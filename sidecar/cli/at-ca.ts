// What the operator's commands of the CA share: how they find it, and how they read durations and times.

import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { shellWord } from '../../cert-agent/base/shell-word.ts';
import type { SeenHead } from '../../cert-agent/ca/ledger/verify.ts';
import type { Operator } from '../../cert-agent/ca/operator/operator.ts';

/** Flags that select the CA; one of `dir` and `socket` must be there. */
export interface AtCa {
  readonly dir?: string;
  readonly socket?: string;
  readonly json?: boolean;
}

/** The options by which an operator's command finds its CA. */
export function atCa(command: Command): Command {
  return command
    .option('--dir <path>', "the CA's directory: its socket while it runs, else its store")
    .option('--socket <path>', 'the socket of a running CA');
}

/** Runs `work` with the CA that the flags select, and closes it in any case. */
export async function withOperator<T>(flags: AtCa, work: (operator: Operator) => Promise<T>): Promise<T> {
  const { dir, socket } = flags;
  const { openOperator } = await import('../../cert-agent/ca/operator/open.ts');
  if (socket === undefined && dir === undefined) throw usage('select the CA with --dir or --socket');
  const open = await openOperator(socket === undefined ? { dir: dir ?? '' } : { socket });
  try {
    return await work(open.operator);
  } finally {
    await open.close();
  }
}

/** ` --dir D` or ` --socket S`, for a command that the user is to run next. */
export function sameCa({ dir, socket }: AtCa): string {
  return socket !== undefined ? ` --socket ${shellWord(socket)}` : dir !== undefined ? ` --dir ${shellWord(dir)}` : '';
}

/** Milliseconds. @throws SallyportError `usage`. */
export async function durationOf(text: string, option: string): Promise<number> {
  const { parseDuration } = await import('../../cert-agent/base/clock.ts');
  const ms = parseDuration(text);
  if (ms === undefined) throw usage(`${option} '${text}' is not a duration`, 'write 30s, 10m, 1h or 1h30m');
  return ms;
}

/** Milliseconds since 1970 of a time, or of a duration before now. @throws SallyportError `usage`. */
export async function timeOf(text: string, option: string): Promise<number> {
  const { parseDuration } = await import('../../cert-agent/base/clock.ts');
  const ago = parseDuration(text);
  if (ago !== undefined) return Date.now() - ago;
  const time = /^\d{4}-\d\d-\d\d(T|$)/.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(time)) return time;
  throw usage(`${option} '${text}' is not a time`, 'write 24h for a day ago, or 2026-11-30T12:00:00Z');
}

/** The end of a ledger that was seen: an agent's file, or `SEQUENCE:HASH`. @throws SallyportError `usage`. */
export function readHead(text: string, option: string): SeenHead {
  const [, digits, hash] = /^(\d+):([0-9a-f]{64})$/.exec(text) ?? [];
  if (hash !== undefined) return { sequence: Number(digits), hash };
  let content: string;
  try {
    content = readFileSync(text, 'utf8');
  } catch (error) {
    throw usage(`${option} ${text}: it cannot be read: ${reasonOf(error)}`, 'give a file, or SEQUENCE:HASH');
  }
  try {
    const value = JSON.parse(content) as Partial<SeenHead> | null;
    if (typeof value?.hash === 'string' && Number.isSafeInteger(value.sequence) && Number(value.sequence) > 0)
      return { sequence: Number(value.sequence), hash: value.hash };
  } catch {
    // What is not JSON has no head either.
  }
  throw usage(`${option} ${text}: it has no sequence and hash`, "give an agent's ledger-head.json, or SEQUENCE:HASH");
}

/** The error for wrong arguments: exit code 2. */
export function usage(message: string, hint?: string): SallyportError {
  return new SallyportError('usage', message, { hint });
}
