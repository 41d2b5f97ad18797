// A registry in Prometheus' text format, written in slices: with thousands of series the whole takes longer than other
// requests may wait.

import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Registry } from 'prom-client';

/** A metric that writes its own lines, one at a time, each without its end. */
export interface WritesLines {
  lines(): Iterable<string>;
}

/** Milliseconds of a slice. */
const sliceMs = 3;
/** Lines between two looks at the clock. */
const linesPerLook = 32;

/**
 * All metrics, UTF-8. Counts that change meanwhile are each consistent in itself only, as in any scrape. `now` is for
 * tests.
 */
export async function metricsText(registry: Registry, now: () => number = () => performance.now()): Promise<Buffer> {
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
  for (const metric of registry.getMetricsAsArray()) {
    if (now() - since > sliceMs) await rest();
    for (const line of linesOf(metric) ?? [await registry.getSingleMetricAsString(nameOf(metric))]) {
      text += `${line}\n`;
      if (++count % linesPerLook === 0 && now() - since > sliceMs) await rest();
    }
    text += '\n';
  }
  parts.push(Buffer.from(text));
  return Buffer.concat(parts);
}

function linesOf(metric: object): Iterable<string> | undefined {
  return 'lines' in metric ? (metric as WritesLines).lines() : undefined;
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
