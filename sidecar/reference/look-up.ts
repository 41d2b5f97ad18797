// What `sallyport explain` was asked for: a kind and a path in it, a table, or one name of a table.

import { nearestTo } from '../../cert-agent/base/did-you-mean.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { instead } from '../documents/gateway-api/instead.ts';
import type { Entry, Table } from './entry.ts';
import { allFields, type Field, fieldOf } from './field.ts';
import type { JsonSchema } from './json-schema.ts';
import { type Kind, kinds } from './kinds.ts';
import { tables } from './tables.ts';

/** What was found. */
export type Found =
  | { readonly field: Field; readonly kind: Kind }
  | { readonly table: Table; readonly entries: readonly Entry[] }
  | { readonly entry: Entry };

/**
 * A kind in any case, also as `sidecar.yaml`.
 * @throws SallyportError `usage` with the nearest name.
 */
export function findKind(name: string): Kind {
  const found = kindNamed(name);
  if (found !== undefined) return found;
  throw unknown(
    `there is no kind '${name}'`,
    nearestTo(
      name,
      kinds.map((one) => one.name),
    ),
    'sallyport explain',
  );
}

function kindNamed(name: string): Kind | undefined {
  const wanted = name.toLowerCase();
  // The file `gateway` and the document Gateway differ by case alone.
  return kinds.find((one) => one.name === name) ?? kinds.find((one) => one.name.toLowerCase() === wanted);
}

/** The schema of a kind as a whole document, for editors and validators. */
export async function schemaOf(name: string): Promise<JsonSchema> {
  const kind = findKind(name.replace(/\.yaml$/, ''));
  const { $schema, ...rest } = await kind.schema();
  return { $schema, title: kind.name, description: kind.description, ...rest };
}

/**
 * `sidecar.limits.headBytes`, `errors`, `errors.no_route`, `no_route`. Indices and names of map entries may be in a path
 * or not.
 * @throws SallyportError `usage` with the nearest name.
 */
export async function lookUp(asked: string): Promise<Found> {
  const [head = '', ...rest] = asked
    .replace(/^(sidecar|gateway)\.yaml\b/, '$1')
    .replace(/\[\w*\]/g, '')
    .split('.');
  const kind = kindNamed(head);
  if (kind !== undefined) {
    const top = { ...fieldOf(await kind.schema(), kind.name), description: kind.description };
    return { kind, field: descend(top, rest, top) };
  }
  const table = tables.find((one) => one.name === head.toLowerCase());
  if (table !== undefined) {
    const entries = await table.entries();
    if (rest.length === 0) return { table, entries };
    return { entry: entryNamed(rest.join('.'), entries) };
  }
  const all = await Promise.all(tables.map((one) => one.entries()));
  const entry = all.flat().find(({ name }) => name === asked);
  if (entry !== undefined) return { entry };
  refuseUnread(head);
  const names = [...kinds, ...tables, ...all.flat()].map(({ name }) => name);
  throw unknown(`there is no kind, table or name '${asked}'`, nearestTo(asked, names), 'sallyport explain');
}

/** @throws SallyportError `usage` for a kind that exists and is not read, with what has its place here. */
function refuseUnread(name: string): void {
  const kind = [...instead.keys()].find((one) => one.toLowerCase() === name.toLowerCase());
  if (kind === undefined) return;
  throw new SallyportError('usage', `kind ${kind} is not served here`, { hint: instead.get(kind)! });
}

function entryNamed(name: string, entries: readonly Entry[]): Entry {
  const found = entries.find((one) => one.name === name);
  if (found !== undefined) return found;
  throw unknown(
    `there is no '${name}'`,
    nearestTo(
      name,
      entries.map((one) => one.name),
    ),
    undefined,
  );
}

/** A step that is no field may be the name of an entry of a map: then the next one is a field. */
function descend(field: Field, steps: readonly string[], top: Field): Field {
  const [step, ...rest] = steps;
  if (step === undefined) return field;
  const next = field.fields.find(({ name }) => name === step);
  if (next !== undefined) return descend(next, rest, top);
  const after = rest[0];
  if (field.isMap && (after === undefined || field.fields.some(({ name }) => name === after)))
    return descend(field, rest, top);
  throw unknown(
    `${field.path} has no field '${step}'`,
    nearestField(field, step, top),
    `sallyport explain ${field.path}`,
  );
}

/** The nearest field here, or the nearest of the kind. */
function nearestField(field: Field, step: string, top: Field): string | undefined {
  const here = nearestTo(
    step,
    field.fields.map(({ name }) => name),
  );
  if (here !== undefined) return `${field.path}.${here}`;
  const anywhere = allFields(top);
  const name = nearestTo(
    step,
    anywhere.map((one) => one.name),
  );
  return anywhere.find((one) => one.name === name)?.path;
}

function unknown(message: string, nearest: string | undefined, list: string | undefined): SallyportError {
  const hint = nearest === undefined ? list && `'${list}' lists what there is` : `did you mean '${nearest}'?`;
  return new SallyportError('usage', message, hint === undefined ? {} : { hint });
}
