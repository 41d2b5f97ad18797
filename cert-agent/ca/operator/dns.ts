// Which DNS names join tokens may be for: the operator's list, and the names of a new token.

import type { Clock } from '../../base/clock.ts';
import { didYouMean } from '../../base/did-you-mean.ts';
import { SallyportError } from '../../base/errors.ts';
import { parseDnsPattern, patternsFor } from '../dns/name.ts';
import type { Disallowed, DnsPattern, DnsStore } from '../store/store.ts';

/** The answer to `allow`: allowing a pattern twice is no error. */
export interface DnsAllowed {
  readonly pattern: string;
  /** False if it was allowed before. */
  readonly changed: boolean;
}

/** The answer to `disallow`, with what becomes of names that are in use. */
export interface DnsDisallowed extends DnsAllowed, Disallowed {
  /** Patterns that still allow it, or a part of it. */
  readonly still: readonly string[];
}

/** The operator's actions on DNS names. Each change is in the ledger. */
export interface DnsOperator {
  /** A name, or `*.` and a name. @throws SallyportError `dns_name_invalid`. */
  allow(pattern: string): Promise<DnsAllowed>;
  /** Valid certificates keep their names; the next renewal leaves them out. @throws SallyportError `not_found`. */
  disallow(pattern: string): Promise<DnsDisallowed>;
  /** In order; times are milliseconds since 1970. */
  list(): Promise<readonly DnsPattern[]>;
}

/** `onChange` is called once a change is on disk, and not for what changes nothing. */
export function createDnsOperator(
  store: DnsStore,
  clock: Clock,
  onChange: (done: DnsAllowed & { allowed: boolean }) => void,
): DnsOperator {
  return {
    async allow(text) {
      const pattern = parseDnsPattern(text);
      const changed = await store.allowDns(pattern, clock.now(), 'operator');
      if (changed) onChange({ pattern, changed, allowed: true });
      return { pattern, changed };
    },
    async disallow(text) {
      const pattern = parseDnsPattern(text);
      const done = await store.disallowDns(pattern, clock.now(), 'operator');
      const left = (await store.listDns()).map((one) => one.pattern);
      if (!done.changed) {
        const nearest = didYouMean(pattern, left);
        throw new SallyportError('not_found', `${pattern} is not on the list of allowed DNS names`, {
          hint: nearest === undefined ? listHint : `${nearest} ${listHint}`,
        });
      }
      onChange({ pattern, changed: true, allowed: false });
      const still = left.filter((one) => patternsFor(pattern).includes(one) || patternsFor(one).includes(pattern));
      return { pattern, ...done, still };
    },
    list: () => store.listDns(),
  };
}

const listHint = 'sallyport ca dns ls lists them';

/** The refusal of a token whose `names` are not allowed. */
export function notAllowedError(names: readonly string[]): SallyportError {
  const [first = ''] = names;
  return new SallyportError('dns_name_not_allowed', `${names.join(', ')}: not allowed in certificates of this CA`, {
    hint: `sallyport ca dns allow ${first} allows it; ${listHint}`,
  });
}
