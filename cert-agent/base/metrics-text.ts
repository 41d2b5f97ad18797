// A registry in Prometheus' text format, written in slices: with thousands of series the whole takes longer than other
// requests may wait.

import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Registry } from 'prom-client';

/** Lines without their ends, one at a time. Undefined where there is work between two lines: a slice may end there. */
export type Lines = Iterable<string | undefined>;

/** A metric that writes its own lines. */
export interface WritesLines {
  lines(): Lines;
}

/** Milliseconds of a slice. */
const sliceMs = 3;
/** Lines between two looks at the clock. */
const linesPerLook = 32;

/**
 * All metrics, UTF-8. Counts that change meanwhile are each consistent in itself only, as in any scrape. `now` is for
 * tests.
 */
export function metricsText(registry: Registry, now?: () => number): Promise<Buffer> {
  return writeInSlices(metricsOf(registry), now);
}

/** prom-client's own are read when it is their turn. */
function* metricsOf(registry: Registry): Generator<Lines | Promise<string>> {
  for (const metric of registry.getMetricsAsArray())
    yield 'lines' in metric ? (metric as WritesLines).lines() : registry.getSingleMetricAsString(nameOf(metric));
}

/** The lines of metrics as one text, with an empty line after each metric. Others have their turn in between. */
export async function writeInSlices(
  metrics: Iterable<Lines | Promise<string>>,
  now: () => number = () => performance.now(),
): Promise<Buffer> {
  const parts: Buffer[] = [];
  let text = '';
  let count = 0;
  let since = now();
  const rest = async (): Promise<void> => {
    parts.push(Buffer.from(text));
    text = '';
    await nextTurn();
    since = now();
  };
  for (const metric of metrics) {
    if (now() - since > sliceMs) await rest();
    for (const line of metric instanceof Promise ? [await metric] : metric) {
      if (line !== undefined) text += `${line}\n`;
      if (++count % linesPerLook === 0 && now() - since > sliceMs) await rest();
    }
    text += '\n';
  }
  parts.push(Buffer.from(text));
  return Buffer.concat(parts);
}

/** Milliseconds for which a long text is kept. */
const keptMs = 1000;
/** Bytes. A shorter text is made anew each time, and is exact. */
const leastKept = 262_144;

/** `make` for many askers: it runs once at a time, all who ask meanwhile get its Buffer, and a long one is kept. */
export function shareText(make: () => Promise<Buffer>): () => Promise<Buffer> {
  let current: Promise<Buffer> | undefined;
  return function sharedText() {
    if (current !== undefined) return current;
    const made = make();
    current = made;
    const forget = (): void => {
      current = undefined;
    };
    made.then((text) => (text.length < leastKept ? forget() : setTimeout(forget, keptMs).unref()), forget);
    return made;
  };
}

function nameOf(metric: object): string {
  return (metric as { readonly name: string }).name;
}

/** The labels of a series in braces, or nothing without any. `more` is written by the caller, and needs no escaping. */
export function labelsText(labels: Readonly<Record<string, string | number>>, more = ''): string {
  let text = '';
  for (const name of Object.keys(labels)) text += `${text === '' ? '' : ','}${name}="${escaped(String(labels[name]))}"`;
  if (more !== '') text += text === '' ? more : `,${more}`;
  return text === '' ? '' : `{${text}}`;
}

/** A value as Prometheus reads it. */
export function valueText(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return '+Inf';
  if (value === Number.NEGATIVE_INFINITY) return '-Inf';
  return Number.isNaN(value) ? 'NaN' : String(value);
}

const special = /[\\\n"]/g;
const escapes: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '"': '\\"' };

function escaped(value: string): string {
  return value.replace(special, (one) => escapes[one]!);
}
