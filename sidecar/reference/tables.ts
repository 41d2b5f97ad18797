// The tables of names that `sallyport explain` knows beside kinds.

import type { Table } from './entry.ts';

/** All tables. */
export const tables: readonly Table[] = Object.freeze([
  {
    name: 'environment',
    description: 'Environment variables.',
    entries: async () => (await import('./environment.ts')).environmentEntries(),
  },
  {
    name: 'errors',
    description: 'Error codes: what they mean, and what to do.',
    entries: async () => (await import('./error-words.ts')).errorEntries(),
  },
  {
    name: 'metrics',
    description: 'Metrics at /stats/prometheus of sidecars, gateways and agents, and at /metrics of the CA.',
    entries: async () => (await import('./metrics.ts')).metricEntries(),
  },
  {
    name: 'log',
    description: 'Fields of a line of the access log.',
    entries: async () => (await import('./log-fields.ts')).logEntries(),
  },
]);
