// Which DNS names certificates may have, and which names belong to a family of certificates. Names are text with spaces
// between them.

import type { DatabaseSync } from 'node:sqlite';
import { patternsFor } from '../dns/name.ts';
import type { Disallowed, DnsPattern } from './store.ts';

export const dnsSchema = `
  CREATE TABLE dns_patterns (pattern TEXT PRIMARY KEY, since INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE family_names (family TEXT PRIMARY KEY, names TEXT NOT NULL) STRICT, WITHOUT ROWID;
`;

/** As stored: separated by spaces; empty without names. */
export function formatNames(names: readonly string[] = []): string {
  return names.join(' ');
}

/** As an optional field: absent without one. */
export function namesField(text: unknown): { readonly names?: readonly string[] } {
  return typeof text === 'string' && text !== '' ? { names: text.split(' ') } : {};
}

/** Synchronous, in the transaction of its caller. */
export interface DnsTable {
  /** True if it was not on record. */
  allow(pattern: string, now: number): boolean;
  /** Names in valid certificates stay until these end. */
  disallow(pattern: string, now: number): Disallowed;
  /** In order. */
  list(): DnsPattern[];
  /** Whether the name itself, or its wildcard, is on record. */
  isAllowed(name: string): boolean;
  /** The names of a family's token. */
  namesOf(family: string): readonly string[];
  /** Replaces those of the family. An empty list changes nothing. */
  setNames(family: string, names: readonly string[]): void;
}

/** The tables exist: see `dnsSchema`. */
export function createDnsTable(db: DatabaseSync): DnsTable {
  const insert = db.prepare('INSERT OR IGNORE INTO dns_patterns VALUES (?, ?)');
  const remove = db.prepare('DELETE FROM dns_patterns WHERE pattern = ?');
  const all = db.prepare('SELECT * FROM dns_patterns ORDER BY pattern');
  const one = db.prepare('SELECT 1 FROM dns_patterns WHERE pattern IN (?, ?)');
  const ofFamily = db.prepare('SELECT names FROM family_names WHERE family = ?');
  const addFamily = db.prepare('INSERT OR REPLACE INTO family_names VALUES (?, ?)');
  const named = db.prepare(
    `SELECT names, not_after FROM certificates
     WHERE not_after > ? AND names <> '' AND revoked_at IS NULL AND evidence <> 'self'`,
  );

  const isAllowed = (name: string): boolean => one.get(...patternsFor(name)) !== undefined;

  /** Valid certificates with a name that is not allowed. */
  function left(now: number): Pick<Disallowed, 'certificates' | 'until'> {
    const verdicts = new Map<string, boolean>();
    const isGood = (name: string): boolean => {
      const known = verdicts.get(name) ?? isAllowed(name);
      verdicts.set(name, known);
      return known;
    };
    let [certificates, until] = [0, 0];
    for (const row of named.iterate(now)) {
      if (String(row['names']).split(' ').every(isGood)) continue;
      certificates += 1;
      until = Math.max(until, Number(row['not_after']));
    }
    return certificates === 0 ? { certificates } : { certificates, until };
  }

  return {
    allow: (pattern, now) => Number(insert.run(pattern, now).changes) > 0,
    disallow: (pattern, now) => ({ changed: Number(remove.run(pattern).changes) > 0, ...left(now) }),
    list: () => all.all().map((row) => ({ pattern: String(row['pattern']), since: Number(row['since']) })),
    isAllowed,
    namesOf: (family) => namesField(ofFamily.get(family)?.['names']).names ?? [],
    setNames: (family, names) => {
      if (names.length > 0) addFamily.run(family, formatNames(names));
    },
  };
}
