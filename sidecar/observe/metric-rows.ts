// Metrics as rows of a table: a name, a type, a help text, labels, and how the values are read at scrape. The data path
// adds to plain fields; prom-client's own counters hash the label set at every `inc`.

import { labelsText, valueText } from '../../cert-agent/base/metrics-text.ts';
import { Counter, Gauge, type Metric, type Registry } from '../../cert-agent/base/prometheus.ts';
import { buckets, type Distribution } from './peer-stats.ts';

/** A new object for each sample: prom-client keeps it. */
export type Labels = Record<string, string>;

/** A value and its labels. */
export type Sample<T = number> = readonly [labels: Labels, value: T];

/** A counter or gauge of `Source`. */
export interface ValueRow<Source> {
  readonly type: 'counter' | 'gauge';
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  /** How the values of several workers merge; by default they are added up. */
  readonly merge?: 'first';
  /** Called at each scrape. */
  read(source: Source): Iterable<Sample>;
}

/** A histogram of `Source`, with the buckets of `Distribution`. */
export interface HistogramRow<Source> {
  readonly type: 'histogram';
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  /** Called at each scrape. */
  read(source: Source): Iterable<Sample<Distribution>>;
}

/** One metric. Names and types are part of what users rely on. */
export type MetricRow<Source> = ValueRow<Source> | HistogramRow<Source>;

/** Lets `registry` read each row from `source` at scrape. */
export function registerRows<Source>(registry: Registry, rows: readonly MetricRow<Source>[], source: Source): void {
  for (const row of rows) {
    const metric = row.type === 'histogram' ? histogram(row, source) : valueMetric(row, source);
    registry.registerMetric(Object.assign(metric, { lines: () => linesOf(row, source) }));
  }
}

/** The row in Prometheus' text format, line by line: the whole is never in memory. */
function* linesOf<Source>(row: MetricRow<Source>, source: Source): Generator<string> {
  const { name, help, type } = row;
  yield `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}`;
  yield `# TYPE ${name} ${type}`;
  if (row.type !== 'histogram') {
    let isEmpty = true;
    for (const [labels, value] of row.read(source)) {
      isEmpty = false;
      yield `${name}${labelsText(labels)} ${valueText(value)}`;
    }
    // A metric without labels always has a value.
    if (isEmpty && row.labels.length === 0) yield `${name} 0`;
    return;
  }
  for (const [labels, { counts, sum }] of row.read(source)) {
    const plain = labelsText(labels);
    const open = plain === '' ? '{' : `${plain.slice(0, -1)},`;
    let total = 0;
    for (const [i, count] of counts.entries()) {
      total += count;
      yield `${name}_bucket${open}le="${buckets[i] ?? '+Inf'}"} ${total}`;
    }
    yield `${name}_sum${plain} ${valueText(sum)}`;
    yield `${name}_count${plain} ${total}`;
  }
}

function valueMetric<Source>(row: ValueRow<Source>, source: Source): Metric<string> {
  const { name, help, type, labels: labelNames, merge } = row;
  const options = { name, help, labelNames, registers: [], ...(merge === undefined ? {} : { aggregator: merge }) };
  if (type === 'gauge')
    return new Gauge({
      ...options,
      collect() {
        this.reset();
        for (const [labels, value] of row.read(source)) this.set(labels, value);
      },
    });
  return new Counter({
    ...options,
    collect() {
      this.reset();
      for (const [labels, value] of row.read(source)) this.inc(labels, value);
    },
  });
}

/** A histogram that reads its counts from plain fields; prom-client's own takes only one observation at a time. */
function histogram<Source>(
  { name, help, labels: labelNames, read }: HistogramRow<Source>,
  source: Source,
): Metric<string> {
  const values = (): object[] => [...read(source)].flatMap(([labels, one]) => histogramValues(name, labels, one));
  const metric = {
    name,
    help,
    labelNames,
    type: 'histogram',
    aggregator: 'sum',
    reset() {},
    get: async () => ({ name, help, type: 'histogram', aggregator: 'sum', values: values() }),
  };
  return metric as unknown as Metric<string>;
}

function histogramValues(name: string, labels: Labels, { counts, sum }: Distribution): object[] {
  let total = 0;
  const values: object[] = [];
  for (const [i, count] of counts.entries()) {
    total += count;
    values.push({ metricName: `${name}_bucket`, labels: { ...labels, le: buckets[i] ?? '+Inf' }, value: total });
  }
  values.push({ metricName: `${name}_sum`, labels, value: sum }, { metricName: `${name}_count`, labels, value: total });
  return values;
}
