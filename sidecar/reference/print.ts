// Fields and entries as text for a terminal of a width, which may be narrow.

import { wrap } from '../../cert-agent/base/wrap.ts';
import type { Entry } from './entry.ts';
import type { Field } from './field.ts';

/** `name: value` lines, with the values in one column. */
function facts(pairs: readonly (readonly [label: string, value: string])[], width: number): string[] {
  const column = Math.max(0, ...pairs.map(([label]) => label.length)) + 2;
  return pairs.flatMap(([label, value]) => wrap(`${label.padEnd(column)}${value}`, width, 2, 2 + column));
}

/** The facts of a field, in the order in which they are printed. */
export function factsOf(field: Field): (readonly [label: string, value: string])[] {
  const { type, unit, required, bounds, applies, example, refused, name } = field;
  if (refused) return [['type', type]];
  return [
    ['type', type],
    ...(unit === undefined ? [] : [['unit', unit] as const]),
    ...(required ? [['required', 'yes'] as const] : []),
    ...(field.default === undefined ? [] : [['default', JSON.stringify(field.default)] as const]),
    ...(bounds.length === 0 ? [] : [['bounds', bounds.join('; ')] as const]),
    ...(applies === undefined ? [] : [['applies', appliesText[applies]] as const]),
    ...(example === undefined ? [] : [['example', `${name}: ${yamlOf(example)}`] as const]),
  ];
}

/** A field for programs: what is not known is left out. */
export function fieldAsJson({ name, path, fields, refused, required, bounds, ...rest }: Field): object {
  const known = Object.entries(rest).filter(([key, value]) => key !== 'isMap' && value !== undefined);
  return {
    ...{ name, path },
    ...Object.fromEntries(known),
    ...(required ? { required } : {}),
    ...(refused ? { refused } : {}),
    ...(bounds.length === 0 ? {} : { bounds }),
    ...(fields.length === 0 ? {} : { fields: fields.map(fieldAsJson) }),
  };
}

/** When a change of a setting applies. */
export const appliesText = { reload: 'on reload', restart: 'after a restart' } as const;

/** A value on one line of YAML: JSON is YAML, and plain words need no quotes. */
export function yamlOf(value: unknown): string {
  if (
    typeof value === 'string' &&
    /^[A-Za-z/][\w./:*-]*$/.test(value) &&
    !/^(?:true|false|null|yes|no|on|off)$/i.test(value)
  )
    return value;
  if (Array.isArray(value)) return `[${value.map(yamlOf).join(', ')}]`;
  if (typeof value === 'object' && value !== null)
    return Object.keys(value).length === 0
      ? '{}'
      : `{ ${Object.entries(value)
          .map(([key, one]) => `${yamlOf(key)}: ${yamlOf(one)}`)
          .join(', ')} }`;
  return JSON.stringify(value);
}

/** One field with everything that is known of it, and the list of the fields in it. */
export function printField(field: Field, width: number): string {
  const { path, description, fields } = field;
  const isTop = !path.includes('.');
  const inner = fields.flatMap((one) => [
    '',
    ...wrap(`${one.name} <${one.type}>${one.required ? ' (required)' : ''}`, width, 2, 4),
    ...(one.description === undefined ? [] : wrap(one.description, width, 4)),
  ]);
  return [
    path,
    ...(description === undefined ? [] : ['', ...wrap(description, width, 2)]),
    ...(isTop ? [] : ['', ...facts(factsOf(field), width)]),
    ...(inner.length === 0 ? [] : ['', 'fields:', ...inner.slice(1)]),
  ].join('\n');
}

/** Names and types of all fields below. */
export function printTree(field: Field, width: number): string {
  const lines = ({ fields }: Field, depth: number): string[] =>
    fields.flatMap((one) => [
      ...wrap(`${one.name} <${one.type}>`, width, depth * 2, depth * 2 + 4),
      ...lines(one, depth + 1),
    ]);
  return [field.path, ...lines(field, 1)].join('\n');
}

/** Names, each with what it is about. */
export function printList(entries: readonly Pick<Entry, 'name' | 'description'>[], width: number): string {
  const column = Math.max(...entries.map(({ name }) => name.length)) + 2;
  // In a narrow terminal the descriptions go below.
  if (column > width / 2)
    return entries.flatMap(({ name, description }) => [`  ${name}`, ...wrap(description, width, 4)]).join('\n');
  return entries
    .flatMap(({ name, description }) => wrap(`${name.padEnd(column)}${description}`, width, 2, 2 + column))
    .join('\n');
}

/** One entry of a table. */
export function printEntry({ name, description, facts: known }: Entry, width: number): string {
  return [name, '', ...wrap(description, width, 2), ...(known.length === 0 ? [] : ['', ...facts(known, width)])].join(
    '\n',
  );
}
