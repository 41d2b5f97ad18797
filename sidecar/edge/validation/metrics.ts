// How many messages matched their schema.

import { Counter, type Registry } from '../../../cert-agent/base/prometheus.ts';
import type { ValidationPlan } from './schema.ts';

/** `unchecked`: in mode Report, a message that cannot be checked; in mode Enforce it is refused. */
export type Outcome = 'valid' | 'invalid' | 'unchecked';
/** `response` only where the policy compares responses. */
export type Direction = 'request' | 'response';

/** Counts one message. `policy` is `namespace/name`; empty for sidecar.yaml. */
export type Count = (policy: string, direction: Direction, mode: ValidationPlan['mode'], outcome: Outcome) => void;

/** Registers the counter, and returns the function that increments it. */
export function registerValidationMetrics(registry: Registry): Count {
  const counter = new Counter({
    name: 'sallyport_validations_total',
    help: 'Messages compared with a schema, by direction, mode, outcome and policy; unchecked: one that could not be compared, in mode Report.',
    labelNames: ['direction', 'mode', 'outcome', 'policy'],
    registers: [registry],
  });
  return (policy, direction, mode, outcome) => counter.inc({ direction, mode, outcome, policy });
}
