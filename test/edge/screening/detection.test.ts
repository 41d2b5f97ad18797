// What the detectors find in corpora of attacks, and what they say about ordinary and about difficult text. Each figure
// is printed; each has a floor.

import t from 'tap';
import { inspect, scoreOf } from '../../../sidecar/edge/screening/detectors.ts';
import type { Place } from '../../../sidecar/edge/screening/finding.ts';
import { difficultTexts } from './corpora/difficult.ts';
import { knownBenign, knownMixed, knownSql, knownXss } from './corpora/known.ts';
import { mixedAttacks } from './corpora/mixed.ts';
import { ordinaryTexts } from './corpora/ordinary.ts';
import { sqlAttacks } from './corpora/sql.ts';
import { xssAttacks } from './corpora/xss.ts';

const threshold = 5;

const isBlocked = (text: string, place: Place = 'query'): boolean => scoreOf(inspect(text, place), 1) >= threshold;
const shareOf = (texts: readonly string[], test: (text: string) => boolean): number =>
  texts.filter(test).length / texts.length;
const percent = (share: number): string => `${(share * 100).toFixed(2)} %`;

t.test('attacks are detected by the detector of their kind', async (t) => {
  const corpora = { sql: sqlAttacks(), xss: xssAttacks(), ...mixedAttacks };
  for (const [name, texts] of Object.entries(corpora)) {
    const share = shareOf(
      texts,
      (text) =>
        scoreOf(
          inspect(text, 'query').filter(({ detector }) => detector === name),
          1,
        ) >= threshold,
    );
    t.comment(`${name}: ${percent(share)} of ${texts.length} detected`);
    t.ok(share >= 0.995, `${name}: ${percent(share)}`);
  }
});

t.test('attacks of public lists are detected', async (t) => {
  for (const [name, texts, floor] of [
    ['known SQL', knownSql, 0.97],
    ['known XSS', knownXss, 0.99],
    ['known others', knownMixed, 0.95],
  ] as const) {
    const share = shareOf(texts, (text) => isBlocked(text));
    t.comment(`${name}: ${percent(share)} of ${texts.length} detected`);
    t.ok(share >= floor, `${name}: ${percent(share)}`);
  }
});

t.test('benign text passes', async (t) => {
  for (const [name, texts, floor, place] of [
    ['ordinary', ordinaryTexts(), 0.999, 'query'],
    ['difficult', difficultTexts(), 0.97, 'query'],
    // Whole texts, with lines: comments of a bug tracker.
    ['known benign', knownBenign, 0.97, 'body'],
  ] as const) {
    const passed = 1 - shareOf(texts, (text) => isBlocked(text, place));
    t.comment(`${name}: ${percent(passed)} of ${texts.length} passed`);
    t.ok(passed >= floor, `${name}: ${percent(passed)}`);
    const byDetector = new Map<string, number>();
    for (const text of texts)
      for (const name of new Set(inspect(text, place).map(({ detector }) => detector)))
        if (
          scoreOf(
            inspect(text, place).filter(({ detector }) => detector === name),
            1,
          ) >= threshold
        )
          byDetector.set(name, (byDetector.get(name) ?? 0) + 1);
    for (const [detector, count] of byDetector)
      t.comment(`${name}: ${detector} blocks ${percent(count / texts.length)}`);
  }
});

t.test('an attack within other text is detected', async (t) => {
  for (const text of ['blue shoes', 'Hi Ann,\nplease see', '{"a":1', 'name=joe&x=', '....................']) {
    t.ok(isBlocked(`${text} <img src=x onerror=alert(1)> more`), text);
    t.ok(isBlocked(`${text}' union select username, password from users -- `), text);
  }
});

t.test('the time is at most linear in the length', async (t) => {
  const pieces = [
    ...[
      '/*',
      "'",
      '"\\',
      '<',
      '<a ',
      ' on',
      '$' + '{',
      '{{',
      '%25',
      '&#',
      '\\u0027',
      '(',
      ')(',
      'select ',
      'union',
      ';',
      '|',
      '`',
    ],
    ...[
      '../',
      '$(',
      '=',
      '--',
      'http://',
      'a=',
      'a',
      ' ',
      "' or ",
      '[',
      '-',
      '\n',
      '1',
      "';",
      '"on',
      '<!',
      '\\',
      '{"',
      '@',
      '*)',
    ],
    // Tags in tags, with quotes that do not end.
    ...['<a x="\0', "<a ';", '<a "x":', '<script', 'a<!', '<x on', '/* */', 'drop/*'],
  ];
  for (const piece of pieces) {
    const timeOf = (length: number): number => {
      const text = piece.repeat(Math.ceil(length / piece.length));
      let best = Number.POSITIVE_INFINITY;
      for (let turn = 0; turn < 3; turn++) {
        // CPU time: the machine may have other work.
        const started = process.cpuUsage();
        inspect(text, 'body');
        const { user, system } = process.cpuUsage(started);
        best = Math.min(best, (user + system) / 1000);
      }
      return best;
    };
    timeOf(4000);
    const [short, long] = [timeOf(8000), timeOf(64_000)];
    // Eight times the text: quadratic time would be 64 times.
    t.ok(long < short * 28 + 3, `${JSON.stringify(piece)}: ${short.toFixed(2)} and ${long.toFixed(2)} ms`);
  }
});
