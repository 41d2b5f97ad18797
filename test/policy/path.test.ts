// One spelling of a path. Null in a vector is a refusal.

import { readFileSync } from 'node:fs';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { normalizePath, type PathNormalization } from '../../sidecar/policy/path.ts';

const vectors = JSON.parse(readFileSync(new URL('../vectors/policy/paths.json', import.meta.url), 'utf8')) as [
  string,
  string | null,
][];

for (const [path, normal] of vectors) {
  t.test(JSON.stringify(path), async (t) => {
    if (normal === null)
      t.throws(() => normalizePath(path), { code: 'path_invalid', message: /^the path cannot be normalised: / });
    else {
      t.equal(normalizePath(path), normal);
      t.equal(normalizePath(normal), normal, 'the path is normal afterwards');
    }
  });
}

const settings = JSON.parse(
  readFileSync(new URL('../vectors/policy/normalizations.json', import.meta.url), 'utf8'),
) as Record<PathNormalization, [string, string | null][]>;

for (const [how, list] of Object.entries(settings)) {
  t.test(how, async (t) => {
    for (const [path, normal] of list) {
      const run = (): string => normalizePath(path, how as PathNormalization);
      if (normal === null) t.throws(run, { code: 'path_invalid' }, path);
      else t.equal(run(), normal, path);
    }
  });
}

t.test('any result has no dots to resolve and no second meaning, or the path is refused', async (t) => {
  const alphabet = [
    '/',
    '.',
    '..',
    '%',
    '2',
    'e',
    'E',
    '%2e',
    '%2f',
    '%5c',
    '\\',
    'a',
    '?',
    '#',
    '%00',
    '%25',
    '~',
    ' ',
    '\u00ff',
    '//',
  ];
  const end = performance.now() + 500;
  let state = Date.now() % 100_000;
  const seed = state;
  const next = (bound: number): number => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return Math.floor((state / 2_147_483_648) * bound);
  };
  let tried = 0;
  for (; performance.now() < end; tried++) {
    const path = `/${Array.from({ length: next(10) }, () => alphabet[next(alphabet.length)]).join('')}`;
    try {
      const normal = normalizePath(path);
      const bare = normal.split('?')[0]!;
      if (/\/\.\.?(?:\/|$)|\\|%(?:00|2[dDeE]|3\d|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])/.test(bare))
        t.fail(`seed ${seed}: ${path} gives ${normal}`);
      if (normalizePath(normal) !== normal) t.fail(`seed ${seed}: ${path} gives ${normal}, which is not normal`);
    } catch (error) {
      if (!(error instanceof SallyportError)) t.fail(`seed ${seed}: ${path} throws ${String(error)}`);
    }
  }
  t.ok(tried > 1000);
});
