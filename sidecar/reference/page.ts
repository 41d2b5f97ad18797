// REFERENCE.md: everything that `sallyport explain` says, as one page. `npm run reference` writes it.

import type { Entry } from './entry.ts';
import { allFields, type Field, fieldOf } from './field.ts';
import { type Kind, kinds } from './kinds.ts';
import { appliesText, yamlOf } from './print.ts';
import { tables } from './tables.ts';

const head = `# Reference

Every setting, field of a document, environment variable, error code, metric and log field. \`npm run reference\`
writes this page from the schemas and tables that the program itself uses. \`sallyport explain\` prints the same, and
\`sallyport schema\` prints the JSON Schema of a kind.

Paths leave out lists and maps: \`inbound.port\` is the port of each entry of \`inbound\`.
`;

/** The page. */
export async function referencePage(): Promise<string> {
  const ofKinds = await Promise.all(kinds.map(sectionOf));
  const ofTables = await Promise.all(
    tables.map(async ({ name, description, entries }) =>
      [`## ${name}`, '', description, '', ...tableOf(await entries()), ''].join('\n'),
    ),
  );
  return [head, ...ofKinds, ...ofTables].join('\n').trimEnd().concat('\n');
}

async function sectionOf(kind: Kind): Promise<string> {
  const top = fieldOf(await kind.schema(), kind.name);
  const isFile = kind.of === 'file';
  const fields = allFields(top).filter(({ path }) => isFile || !isCommon(path.slice(kind.name.length + 1)));
  const columns = ['field', 'type', 'default', 'bounds', ...(isFile ? ['applies'] : []), 'what it is, and an example'];
  return [
    `## ${kind.name}${isFile ? '.yaml' : ''}`,
    '',
    `${isFile ? '' : `${kind.of}. `}${kind.description}`,
    '',
    row(columns),
    row(columns.map(() => '---')).replaceAll(' ', ''),
    ...fields.map((one) => row(cellsOf(one, kind.name, isFile))),
    '',
  ].join('\n');
}

/** Fields that all documents have. */
const isCommon = (path: string): boolean => /^(?:apiVersion|kind|status)$|^metadata\b/.test(path);

function cellsOf(field: Field, kind: string, isFile: boolean): string[] {
  const { path, type, unit, bounds, applies, description, example, required, refused } = field;
  const said = [
    ...(description === undefined ? [] : [description]),
    ...(example === undefined || refused ? [] : [code(`${field.name}: ${yamlOf(example)}`)]),
  ];
  return [
    code(path.slice(kind.length + 1)),
    `${type}${unit === undefined ? '' : `, ${unit}`}${required ? ', required' : ''}`,
    field.default === undefined ? '' : code(JSON.stringify(field.default)),
    bounds.join('; '),
    ...(isFile ? [applies === undefined ? '' : appliesText[applies]] : []),
    said.join(' '),
  ];
}

function tableOf(entries: readonly Entry[]): string[] {
  const labels = [...new Set(entries.flatMap(({ facts }) => facts.map(([label]) => label)))];
  const columns = ['name', 'what it is', ...labels];
  return [
    row(columns),
    row(columns.map(() => '---')).replaceAll(' ', ''),
    ...entries.map(({ name, description, facts }) =>
      row([code(name), description, ...labels.map((label) => facts.find(([one]) => one === label)?.[1] ?? '')]),
    ),
  ];
}

const code = (text: string): string => `\`${text}\``;

const row = (cells: readonly string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll('|', '\\|').replaceAll('\n', ' ')).join(' | ')} |`;
