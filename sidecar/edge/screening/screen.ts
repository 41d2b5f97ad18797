// Screens the values of a request within a budget: the signs in each, without excluded ones, and the score.

import { type CrsMatcher, compileCrs } from './crs-rules.ts';
import { formsOf } from './decode.ts';
import { encoding, inspect } from './detectors.ts';
import { type DetectorName, detectorNames, maxValues, type Place, type Sign, type Take } from './finding.ts';
import type { Exclusion, ScreeningPlan } from './schema.ts';
import { takeBody, takeCookies } from './values.ts';

/** The part of a plan that screening needs: plain data, also for the thread. */
export type Rules = Pick<
  ScreeningPlan,
  'paranoiaLevel' | 'threshold' | 'detectors' | 'exclusions' | 'rules' | 'timeLimitMs'
>;

/** A sign and its place. `name` is safe for a log. */
export interface Hit {
  readonly place: Place;
  readonly name: string;
  readonly detector: DetectorName;
  readonly rule: string;
  readonly score: number;
}

/** Why a request was not screened completely. */
export type Spent = 'time' | 'values';

/** Known facts about a body. */
export interface BodyResult {
  readonly hits: readonly Hit[];
  readonly spent: Spent | undefined;
  /** False for a body that is not text. */
  readonly isRead: boolean;
}

/** Longer values are evaluated in overlapping pieces, so that the time can be checked in between. */
const pieceLength = 16_384;
const overlap = 512;

/** Characters between two looks at the clock. */
const lookEvery = 4096;

/** Beyond this number only hits of new rules are kept: the score needs each rule once. */
const maxHits = 100;

/** Headers that browsers and proxies write by a grammar of their own, with addresses in them. */
const withAddresses: ReadonlySet<string> = new Set([
  'referer',
  'origin',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-real-ip',
  'via',
  'link',
  'from',
  'x-forwarded-client-cert',
  'access-control-request-headers',
  'host',
]);
const isNegotiation =
  /^(?:user-agent|sec-ch-[a-z-]+|accept(?:-[a-z-]+)?|content-type|if-(?:none-)?match|if-(?:un)?modified-since|if-range)$/;

/** Not screened: fields that the codec has read strictly, fields of proxies, and cookies, which are read one by one. */
const unread: ReadonlySet<string> = new Set([
  'cookie',
  'content-length',
  'transfer-encoding',
  'connection',
  'x-forwarded-client-cert',
]);

const credentials: ReadonlySet<string> = new Set(['authorization', 'proxy-authorization', 'x-api-key', 'dpop']);

/** A scheme and a token (RFC 9110 section 11.2): a secret, which is random. */
const token = /^(?:([A-Za-z][\w-]{0,30}) +)?([\w.~+/-]*=*)$/;

/** Header fields. A token after a scheme is not screened; names are, and so are other credentials. */
export function takeHeaders(names: readonly { readonly lower: string }[], values: readonly string[], take: Take): void {
  /** Lines of one name are one value (RFC 9110 section 5.2). */
  const lines = new Map<string, string>();
  const repeated = new Set<string>();
  for (const [i, { lower }] of names.entries()) {
    const value = values[i]!;
    if (lower === 'cookie') takeCookies(value, take);
    if (unread.has(lower) || (lower === 'sec-websocket-key' && /^[A-Za-z0-9+/]{22}==$/.test(value))) continue;
    if (credentials.has(lower)) {
      const [whole, scheme, secret] = token.exec(value) ?? [];
      if (whole === undefined) take('header', lower, value);
      else if (scheme?.toLowerCase() === 'basic')
        take('header', lower, Buffer.from(secret!, 'base64').toString().replace(/:.*$/s, ''));
      continue;
    }
    take('header', lower, value);
    const before = lines.get(lower);
    if (before !== undefined) repeated.add(lower);
    lines.set(lower, before === undefined ? value : `${before}, ${value}`);
  }
  for (const name of repeated) take('header', name, lines.get(name)!);
}

interface Compiled {
  readonly rules: Rules;
  readonly off: ReadonlySet<DetectorName>;
  readonly exclusions: readonly Exclusion[];
  readonly crs: readonly CrsMatcher[];
}

/** Compiled once for a plan. Exclusions end with their last day, in UTC, while the plan is in force. */
export function compileRules(rules: Rules): Compiled {
  const on = new Set(rules.detectors ?? detectorNames);
  const off = new Set(detectorNames.filter((name) => !on.has(name)));
  return { rules, off, exclusions: rules.exclusions, crs: compileCrs(rules.rules, rules.paranoiaLevel) };
}

/** The last moment of the day on which an exclusion ends, wall clock. */
export function endOf({ until }: Pick<Exclusion, 'until'>): number {
  return Date.parse(`${until}T23:59:59.999Z`);
}

/** CPU time of this thread, in milliseconds. */
function cpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

/** The screening of one request. */
export class Screening {
  readonly #compiled: Compiled;
  readonly #path: string;
  readonly #exclusions: readonly Exclusion[];
  readonly #deadline: number;
  /** CPU time when half of the limit had passed on the clock. */
  #marked: number | undefined = undefined;
  #unlooked = 0;
  readonly hits: Hit[] = [];
  spent: Spent | undefined = undefined;
  #values = 0;
  /** The current value, and the exclusions that apply to it. */
  #place: Place = 'path';
  #name = '';
  #here: readonly Exclusion[] = [];

  /** `path` is that of the request, without its query. `now`: wall clock, milliseconds. */
  constructor(compiled: Compiled, path: string, now = Date.now()) {
    this.#compiled = compiled;
    this.#path = path;
    this.#exclusions = compiled.exclusions.filter(
      (one) => now <= endOf(one) && (one.path === undefined || isUnder(path, one.path)),
    );
    this.#deadline = performance.now() + compiled.rules.timeLimitMs / 2;
  }

  /** One value. Values past the end of the budget are skipped; `spent` reports that. */
  readonly take: Take = (place, name, text) => {
    if (this.spent !== undefined) return;
    if (++this.#values > maxValues) {
      this.spent = 'values';
      return;
    }
    for (let at = 0; at === 0 || (at < text.length && this.spent === undefined); at += pieceLength - overlap) {
      this.#judge(place, name, text.length <= pieceLength ? text : text.slice(at, at + pieceLength));
      this.#unlooked += Math.min(text.length, pieceLength) + 64;
      if (this.#unlooked > lookEvery) this.#lookAtTime();
      if (text.length <= pieceLength) return;
    }
  };

  /** The request is not charged for time that the machine gave to others: only this thread's CPU time counts. */
  #lookAtTime(): void {
    this.#unlooked = 0;
    if (performance.now() <= this.#deadline) return;
    this.#marked ??= cpuMs();
    if (cpuMs() - this.#marked > this.#compiled.rules.timeLimitMs / 2) this.spent = 'time';
  }

  #judge(place: Place, name: string, text: string): void {
    this.#place = place;
    this.#name = name;
    if (this.#exclusions.length > 0) this.#here = this.#exclusions.filter((one) => isAbout(one, place, name));
    for (const sign of inspect(text, place, this.#skip)) this.#add(sign);
    for (const one of this.#compiled.crs) {
      if (!one.isAbout(place, name)) continue;
      if (one.matches(text)) this.#add(one.sign);
      this.#unlooked += text.length;
      if (this.#unlooked > lookEvery) this.#lookAtTime();
      if (this.spent !== undefined) return;
    }
  }

  /** True for a detector that skips the current value. */
  readonly #skip = (detector: DetectorName): boolean => {
    const place = this.#place;
    if (this.#compiled.off.has(detector)) return true;
    if (place === 'header' && (detector === 'ssrf' || detector === 'path')) {
      // These headers exist for addresses; a path in a URL may contain `..`.
      if (withAddresses.has(this.#name)) return true;
      if (detector === 'ssrf' && isNegotiation.test(this.#name)) return true;
    }
    // The whole path is evaluated as a path, its segments as values.
    if (place === 'path' && this.#name === 'segment' && (detector === 'path' || detector === 'ssrf')) return true;
    return this.#here.some(
      (one) => one.rule === undefined && (one.detector === undefined || one.detector === detector),
    );
  };

  #add(sign: Sign): void {
    if (sign.level > this.#compiled.rules.paranoiaLevel || this.#skip(sign.detector)) return;
    if (this.#here.some(({ rule }) => rule === sign.rule)) return;
    const { detector, rule, score } = sign;
    if (this.hits.length >= maxHits && this.hits.some((hit) => hit.rule === rule)) return;
    this.hits.push({ place: this.#place, name: shown(this.#name), detector, rule, score });
  }

  /** A body by its type. False if it is not text. */
  takeBody(body: Buffer, contentType: string | undefined): boolean {
    const unread = takeBody(body, contentType, this.take);
    if (unread === 'charset') {
      this.#place = 'body';
      this.#name = '';
      this.#here = this.#exclusions.filter((one) => isAbout(one, 'body', ''));
      this.#add(encoding.charset);
    }
    return unread !== 'binary';
  }

  /** The highest score of a detector. Each rule counts once. */
  get score(): number {
    return scoreOfHits(this.hits);
  }

  /** True from the plan's threshold on. May still become true while values follow. */
  get isAttack(): boolean {
    return this.score >= this.#compiled.rules.threshold;
  }

  /** The request's, without its query. */
  get path(): string {
    return this.#path;
  }
}

/** The highest sum of one detector's scores; each rule counts once, however often it is hit. */
export function scoreOfHits(hits: readonly Hit[]): number {
  const rules = new Map(hits.map((hit) => [hit.rule, hit]));
  const sums = new Map<DetectorName, number>();
  for (const { detector, score } of rules.values()) sums.set(detector, (sums.get(detector) ?? 0) + score);
  return Math.max(0, ...sums.values());
}

/**
 * True for a path whose first segments are those of `prefix`. Never for one that a backend may resolve to another:
 * with dots that lead up behind an escape or a parameter.
 */
export function isUnder(path: string, prefix: string): boolean {
  const whole = prefix.replace(/\/+$/, '');
  if (path !== whole && !path.startsWith(`${whole}/`)) return false;
  if (!/%|\.\.|\\/.test(path)) return true;
  return !formsOf(path).texts.some((one) => /(?:^|[/\\])\.\.(?:$|[/\\;])/.test(one));
}

function isAbout({ in: part, field }: Exclusion, place: Place, name: string): boolean {
  if (part !== undefined && part !== place) return false;
  return field === undefined || field === name;
}

/** Names are the client's: one that could be a payload is not logged. */
function shown(name: string): string {
  return /^[\w.[\]-]{0,64}$/.test(name) ? name : '*';
}

/** `query q sql-tautology, body comment xss-script-tag`: for the log, without the text. */
export function describeHits(hits: readonly Hit[]): string {
  const places = new Map<string, Set<string>>();
  for (const { place, name, rule } of hits) {
    const at = [place, place === 'path' ? '' : name].filter((one) => one !== '').join(' ');
    const known = places.get(at);
    if (known === undefined) places.set(at, new Set([rule]));
    else known.add(rule);
  }
  return [...places]
    .slice(0, 5)
    .map(([at, rules]) => `${at}: ${[...rules].slice(0, 8).join(' ')}`)
    .join('; ');
}
