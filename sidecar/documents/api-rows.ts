// What an API server refuses by the CRDs of a project, as a table: a row is a rule for every value at a path.

import type { Problem } from '../../cert-agent/base/errors.ts';
import { nameOf, type YamlDocument } from '../../cert-agent/base/yaml.ts';

type Path = readonly (string | number)[];
/** A problem, at a path below the value that a row is about. */
export type Found = readonly [path: Path, message: string];

/** One rule: for these kinds, of every value at `path` (`[]` means each item of a list). */
export interface Row {
  readonly kinds: readonly string[];
  readonly path: readonly string[];
  readonly find: (value: unknown, version: string) => readonly Found[];
}

/** A rule is given a value that has passed its kind's schema, so that `T` is what that schema returns. */
export function row<T>(
  kinds: string,
  path: string,
  rule: (value: T, version: string) => string | false | undefined | readonly Found[],
): Row {
  return {
    kinds: kinds.split(' '),
    path: path.split(/\.|(?=\[\])/),
    find(value, version) {
      const found = rule(value as T, version);
      if (typeof found === 'string') return [[[], found]];
      return found || [];
    },
  };
}

/** Everything that `rows` refuse in `spec`, the part of `document` that has passed its kind's schema. */
export function problemsByRows(
  rows: readonly Row[],
  {
    document,
    kind,
    apiVersion,
    spec,
  }: { readonly document: YamlDocument; readonly kind: string; readonly apiVersion: string; readonly spec: unknown },
): Problem[] {
  const version = apiVersion.slice(apiVersion.indexOf('/') + 1);
  return rows
    .filter(({ kinds }) => kinds.includes(kind))
    .flatMap(({ path, find }) =>
      valuesAt(spec, path, ['spec']).flatMap(([place, value]) =>
        find(value, version).map(([below, message]) => {
          const whole = [...place, ...below];
          return document.problemAt(whole, `${nameOf(whole)}: ${message}`);
        }),
      ),
    );
}

/** Each value at a path, and its place. */
function valuesAt(value: unknown, [step, ...rest]: readonly string[], place: Path): [Path, unknown][] {
  if (value === undefined || value === null) return [];
  if (step === undefined || step === '') return [[place, value]];
  if (step === '[]') {
    const list = Array.isArray(value) ? (value as unknown[]) : [];
    return list.flatMap((item, index) => valuesAt(item, rest, [...place, index]));
  }
  return typeof value === 'object' && Object.hasOwn(value, step)
    ? valuesAt((value as Readonly<Record<string, unknown>>)[step], rest, [...place, step])
    : [];
}
