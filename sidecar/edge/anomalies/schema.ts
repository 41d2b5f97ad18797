// `AnomalyDetection`, a kind of our own: reports unusual behaviour for a route and a caller, and never refuses.

import { z } from 'zod';
import { duration, millisecondsOf } from '../../schema/gateway-patterns.ts';

/** The kinds of anomalies. */
export const anomalyKinds = ['rate', 'requestSize', 'responseSize', 'errors', 'newCaller', 'newPath'] as const;
export type AnomalyKind = (typeof anomalyKinds)[number];

const between = (least: string, most: string) =>
  duration
    .transform(millisecondsOf)
    .refine((ms) => ms >= millisecondsOf(least) && ms <= millisecondsOf(most), `is from ${least} to ${most}`)
    .meta({ bounds: `${least} to ${most}` });

export const anomalyDetection = z
  .strictObject({
    window: between('1s', '1h').prefault('1m').describe('The requests of this time are counted together.'),
    learningPeriod: between('1s', '9000h')
      .prefault('24h')
      .describe('How long a route, and each caller on it, is watched before anything is reported.'),
    halfLife: between('1m', '9000h').prefault('168h').describe('After this time, learned values count half.'),
    threshold: z
      .number()
      .min(2)
      .max(100)
      .default(6)
      .describe(
        'How many standard deviations above the usual are unusual. A rate or a size must also be above twice the highest one so far.',
      ),
    minRequests: z
      .number()
      .int()
      .min(1)
      .max(1_000_000)
      .default(20)
      .describe('With fewer requests in a window, neither the rate nor the share of errors is reported.'),
    detect: z
      .array(z.enum(anomalyKinds, `one of ${anomalyKinds.join(', ')}`))
      .min(1)
      .default([...anomalyKinds])
      .describe('The kinds of anomalies that are reported.'),
    maxSeries: z
      .number()
      .int()
      .min(1)
      .max(100_000)
      .default(1000)
      .describe('How many pairs of route and caller are remembered.'),
    maxPaths: z
      .number()
      .int()
      .min(1)
      .max(1_000_000)
      .default(10_000)
      .describe('How many paths are remembered, of all pairs together.'),
  })
  .refine(({ window, learningPeriod }) => learningPeriod >= window, "'learningPeriod' is shorter than 'window'")
  .describe('Reports unusual behaviour for a route and a caller. It refuses nothing.');

export type AnomalyPlan = Readonly<z.output<typeof anomalyDetection>>;
