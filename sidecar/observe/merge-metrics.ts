// Merges the metrics of several workers, as text: a line is a series and its value, and the same code writes the lines of
// each worker. Thousands of series take longer than other requests may wait, so nothing here works on all at once.

import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import { type Lines, metricsText, valueText, writeInSlices } from '../../cert-agent/base/metrics-text.ts';
import type { Registry } from '../../cert-agent/base/prometheus.ts';

const pack = promisify(gzip);
const unpack = promisify(gunzip);

/** The metrics of one worker for the first: their text in gzip, in base64. It is a hundredth of its size then. */
export async function packMetrics(registry: Registry): Promise<string> {
  return (await pack(await metricsText(registry), { level: 1 })).toString('base64');
}

/** The text of all workers together. `registry` says how each metric merges, as prom-client's `aggregator`. */
export async function sumMetrics(
  all: readonly { readonly metrics: string }[],
  registry: Registry,
  now?: () => number,
): Promise<Buffer> {
  const texts = await Promise.all(all.map(({ metrics }) => unpack(Buffer.from(metrics, 'base64'))));
  const families = new Map<string, Family>();
  const howOf = (name: string): string =>
    (registry.getSingleMetric(name) as { readonly aggregator?: string } | undefined)?.aggregator ?? 'sum';
  return writeInSlices([readAll(texts, families, howOf), writeAll(families)], now);
}

/** One metric of all workers. */
interface Family {
  /** HELP and TYPE. */
  readonly head: string[];
  readonly how: string;
  /** By name and labels, in the order of the first worker that has them. */
  readonly series: Map<string, { value: number; count: number }>;
}

/** Writes nothing itself. */
function* readAll(texts: readonly Buffer[], families: Map<string, Family>, howOf: (name: string) => string): Lines {
  for (const text of texts) {
    let family: Family | undefined;
    for (const line of linesIn(text)) {
      yield undefined;
      if (line === '') continue;
      if (line.startsWith('# ')) family = beginFamily(line, families, howOf);
      else if (family !== undefined) add(family, line);
    }
  }
}

function beginFamily(line: string, families: Map<string, Family>, howOf: (name: string) => string): Family {
  const [, , name = ''] = line.split(' ', 3);
  let family = families.get(name);
  if (family === undefined) {
    family = { head: [], how: howOf(name), series: new Map() };
    families.set(name, family);
  }
  if (!family.head.includes(line)) family.head.push(line);
  return family;
}

function add({ how, series }: Family, line: string): void {
  const at = line.lastIndexOf(' ');
  const name = line.slice(0, at);
  const text = line.slice(at + 1);
  const value = text === '+Inf' ? Number.POSITIVE_INFINITY : text === '-Inf' ? Number.NEGATIVE_INFINITY : Number(text);
  const known = series.get(name);
  if (known === undefined) {
    series.set(name, { value, count: 1 });
    return;
  }
  known.count++;
  if (how === 'min') known.value = Math.min(known.value, value);
  else if (how === 'max') known.value = Math.max(known.value, value);
  else if (how !== 'first') known.value += value;
}

function* writeAll(families: ReadonlyMap<string, Family>): Lines {
  let isFirst = true;
  for (const { head, how, series } of families.values()) {
    if (how === 'omit') continue;
    if (!isFirst) yield '';
    isFirst = false;
    yield* head;
    for (const [name, { value, count }] of series)
      yield `${name} ${valueText(how === 'average' ? value / count : value)}`;
  }
}

/** Bytes that become a string at once. */
const pieceBytes = 65_536;

/** The whole as one string would take longer than a slice. */
function* linesIn(text: Buffer): Generator<string> {
  for (let from = 0; from < text.length; ) {
    const end = text.indexOf('\n', from + pieceBytes);
    const to = end < 0 ? text.length : end + 1;
    yield* text.toString('utf8', from, to).split('\n');
    from = to;
  }
}
