// The budget of a message: the author of a schema and the sender of a message must not be able to stop the event loop,
// alone or together.

import { SallyportError } from '../../../cert-agent/base/errors.ts';

/** Steps for one message, of about 2 ns (measured): 50 ms. */
export const stepsForMessage = 25_000_000;

/** Steps to find all places of a message that is refused, for all its parts together. */
const stepsForPlaces = stepsForMessage;

/** Calls of functions for one message. Recursive schemas with alternatives double them at each level. */
const callsForMessage = 200_000;

// No limits outside of messages: schemas are validated too, and the operator wrote them.
let steps = Number.POSITIVE_INFINITY;
let calls = Number.POSITIVE_INFINITY;
let stepsOfPlaces = Number.POSITIVE_INFINITY;

/** Runs the validation of a message within its budget. It is synchronous, so there is one at a time. */
export function inBudget<T>(validate: () => T): T {
  steps = stepsForMessage;
  calls = callsForMessage;
  stepsOfPlaces = stepsForPlaces;
  try {
    return validate();
  } finally {
    steps = calls = Number.POSITIVE_INFINITY;
  }
}

/** The steps that the current message has taken, beside those to find places. */
export function stepsTaken(): number {
  return stepsForMessage - steps;
}

/** Runs a search for places, within a budget of its own. @throws SallyportError `validation_too_costly`. */
export function findPlaces<T>(find: () => T): T {
  const before = { steps, calls };
  steps = stepsOfPlaces;
  try {
    return find();
  } finally {
    stepsOfPlaces = steps;
    ({ steps, calls } = before);
  }
}

/** One call. @throws SallyportError `validation_too_costly`. */
export function countCall(): void {
  if (--calls < 0) throw tooCostly();
}

/** Steps of work for a message. @throws SallyportError `validation_too_costly`. */
export function spend(count: number): void {
  steps -= count;
  if (steps < 0) throw tooCostly();
}

function tooCostly(): SallyportError {
  return new SallyportError('validation_too_costly', 'the message takes too many steps to validate');
}
