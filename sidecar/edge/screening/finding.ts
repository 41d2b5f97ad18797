// The findings of detectors.

/** The detectors. */
export const detectorNames = [
  'sql',
  'xss',
  'path',
  'command',
  'template',
  'nosql',
  'ldap',
  'header',
  'ssrf',
  'code',
  'encoding',
] as const;

/** Stable: policies, logs and metrics use them. */
export type DetectorName = (typeof detectorNames)[number];

/** More names and texts than requests have; the time ends earlier in most cases. */
export const maxValues = 50_000;

/** The part of a request that holds a value. */
export type Place = 'path' | 'query' | 'header' | 'cookie' | 'body' | 'name';

/** Receives one value. `name` is that of the parameter; '' for a value without one. */
export type Take = (place: Place, name: string, text: string) => void;

/** One sign of an attack. It names a rule, never the text. */
export interface Sign {
  readonly detector: DetectorName;
  /** `sql-tautology`: stable, for exclusions and logs. */
  readonly rule: string;
  /** 5 is an attack by itself; a lower score adds up with other signs. */
  readonly score: 1 | 2 | 3 | 4 | 5;
  /** The paranoia level from which on it counts. */
  readonly level: 1 | 2 | 3 | 4;
}

/** A detector reads one decoded text, in time linear in its length. `characters`: `charactersIn` of it. */
export type Detect = (text: string, report: (sign: Sign) => void, place: Place, characters: number) => void;

const known = new Set<string>();

/** Whether a detector that has been loaded has a sign of this name. */
export function isRule(name: string): boolean {
  return known.has(name);
}

/** Signs of one detector, by rule. */
export function signsOf<Rule extends string>(
  detector: DetectorName,
  rules: Readonly<Record<Rule, readonly [score: Sign['score'], level?: Sign['level']]>>,
): Readonly<Record<Rule, Sign>> {
  for (const rule of Object.keys(rules)) known.add(`${detector}-${rule}`);
  return Object.fromEntries(
    Object.entries<readonly [Sign['score'], Sign['level']?]>(rules).map(([rule, [score, level = 1]]) => [
      rule,
      Object.freeze({ detector, rule: `${detector}-${rule}`, score, level }),
    ]),
  ) as Record<Rule, Sign>;
}
