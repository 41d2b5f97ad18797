// The usual behaviour on the routes of one policy: per route and caller. All memory is bounded; excess is counted
// and not learned.

import { Level, Share, weightOf } from './level.ts';
import type { AnomalyKind, AnomalyPlan } from './schema.ts';

/** The counts of one caller on one route since a worker's last report. */
export interface Seen {
  readonly route: string;
  /** Identifies the caller. */
  readonly key: string;
  /** Its name, for people. */
  readonly caller: string;
  requests: number;
  errors: number;
  /** Bytes. */
  largestRequest: number;
  largestResponse: number;
  /** Templates of paths that the app knows: its status was below 400. */
  readonly paths: string[];
}

/** Something unusual. */
export interface Anomaly {
  readonly kind: AnomalyKind;
  readonly route: string;
  readonly caller: string;
  /** The value of the window: requests, bytes, errors. Absent for a new caller, route or path. */
  readonly seen?: number;
  /** The highest usual value. */
  readonly usual?: number;
  /** The new path. */
  readonly path?: string;
}

/** The size of a model. */
export interface ModelState {
  readonly learningUntil: string;
  readonly series: number;
  readonly paths: number;
  /** Requests that were not learned, because the memory is full. */
  readonly unlearned: number;
  /** How often a path was not remembered, for the same reason. */
  readonly unlearnedPaths: number;
}

/** Sizes below this are never unusual, bytes. */
const smallBytes = 4096;
/** The same kind is not reported again for the same series within so many windows. */
const quietWindows = 10;
/** But so many new paths are: each names another one. */
const pathsInQuiet = 5;
/** Series and paths that were not seen for so many half-lives are forgotten. */
const halfLives = 4;

interface Series {
  readonly route: string;
  readonly caller: string;
  /** The window in which it was first seen. */
  readonly first: number;
  /** The current window. */
  window: number;
  requests: number;
  errors: number;
  largestRequest: number;
  largestResponse: number;
  readonly rate: Level;
  readonly requestSize: Level;
  readonly responseSize: Level;
  readonly share: Share;
  isSettled: boolean;
  /** Known paths, with the window in which each was last seen. */
  readonly paths: Map<string, number>;
  /** Until which window a kind is quiet. */
  readonly quiet: Map<AnomalyKind, number>;
  /** New paths that were reported since `newPath` became quiet. */
  toldPaths: number;
}

/** One policy's model. Times are milliseconds of a clock that does not jump: a jump back would stop its windows. */
export class Model {
  readonly #report: (anomaly: Anomaly) => void;
  #plan: AnomalyPlan;
  #weight: number;
  readonly #series = new Map<string, Series>();
  /** Series whose window has requests. */
  readonly #open = new Set<Series>();
  /** When each route was first seen, by window. */
  readonly #routes = new Map<string, number>();
  #started: number;
  #paths = 0;
  #unlearned = 0;
  #unlearnedPaths = 0;
  #swept = 0;

  constructor(plan: AnomalyPlan, now: number, report: (anomaly: Anomaly) => void) {
    this.#plan = plan;
    this.#weight = weightOf(plan.window, plan.halfLife);
    this.#started = now;
    this.#report = report;
  }

  /** A changed plan keeps the learned values, unless its window differs. */
  update(plan: AnomalyPlan, now: number): void {
    if (plan.window !== this.#plan.window) {
      this.#started = now;
      this.#series.clear();
      this.#open.clear();
      this.#routes.clear();
      this.#paths = 0;
    }
    this.#plan = plan;
    this.#weight = weightOf(plan.window, plan.halfLife);
  }

  /** `shift` leads from the model's clock to the time of day. */
  state(shift: number): ModelState {
    return {
      learningUntil: new Date(shift + this.#started + this.#plan.learningPeriod).toISOString(),
      series: this.#series.size,
      paths: this.#paths,
      unlearned: this.#unlearned,
      unlearnedPaths: this.#unlearnedPaths,
    };
  }

  add(seen: Seen, now: number): void {
    const window = Math.floor(now / this.#plan.window);
    const series = this.#seriesOf(seen, window);
    if (series === undefined) {
      this.#unlearned += seen.requests;
      return;
    }
    if (window > series.window) this.#close(series, window);
    this.#open.add(series);
    series.requests += seen.requests;
    series.errors += seen.errors;
    series.largestRequest = Math.max(series.largestRequest, seen.largestRequest);
    series.largestResponse = Math.max(series.largestResponse, seen.largestResponse);
    for (const path of seen.paths) this.#notePath(series, path, window);
  }

  /** Ends windows that are over, and forgets old series and paths. */
  tick(now: number): void {
    const window = Math.floor(now / this.#plan.window);
    for (const series of this.#open) if (window > series.window) this.#close(series, window);
    if (now - this.#swept < this.#forgetMs / 100) return;
    this.#swept = now;
    this.#sweep(window);
  }

  get #forgetMs(): number {
    return halfLives * this.#plan.halfLife;
  }

  #seriesOf({ route, key, caller }: Seen, window: number): Series | undefined {
    const of = `${route} ${key}`;
    const known = this.#series.get(of);
    if (known !== undefined) return known;
    if (this.#series.size >= this.#plan.maxSeries) return undefined;
    const made: Series = {
      ...{ route, caller, first: window, window, requests: 0, errors: 0, largestRequest: 0, largestResponse: 0 },
      ...{ rate: new Level(), requestSize: new Level(), responseSize: new Level(), share: new Share() },
      ...{ isSettled: false, paths: new Map(), quiet: new Map(), toldPaths: 0 },
    };
    this.#series.set(of, made);
    const since = this.#routes.get(route);
    if (since === undefined) this.#routes.set(route, window);
    else if (this.#isLearned(since, window)) this.#tell(made, { kind: 'newCaller', route, caller }, window);
    return made;
  }

  #isLearned(since: number, window: number): boolean {
    return (window - since) * this.#plan.window >= this.#plan.learningPeriod;
  }

  #notePath(series: Series, path: string, window: number): void {
    const isKnown = series.paths.has(path);
    if (!isKnown) {
      // An app may answer all paths: at most half of what is left is for one series.
      const left = this.#plan.maxPaths - this.#paths;
      if (left <= 0 || series.paths.size > left) {
        this.#unlearnedPaths++;
        return;
      }
      this.#paths++;
      const { route, caller } = series;
      if (this.#isLearned(series.first, window)) this.#tell(series, { kind: 'newPath', route, caller, path }, window);
    }
    series.paths.set(path, window);
  }

  /** Ends the series' window: compares it, then learns it. `window` is the current one. */
  #close(series: Series, window: number): void {
    const weight = this.#weight;
    const { threshold, minRequests } = this.#plan;
    const isLearned = this.#isLearned(series.first, series.window);
    if (isLearned && !series.isSettled) {
      series.isSettled = true;
      for (const level of [series.rate, series.requestSize, series.responseSize]) level.settle();
    }
    const measure = (
      kind: 'rate' | 'requestSize' | 'responseSize',
      level: Level,
      seen: number,
      least: number,
    ): void => {
      const usual = level.limit(threshold);
      const isUnusual = isLearned && seen >= least && seen > usual;
      if (isUnusual) this.#tellOf(series, kind, seen, usual);
      level.learn(seen, weight, isUnusual, threshold);
    };
    measure('rate', series.rate, series.requests, minRequests);
    measure('requestSize', series.requestSize, series.largestRequest, smallBytes);
    measure('responseSize', series.responseSize, series.largestResponse, smallBytes);
    const usual = series.share.limit(series.requests, threshold);
    if (isLearned && series.requests >= minRequests && series.errors > usual)
      this.#tellOf(series, 'errors', series.errors, usual);
    series.share.learn(series.errors, series.requests, weight, threshold);
    // Sizes are those of windows with requests; a rate is also that of windows without.
    series.rate.skip(window - series.window - 1, weight);
    Object.assign(series, { window, requests: 0, errors: 0, largestRequest: 0, largestResponse: 0 });
    this.#open.delete(series);
  }

  #tellOf(series: Series, kind: AnomalyKind, seen: number, usual: number): void {
    const { route, caller } = series;
    this.#tell(series, { kind, route, caller, seen, usual: Math.ceil(usual) }, series.window);
  }

  /** Reports, unless the series has reported the same kind lately. */
  #tell(series: Series, anomaly: Anomaly, window: number): void {
    const { kind } = anomaly;
    if (!this.#plan.detect.includes(kind)) return;
    if (window < (series.quiet.get(kind) ?? 0)) {
      if (kind !== 'newPath' || series.toldPaths >= pathsInQuiet) return;
      series.toldPaths++;
    } else {
      series.quiet.set(kind, window + quietWindows);
      if (kind === 'newPath') series.toldPaths = 1;
    }
    this.#report(anomaly);
  }

  #sweep(window: number): void {
    const oldest = window - Math.floor(this.#forgetMs / this.#plan.window);
    for (const [of, series] of this.#series) {
      for (const [path, seen] of series.paths) if (seen < oldest && series.paths.delete(path)) this.#paths--;
      if (series.window >= oldest || series.requests > 0) continue;
      this.#paths -= series.paths.size;
      this.#series.delete(of);
    }
    const routes = new Set([...this.#series.values()].map(({ route }) => route));
    for (const route of this.#routes.keys()) if (!routes.has(route)) this.#routes.delete(route);
  }
}
