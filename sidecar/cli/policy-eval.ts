// `policy eval` and `policy explain`: one request, or one per line.

import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Answer, Question } from '../analyze/question.ts';
import type { ScopeFlags } from '../analyze/world.ts';
import { exitCodes, notePassedOver, paint, print, printJson, printText } from './terminal.ts';

/** The request as flags: text that is checked when it becomes a Question. */
export interface RequestFlags extends ScopeFlags {
  readonly from?: string;
  readonly to?: string;
  readonly header?: readonly string[];
  readonly jwt?: string;
  readonly claims?: string;
  readonly sourceIp?: string;
  readonly remoteIp?: string;
  readonly destinationIp?: string;
  readonly sni?: string;
  readonly host?: string;
  readonly tcp?: boolean;
  readonly json?: boolean;
  readonly batch?: string;
}

/** `policy eval`. */
export async function evaluate(
  method: string | undefined,
  path: string | undefined,
  flags: RequestFlags,
): Promise<number> {
  if (flags.batch !== undefined) return evaluateBatch(flags.batch, flags);
  const { verdict } = await ask(method, path, flags);
  if (flags.json === true) printJson(verdict);
  else {
    const by =
      verdict.policy === null ? (verdict.reason ?? 'no ALLOW rule matches') : `${verdict.policy} rule ${verdict.rule}`;
    printText(`${verdict.allowed ? paint('green', 'allowed') : paint('red', `denied (${verdict.status})`)}: ${by}`);
  }
  return verdict.allowed ? exitCodes.ok : exitCodes.no;
}

/** `policy explain`. */
export async function explainOne(
  method: string | undefined,
  path: string | undefined,
  flags: RequestFlags,
): Promise<number> {
  const answer = await ask(method, path, flags);
  const [{ explainAnswer }, { printExplanation }] = await Promise.all([
    import('../analyze/question.ts'),
    import('./explanation.ts'),
  ]);
  const { verdict } = answer;
  const explanation = explainAnswer(answer);
  if (explanation === undefined) {
    if (flags.json === true) printJson({ allowed: false, because: verdict.reason, code: verdict.code });
    else printText(`${paint('red', 'denied')} before any policy: ${verdict.reason} [${verdict.code}]`);
  } else if (flags.json === true) printJson({ ...explanation, verdict });
  else printExplanation(explanation);
  return verdict.allowed ? exitCodes.ok : exitCodes.no;
}

async function ask(method: string | undefined, path: string | undefined, flags: RequestFlags): Promise<Answer> {
  if (flags.tcp !== true && (method === undefined || path === undefined))
    throw new SallyportError('usage', 'METHOD and PATH are missing', {
      hint: 'sallyport policy explain ... GET /orders, or --tcp',
    });
  const [{ Evaluator }, { readWorld }] = await Promise.all([
    import('../analyze/question.ts'),
    import('../analyze/world.ts'),
  ]);
  const to = flags.to === undefined ? undefined : readTarget(flags.to);
  const world = await readWorld({
    ...flags,
    ...(to === undefined || flags.label !== undefined ? {} : { label: [`app=${to.app}`] }),
    ...(to?.namespace === undefined || flags.namespace !== undefined ? {} : { namespace: to.namespace }),
  });
  notePassedOver(world.passedOver);
  const evaluator = new Evaluator(world);
  try {
    return await evaluator.answer({
      from: flags.from ?? null,
      protocol: flags.tcp === true ? 'tcp' : 'http',
      ...(flags.tcp === true ? {} : { method, path }),
      host: flags.host ?? to?.app ?? '',
      ...(to === undefined ? {} : { port: to.port }),
      headers: readHeaders(flags.header ?? []),
      ...(flags.jwt === undefined ? {} : { jwt: flags.jwt }),
      ...(flags.claims === undefined ? {} : { claims: readClaims(flags.claims) }),
      ...pick(flags, ['sourceIp', 'remoteIp', 'destinationIp', 'sni']),
    });
  } catch (error) {
    // An invalid request on the command line is misuse.
    if (error instanceof SallyportError && error.code === 'body_invalid')
      throw new SallyportError('usage', error.message);
    throw error;
  }
}

function pick<K extends keyof RequestFlags>(flags: RequestFlags, keys: readonly K[]): Partial<Pick<RequestFlags, K>> {
  return Object.fromEntries(keys.filter((key) => flags[key] !== undefined).map((key) => [key, flags[key]])) as Partial<
    Pick<RequestFlags, K>
  >;
}

function readTarget(text: string): { namespace: string | undefined; app: string; port: number } {
  const [, namespace, app, port] = /^(?:([^/:]+)\/)?([^/:]+):(\d{1,5})$/.exec(text) ?? [];
  if (app === undefined) throw new SallyportError('usage', `--to takes [namespace/]app:port, not '${text}'`);
  return { namespace, app, port: Number(port) };
}

function readHeaders(list: readonly string[]): Record<string, string[]> {
  const headers: Record<string, string[]> = {};
  for (const one of list) {
    const at = one.indexOf(':');
    if (at < 1) throw new SallyportError('usage', `-H takes 'name: value', not '${one}'`);
    const name = one.slice(0, at).trim().toLowerCase();
    if (name === 'host') throw new SallyportError('usage', 'give the host of a request with --host');
    headers[name] = [...(headers[name] ?? []), one.slice(at + 1).trim()];
  }
  return headers;
}

function readClaims(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SallyportError('usage', `--claims is not JSON: ${reasonOf(error)}`);
  }
}

/**
 * One output line per input line, in order. A line that cannot be evaluated returns its error, and the rest continues.
 */
async function evaluateBatch(file: string, flags: RequestFlags): Promise<number> {
  const [{ Evaluator }, { readWorld }] = await Promise.all([
    import('../analyze/question.ts'),
    import('../analyze/world.ts'),
  ]);
  const world = await readWorld(flags);
  notePassedOver(world.passedOver);
  const evaluator = new Evaluator(world);
  const lines = createInterface({
    input: file === '-' ? process.stdin : await open(file),
    crlfDelay: Number.POSITIVE_INFINITY,
  });
  let pending = '';
  let [evaluated, failed] = [0, 0];
  for await (const line of lines) {
    if (line.trim() === '') continue;
    const answer = await answerLine(evaluator, line);
    if ('error' in answer) failed++;
    else evaluated++;
    pending += `${JSON.stringify(answer)}\n`;
    if (pending.length < 65_536) continue;
    print(pending);
    pending = '';
  }
  if (pending !== '') print(pending);
  if (failed + evaluated === 0) throw new SallyportError('usage', `no request in ${file}: nothing was evaluated`);
  // A line that could not be evaluated contains its own error.
  return failed === 0 ? exitCodes.ok : exitCodes.usage;
}

async function open(file: string): Promise<NodeJS.ReadableStream> {
  const stream = createReadStream(file);
  await new Promise<void>((resolve, reject) => {
    stream.once('open', () => resolve());
    stream.once('error', (error) =>
      reject(new SallyportError('config_unreadable', `${file} cannot be read: ${reasonOf(error)}`)),
    );
  });
  return stream;
}

async function answerLine(
  evaluator: { answer(input: unknown): Promise<Answer> },
  line: string,
): Promise<{ id: unknown } & Record<string, unknown>> {
  let id: unknown = null;
  try {
    const question = JSON.parse(line) as Question;
    id = question?.id ?? null;
    const { verdict } = await evaluator.answer(question);
    return { id, ...verdict };
  } catch (error) {
    return { id, error: reasonOf(error) };
  }
}
