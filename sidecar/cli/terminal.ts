// The only file that prints. Results go to stdout, everything else to stderr; colour only on a terminal.

import { once } from 'node:events';
import { styleText } from 'node:util';
import { type Command, Option } from 'commander';
import { type Code, formatProblem, type Problem, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { widthOf, wrap } from '../../cert-agent/base/wrap.ts';

/**
 * Exit codes of every command except `exec`, which ends as its app does. `no`: the command ran, and the result is
 * negative: a rule fails, a request was refused. `usage`: misuse, or something that cannot be read: nothing was checked.
 * `unreachable`: the process or the CA that was asked does not respond, and may do so later.
 */
export const exitCodes = Object.freeze({ ok: 0, no: 1, usage: 2, unreachable: 3 });

/** The same as a sentence, for the help. */
export const exitCodesText =
  'Exit codes: 0 good, 1 a finding or a refusal, 2 misuse or something unreadable, 3 a process or CA that does not respond.';

type Style = Parameters<typeof styleText>[0];

/** `text` in a colour, if `stream` is a terminal and NO_COLOR is not set. */
export function paint(style: Style, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return styleText(style, text, { stream, validateStream: true });
}

/** Writes to standard output, with one line break at the end. For results. */
export function print(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
}

/** As `print`, for a result that people read: on a terminal lines are broken at words and go on `hanging` spaces in. */
export function printText(text: string, hanging = 2): void {
  const width = widthOf(process.stdout);
  if (width === undefined) return print(text);
  const broken = (line: string): string[] => {
    const words = line.trimStart();
    const indent = line.length - words.length;
    return wrap(words, width, indent, Math.max(indent, hanging));
  };
  print(text.split('\n').flatMap(broken).join('\n'));
}

/** `1 document`, `2 documents`; `plural` for irregular plurals. */
export function counted(count: number, one: string, plural = `${one}s`): string {
  return `${count} ${count === 1 ? one : plural}`;
}

/** Writes a line to standard error. For what is said beside a result. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Warns about files that were not read: each may contain a policy that the operator believes to be in force. */
export function notePassedOver(files: readonly Problem[]): void {
  for (const { file, message } of files) noteWarning(`${file}: ${message}`);
}

/** As `note`, marked as a warning. */
export function noteWarning(text: string): void {
  noteWrapped('warning:', 'yellow', text);
}

/** Prints lines as fast as the reader takes them. */
export async function printLines(lines: AsyncIterable<string>): Promise<void> {
  for await (const part of inParts(lines)) if (!process.stdout.write(part)) await once(process.stdout, 'drain');
}

/** Lines, each with its end, joined to parts of some 64 KB. */
export async function* inParts(lines: AsyncIterable<string>): AsyncGenerator<string> {
  let part = '';
  for await (const line of lines) {
    part += `${line}\n`;
    if (part.length < 65_536) continue;
    yield part;
    part = '';
  }
  if (part !== '') yield part;
}

/** Text from others, without the characters that a terminal would obey. */
export function harmless(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\ufffd');
}

/** Prints JSON for programs, indented. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

/**
 * Prints rows as columns, two spaces apart, with a bold head; without rows, only `empty`. On a terminal that is too narrow
 * for them each row is a block, with a line for each column.
 */
export function printTable(head: readonly string[], rows: readonly (readonly string[])[], empty: string): void {
  if (rows.length === 0) return print(empty);
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)));
  const width = widthOf(process.stdout);
  if (width !== undefined && widths.reduce((sum, one) => sum + one + 2, -2) > width)
    return printBlocks(head, rows, width);
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  print(paint('bold', line(head)));
  for (const row of rows) print(line(row));
}

function printBlocks(head: readonly string[], rows: readonly (readonly string[])[], width: number): void {
  const column = Math.max(...head.map((title) => title.length)) + 2;
  const field = (title: string, value: string): string =>
    `${title.padEnd(column)}${wrap(value, width, column).join('\n').trimStart()}`.trimEnd();
  print(rows.map((row) => head.map((title, at) => field(title, row[at] ?? '')).join('\n')).join('\n\n'));
}

/** A line on standard error, broken at words if that is a terminal. `mark` is its beginning, in a colour. */
function noteWrapped(mark: string, style: Style, text: string): void {
  const width = widthOf(process.stderr);
  const whole = `${mark} ${text}`;
  const lines =
    width === undefined
      ? whole
      : whole
          .split('\n')
          .flatMap((line) => wrap(line, width, 0, 2))
          .join('\n');
  note(`${paint(style, mark, process.stderr)}${lines.slice(mark.length)}`);
}

/** A problem on standard error: `file:line:column: message (hint)`. */
export function noteProblem(problem: Problem): void {
  const width = widthOf(process.stderr);
  const text = formatProblem(problem);
  note(width === undefined ? text : wrap(text, width, 0, 2).join('\n'));
}

/** Prints an error: every problem with its position, the message with its code, and the hint. */
export function printError(error: unknown): void {
  if (!(error instanceof SallyportError)) {
    noteWrapped('error:', 'red', reasonOf(error));
    return;
  }
  if (error.problems.length > 0) {
    for (const problem of error.problems) noteProblem(problem);
    noteWrapped('error:', 'red', `${counted(error.problems.length, 'problem')} found [${error.code}]`);
    return;
  }
  noteWrapped('error:', 'red', `${error.message} [${error.code}]`);
  if (error.hint !== undefined) noteWrapped('hint:', 'yellow', error.hint);
}

/** Errors of what was given to the command: it could not begin. */
const misuse: ReadonlySet<Code> = new Set<Code>([
  ...(['usage', 'config_invalid', 'config_unreadable', 'secret_exposed', 'spiffe_id_invalid'] as const),
  ...(['ttl_out_of_range', 'dns_name_invalid', 'csr_invalid', 'key_unreadable', 'key_mismatch'] as const),
  ...(['certificate_unreadable', 'bundle_invalid', 'bundle_empty', 'crl_invalid', 'backup_invalid'] as const),
  ...(['ca_missing', 'ca_exists', 'passphrase_wrong', 'store_missing', 'store_foreign'] as const),
  ...(['node_unsuitable', 'internal'] as const),
]);

/** Errors of a process elsewhere that does not respond, or is not the one that was asked for. */
const unreachable: ReadonlySet<Code> = new Set<Code>([
  ...(['ca_unreachable', 'ca_overloaded', 'kubernetes_unavailable', 'redis_unavailable'] as const),
  ...(['upstream_connect', 'upstream_connect_timeout', 'upstream_unresolved', 'upstream_tls'] as const),
]);

/** The exit code of an error. One that is not ours is a fault of the program: nothing was found out. */
export function exitCodeOf(error: unknown): number {
  if (!(error instanceof SallyportError) || misuse.has(error.code)) return exitCodes.usage;
  return unreachable.has(error.code) ? exitCodes.unreachable : exitCodes.no;
}

/** Wraps the work of a command: its result is the exit code; an error is printed, and has an exit code of its own. */
export function action<A extends unknown[]>(work: (...args: A) => Promise<number>): (...args: A) => Promise<void> {
  return async function runAction(...args: A): Promise<void> {
    try {
      process.exitCode = await work(...args);
    } catch (error) {
      printError(error);
      process.exitCode = exitCodeOf(error);
    }
  };
}

/** Prints `what` on stderr once `work` has taken two seconds, on a terminal only. */
export async function withProgress<T>(what: string, work: Promise<T>): Promise<T> {
  const timer = setTimeout(() => process.stderr.isTTY && note(`${what} ...`), 2000);
  timer.unref();
  try {
    return await work;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Adds `--log-format` to a command that logs. It sets SALLYPORT_LOG_FORMAT, which the log reads in this process and in
 * its workers.
 */
export function withLogFormat(command: Command): Command {
  const option = new Option(
    '--log-format <format>',
    'of the messages on stderr (default: text on a terminal, else json)',
  );
  return command.addOption(option.choices(['text', 'json'])).on('option:log-format', (format: string) => {
    process.env['SALLYPORT_LOG_FORMAT'] = format;
  });
}

/** Collects an option that can be given more than once. */
export function more(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}
