// `AnomalyDetection`, a kind of our own: reports unusual behaviour for a route and a caller, and never refuses.

import { z } from 'zod';
import { duration, millisecondsOf } from '../../schema/gateway-patterns.ts';

/** The kinds of anomalies. */
export const anomalyKinds = ['rate', 'requestSize', 'responseSize', 'errors', 'newCaller', 'newPath'] as const;
export type AnomalyKind = (typeof anomalyKinds)[number];

const between = (least: string, most: string) =>
  duration
    .transform(millisecondsOf)
    .refine((ms) => ms >= millisecondsOf(least) && ms <= millisecondsOf(most), `is from ${least} to ${most}`);

export const anomalyDetection = z
  .strictObject({
    /** The requests that are counted together. */
    window: between('1s', '1h').prefault('1m'),
    /** How long a route, and each caller on it, is watched before anything is reported. */
    learningPeriod: between('1s', '9000h').prefault('24h'),
    /** After this time, learned values count half. */
    halfLife: between('1m', '9000h').prefault('168h'),
    /** How many standard deviations are unusual. */
    threshold: z.number().min(2).max(100).default(6),
    /** With fewer requests in a window, neither the rate nor the share of errors is reported. */
    minRequests: z.number().int().min(1).max(1_000_000).default(20),
    detect: z
      .array(z.enum(anomalyKinds, `one of ${anomalyKinds.join(', ')}`))
      .min(1)
      .default([...anomalyKinds]),
    /** Pairs of route and caller that are remembered. */
    maxSeries: z.number().int().min(1).max(100_000).default(1000),
    /** Paths that are remembered, of all pairs together. */
    maxPaths: z.number().int().min(1).max(1_000_000).default(10_000),
  })
  .refine(({ window, learningPeriod }) => learningPeriod >= window, "'learningPeriod' is shorter than 'window'");

export type AnomalyPlan = Readonly<z.output<typeof anomalyDetection>>;
