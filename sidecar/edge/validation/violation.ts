// Violations: what is wrong with a message, and where. A violation names places and rules, never a value.

import type { Code } from '../../../cert-agent/base/errors.ts';
import { findPlaces } from './budget.ts';
import { escapePart, type RawViolation, type Validate } from './support.ts';

/** The part of a message. */
export type Part = 'body' | 'path' | 'query' | 'header' | 'cookie';

/** One violation. It contains no value of the message. */
export interface Violation {
  readonly in: Part;
  /** The parameter; absent for a body. */
  readonly name?: string;
  /** The place in the value (RFC 6901); '' is the whole value. */
  readonly pointer: string;
  /** The keyword of the schema, or a code of ours. */
  readonly code: string;
  /** A sentence about the schema. */
  readonly detail: string;
  /** The property of the schema that is not there. */
  readonly missing?: string;
}

/** The outcome for one message: valid without a fault and without violations. */
export interface Verdict {
  /** Why the message cannot be read, or is refused as a whole: it decides the status. */
  readonly fault?: Code;
  readonly violations: readonly Violation[];
  /** Fields of the refusal. */
  readonly fields?: readonly (readonly [string, string])[];
}

/** Whether the message may pass. */
export function isValid({ fault, violations }: Verdict): boolean {
  return fault === undefined && violations.length === 0;
}

/** No more places than this are named. */
export const maxViolations = 32;

/** The most violations that are examined: several may concern one place. */
const maxRaw = 500;

/** A pointer ends at the last part that fits: clients choose the names of properties. */
const maxPointer = 256;

/** The generated functions for one schema. */
export interface Validator {
  readonly verdict: Validate;
  /** Finds all places; loaded at the first refusal. */
  readonly places: () => Validate;
}

/**
 * Validates a value.
 * @throws SallyportError `validation_too_costly`.
 */
export function violationsOf(
  value: unknown,
  { verdict, places }: Validator,
  at: Pick<Violation, 'in' | 'name'>,
): Violation[] {
  if (verdict(value)) return [];
  // A copy: the next call replaces it.
  let raw = verdict.errors ?? [];
  try {
    const all = places();
    if (!findPlaces(() => all(value))) raw = (all.errors ?? raw).slice(0, maxRaw);
  } catch {
    // Only the first place is reported then.
  }
  const found: Violation[] = [];
  for (const one of raw) {
    if (one.keyword === 'unevaluatedProperties' && raw.some((other) => isCause(other, one))) continue;
    if (found.length === maxViolations) break;
    const { missingProperty } = one.params;
    const violation = {
      ...{ ...at, pointer: cut(pointerOf(one)), code: one.keyword, detail: detailOf(one) },
      ...(one.keyword === 'required' && typeof missingProperty === 'string' ? { missing: missingProperty } : {}),
    };
    if (!found.some(({ pointer, code }) => pointer === violation.pointer && code === violation.code))
      found.push(violation);
  }
  return found;
}

/**
 * An object that one part of its schema refuses has no evaluated properties: all of them would be named, although
 * only `other` is wrong.
 */
function isCause(other: RawViolation, { instancePath }: RawViolation): boolean {
  if (other.instancePath === instancePath) return other.keyword !== 'unevaluatedProperties';
  return other.instancePath.startsWith(`${instancePath}/`);
}

/** Allowed values are named up to this length. */
const maxAllowed = 200;

/** Keywords with a limit, in plain words. */
const limits: Readonly<Record<string, readonly [how: string, one: string, many: string]>> = {
  minLength: ['at least', 'character', 'characters'],
  maxLength: ['at most', 'character', 'characters'],
  minItems: ['at least', 'item', 'items'],
  maxItems: ['at most', 'item', 'items'],
  minProperties: ['at least', 'property', 'properties'],
  maxProperties: ['at most', 'property', 'properties'],
};

/** The values are the schema's, never the client's. */
function detailOf({ keyword, message = 'is invalid', params }: RawViolation): string {
  const { limit, allowedValues } = params;
  const known = Object.hasOwn(limits, keyword) ? limits[keyword] : undefined;
  if (known !== undefined && typeof limit === 'number')
    return `must have ${known[0]} ${limit} ${limit === 1 ? known[1] : known[2]}`;
  if (keyword !== 'enum' || !Array.isArray(allowedValues)) return message;
  const text = allowedValues.map((one) => JSON.stringify(one)).join(', ');
  return text.length > maxAllowed ? message : `must be one of ${text}`;
}

/** Parameters in which ajv names a property beside its place. */
const named = ['additionalProperty', 'unevaluatedProperty', 'propertyName'] as const;

function pointerOf({ instancePath, params }: RawViolation): string {
  const name = named.map((key) => params[key]).find((one) => typeof one === 'string');
  return name === undefined ? instancePath : `${instancePath}/${escapePart(name as string)}`;
}

function cut(pointer: string): string {
  return pointer.length <= maxPointer ? pointer : pointer.slice(0, Math.max(0, pointer.lastIndexOf('/', maxPointer)));
}

/**
 * `body /items/x/price type`, `body required sku`, for the log. Names that are not in the schema come from the client and
 * are left out.
 */
export function describe({ in: part, name, pointer, code, missing }: Violation, known: ReadonlySet<string>): string {
  const shown = pointer
    .split('/')
    .map((one) => (one === '' || known.has(one.replaceAll('~1', '/').replaceAll('~0', '~')) ? one : '*'))
    .join('/');
  return [part, name, shown, code, missing].filter((one) => one !== undefined && one !== '').join(' ');
}
