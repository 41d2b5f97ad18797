// The routes of one port as a table: the host gives a list of tables, the path a short list of candidates. The cost of
// a look-up does not grow with the number of routes. The order is the standard's (HTTPRoute `matches`): exact path,
// then the longest prefix, then a method, then more headers, then more query parameters, then the older route, then its
// name, then the place in it. Regular expressions, whose place the standard leaves open, come between exact paths and
// prefixes, as in Envoy. Before all of these come rules that answer 500 because their paths are unknown.

import type { EdgeRule, Exchange, Found } from '../exchange/exchange.ts';
import { pathWithoutQuery } from '../exchange/facts.ts';
import { hostOf, maxHost, patternsFor } from './hosts.ts';
import { announcedBy, type Matcher, matchesRest, requestBehind } from './match.ts';
import { compileRegex } from './regex.ts';

/** One match of one rule, under the host names that its route shares with a listener. */
export interface TableEntry extends Matcher {
  readonly hosts: readonly string[];
  readonly path: { readonly type: 'Exact' | 'PathPrefix' | 'RegularExpression'; readonly value: string };
  /** The last of the standard's tie-breakers: routes by age, rules and matches in their order. */
  readonly order: number;
  readonly rule: EdgeRule;
  /**
   * For a broken rule, whose match covers more than was meant, so that none of its requests goes elsewhere. If its
   * `path` is unreadable it comes before all others of its hosts: their paths may be more specific than its widened
   * path, yet less specific than the path that was meant. If only the `rest` is unreadable, it comes before others at
   * its path.
   */
  readonly widened?: 'path' | 'rest' | undefined;
}

/** The routes of a listener. */
export interface ListenerEntries {
  readonly name: string;
  readonly hostname: string | undefined;
  readonly entries: readonly TableEntry[];
}

/** An entry with its result, made once. */
interface Row extends TableEntry {
  readonly found: Found;
}

/** The look-up result for a host. */
interface Place {
  /** If no rule matches. */
  readonly missed: Found;
  /** The more precise host names first. */
  readonly tables: readonly HostTable[];
}

interface HostTable {
  /** Broken rules with unknown paths. */
  readonly first: readonly { readonly test: (path: string) => boolean; readonly entry: Row }[];
  readonly exact: ReadonlyMap<string, readonly Row[]>;
  readonly patterns: readonly { readonly test: (path: string) => boolean; readonly entries: readonly Row[] }[];
  readonly prefixes: ReadonlyMap<string, readonly Row[]>;
  readonly longestPrefix: number;
}

/** The compiled routes of one port. Immutable apart from its cache of hosts. */
export interface RouteTable {
  /** The listener with the request's host name, and the rule; either may be missing. Never throws. */
  find(exchange: Exchange): Found;
  /** The listener alone, by a host name from SNI. */
  listenerFor(host: string | undefined): string | undefined;
}

/** The most cached hosts; further ones are looked up each time. */
const maxPlaces = 1024;

/** Compiles the routes of a port's listeners. @throws Error for an invalid regular expression. */
export function compileTable(listeners: readonly ListenerEntries[]): RouteTable {
  const byHost = new Map(
    listeners.map(({ name, hostname = '*', entries }) => [
      hostname,
      { missed: foundOf(name, undefined), tables: hostTables(name, entries) },
    ]),
  );
  const places = new Map<string, Place>();

  const placeOf = (host: string): Place => {
    const patterns = patternsFor(host);
    const listener = patterns.map((one) => byHost.get(one)).find((one) => one !== undefined);
    if (listener === undefined) return nowhere;
    return { missed: listener.missed, tables: patterns.flatMap((one) => listener.tables.get(one) ?? []) };
  };

  return {
    find(exchange) {
      const { authority } = exchange;
      let place = places.get(authority);
      if (place === undefined) {
        place = placeOf(hostOf(authority));
        // A copy: a slice would keep the whole head in memory; and anything longer than a name is not cached.
        if (places.size < maxPlaces && authority.length <= maxHost)
          places.set(Buffer.from(authority, 'latin1').toString('latin1'), place);
      }
      const path = pathWithoutQuery(exchange.path);
      const row = findRow(place, path, exchange, exchange.method);
      // A preflight belongs to the request that it announces, unless a rule matches OPTIONS (Fetch standard, section
      // 3.3.2).
      const asked = row?.method === undefined ? requestBehind(exchange) : undefined;
      const meant = asked === undefined ? row?.found : (preflighted(place, path, exchange, asked, row) ?? row?.found);
      return meant ?? place.missed;
    },
    // Without a host name only a listener for all hosts can be meant.
    listenerFor: (host) => (host ? placeOf(hostOf(host)).missed : byHost.get('*')?.missed)?.listener,
  };
}

const nowhere: Place = Object.freeze({ missed: foundOf(undefined, undefined), tables: [] });

function foundOf(listener: string | undefined, rule: EdgeRule | undefined): Found {
  return Object.freeze({ listener, rule });
}

function hostTables(listener: string, entries: readonly TableEntry[]): ReadonlyMap<string, HostTable> {
  const byHost = Map.groupBy(
    entries.flatMap((entry) => {
      const row: Row = { ...entry, found: foundOf(listener, entry.rule) };
      return entry.hosts.map((host) => ({ host, row }));
    }),
    ({ host }) => host,
  );
  return new Map([...byHost].map(([host, list]) => [host, hostTable(list.map(({ row }) => row))]));
}

function hostTable(entries: readonly Row[]): HostTable {
  const sorted = entries.filter(({ widened }) => widened !== 'path').toSorted(compareEntries);
  const of = (type: TableEntry['path']['type']): Map<string, Row[]> =>
    Map.groupBy(
      sorted.filter(({ path }) => path.type === type),
      ({ path }) => (type === 'PathPrefix' ? withoutEndingSlash(path.value) : path.value),
    );
  const prefixes = of('PathPrefix');
  return {
    first: entries.filter(({ widened }) => widened === 'path').map((entry) => ({ test: testOf(entry.path), entry })),
    exact: of('Exact'),
    patterns: [...of('RegularExpression')]
      .toSorted(([a], [b]) => b.length - a.length)
      .map(([pattern, list]) => ({ test: compileRegex(pattern), entries: list })),
    prefixes,
    longestPrefix: Math.max(0, ...[...prefixes.keys()].map(({ length }) => length)),
  };
}

function testOf({ type, value }: TableEntry['path']): (path: string) => boolean {
  if (type === 'RegularExpression') return compileRegex(value);
  if (type === 'Exact') return (path) => path === value;
  const prefix = withoutEndingSlash(value);
  return (path) => path === prefix || path.startsWith(`${prefix}/`);
}

function compareEntries(a: TableEntry, b: TableEntry): number {
  return (
    Number(b.widened === 'rest') - Number(a.widened === 'rest') ||
    (b.grpcMethod?.length ?? 0) - (a.grpcMethod?.length ?? 0) ||
    Number(b.method !== undefined) - Number(a.method !== undefined) ||
    b.headers.length - a.headers.length ||
    b.queryParams.length - a.queryParams.length ||
    a.order - b.order
  );
}

/** `/abc/` and `/abc` are the same prefix: prefixes are of whole segments. */
export function withoutEndingSlash(path: string): string {
  return path.endsWith('/') ? path.slice(0, -1) : path;
}

/**
 * The rule that a preflight is for. It names the headers of its request but not their values, so it may be for several
 * rules: if their responses differ it is for none, or one rule would admit what goes to another. A rule with CORS
 * responds here. Without CORS the app would respond: that is left to the rule that matches OPTIONS, `own`, which may be
 * closed to the client, and only if no rule matches the announced request.
 */
function preflighted(
  place: Place,
  path: string,
  exchange: Exchange,
  asked: string,
  own: Row | undefined,
): Found | undefined {
  const possible: Possible = { announced: announcedBy(exchange), rows: [] };
  const sure = findRow(place, path, exchange, asked, possible);
  const rows = sure === undefined ? possible.rows : [...possible.rows, sure];
  const [first, ...others] = rows.map((row) => (row.rule.preflight === undefined ? (own ?? row) : row));
  if (first === undefined || others.length === 0) return first?.found;
  const answer = answerOf(first, exchange);
  return others.every((one) => answerOf(one, exchange) === answer) ? first.found : place.missed;
}

/** A rule's response to a preflight; if its app responds, the rule's name. */
function answerOf({ rule }: Row, exchange: Exchange): string {
  return rule.preflight === undefined ? rule.name : rule.preflight(exchange);
}

/** The other candidates that a preflight's look-up has passed. */
interface Possible {
  readonly announced: ReadonlySet<string>;
  readonly rows: Row[];
}

function findRow(
  { tables }: Place,
  path: string,
  exchange: Exchange,
  method: string,
  possible?: Possible,
): Row | undefined {
  for (const table of tables) {
    const row = findIn(table, path, exchange, method, possible);
    if (row !== undefined) return row;
  }
  return undefined;
}

function findIn(
  table: HostTable,
  path: string,
  exchange: Exchange,
  method: string,
  possible: Possible | undefined,
): Row | undefined {
  if (table.first.length > 0) {
    const entries = table.first.filter(({ test }) => test(path)).map(({ entry }) => entry);
    const covered = firstOf(entries, exchange, method, possible);
    if (covered !== undefined) return covered;
  }
  const exact = firstOf(table.exact.get(path), exchange, method, possible);
  if (exact !== undefined) return exact;
  for (const { test, entries } of table.patterns) {
    const found = test(path) ? firstOf(entries, exchange, method, possible) : undefined;
    if (found !== undefined) return found;
  }
  // Start from the longest configured prefix: a path of ten thousand segments must not cost ten thousand look-ups.
  let end = path.length;
  while (end > table.longestPrefix) {
    end = path.lastIndexOf('/', Math.min(end - 1, table.longestPrefix));
    if (end === -1) return undefined;
  }
  while (end >= 0) {
    const found = firstOf(table.prefixes.get(path.slice(0, end)), exchange, method, possible);
    if (found !== undefined) return found;
    if (end === 0) return undefined;
    end = path.lastIndexOf('/', end - 1);
  }
  return undefined;
}

function firstOf(
  entries: readonly Row[] | undefined,
  exchange: Exchange,
  method: string,
  possible: Possible | undefined,
): Row | undefined {
  if (entries === undefined) return undefined;
  for (const entry of entries) {
    if (matchesRest(entry, exchange, method)) return entry;
    if (possible !== undefined && matchesRest(entry, exchange, method, possible.announced)) possible.rows.push(entry);
  }
  return undefined;
}
