// Istio's matching rules, compiled: each list of values becomes one closure. The string rule: `*` is 'present and not
// empty'; else a leading star is a suffix match, else a trailing star a prefix match, else the value must be equal. The
// leading star wins, so `*abc*` is a suffix match on `abc*` with a literal star, surprising as that is.

/** A compiled list of values: whether one of them matches. Case-sensitive unless its maker says otherwise. */
export type Match = (value: string) => boolean;

/** Any of `values` by the string rule. */
export function compileStrings(values: readonly string[], ignoreCase = false): Match {
  const wanted = ignoreCase ? values.map((one) => one.toLowerCase()) : values;
  const exact = new Set(wanted.filter((one) => !isPattern(one)));
  const match = matchAny(exact, wanted.filter(isPattern).map(compileOne));
  return ignoreCase ? (value) => match(value.toLowerCase()) : match;
}

/** Principals are matched as SPIFFE URIs; the values come without the scheme. */
export function compilePrincipals(values: readonly string[], trustDomains: readonly string[]): Match {
  const all = values.flatMap((one) => expandTrustDomain(one, trustDomains));
  const exact = new Set(all.filter((one) => !isPattern(one)).map((one) => `spiffe://${one}`));
  return matchAny(exact, all.filter(isPattern).map(compilePrincipal));
}

/**
 * A principal under every name of our trust domain: one of the form `td/ns/x/sa/y` that names our domain, one of its
 * aliases or `cluster.local`, which stands for both. Any other value is taken literally, as in Istio.
 */
export function expandTrustDomain(principal: string, trustDomains: readonly string[]): readonly string[] {
  const td = principal.slice(0, Math.max(0, principal.indexOf('/')));
  if (!/^[^/]*(?:\/[^/]*){4}$/.test(principal) || td === '*') return [principal];
  if (td !== 'cluster.local' && !trustDomains.some((one) => looksLike(td, one))) return [principal];
  const rest = principal.slice(td.length);
  // The usual case: one name.
  if (trustDomains.length === 1 && !td.startsWith('*')) return [trustDomains[0] + rest];
  // `*-td` also stays as it is, for the names that it matches.
  return [
    ...new Set(trustDomains.map((one) => (td.startsWith('*') && one.endsWith(td.slice(1)) ? principal : one + rest))),
  ];
}

/** Either side may hold a star at one end. */
function looksLike(a: string, b: string): boolean {
  const fits = (value: string, pattern: string): boolean =>
    (pattern.endsWith('*') && value.startsWith(pattern.slice(0, -1))) ||
    (pattern.startsWith('*') && value.endsWith(pattern.slice(1)));
  return a === b || fits(a, b) || fits(b, a);
}

/**
 * Namespaces, as Istio writes them into a regular expression over the whole URI: `.*\/ns/<value>/.*` with `*` for
 * anything. Any path that contains `/ns/x/` matches, wherever it stands.
 */
export function compileNamespaces(values: readonly string[]): Match {
  const tests = values.map((one): Match => {
    if (!one.includes('*')) return (uri) => uri.includes(`/ns/${one}/`);
    return compileGlob(`*/ns/${one}/*`);
  });
  return matchAny(new Set(), tests);
}

/** `<namespace>/<account>`, or `<account>` of the policy's namespace; no wildcards. */
export function compileServiceAccounts(values: readonly string[], namespace: string): Match {
  return matchAny(
    new Set(),
    values.map((one) => {
      const slash = one.indexOf('/');
      return slash === -1
        ? compileServiceAccount(namespace, one)
        : compileServiceAccount(one.slice(0, slash), one.slice(slash + 1));
    }),
  );
}

/** The whole of the URI is `spiffe://.+/ns/<ns>/(.+/|)sa/<sa>(/.+)?`. */
function compileServiceAccount(namespace: string, account: string): Match {
  const start = `/ns/${namespace}/`;
  const name = `sa/${account}`;
  const least = 'spiffe://x'.length;
  return function matchServiceAccount(uri) {
    for (let ns = uri.indexOf(start, least); ns !== -1; ns = uri.indexOf(start, ns + 1)) {
      const from = ns + start.length;
      for (let at = uri.indexOf(name, from); at !== -1; at = uri.indexOf(name, at + 1)) {
        const begins = at === from || (uri[at - 1] === '/' && at - 1 > from);
        const end = at + name.length;
        if (begins && (end === uri.length || (uri[end] === '/' && end + 1 < uri.length))) return true;
      }
    }
    return false;
  };
}

/** Trust domains: exact, `*` for any, or one star at an end that stands for characters of the name alone. */
export function compileTrustDomains(values: readonly string[], trustDomains: readonly string[]): Match {
  const all = [...new Set(values.flatMap((one) => (trustDomains.includes(one) ? trustDomains : [one])))];
  return matchAny(
    new Set(),
    all.map((one): Match => {
      if (one === '*') return (uri) => uri !== '';
      if (one.startsWith('*')) return (uri) => trustDomainOf(uri).endsWith(one.slice(1)) && uri !== '';
      if (one.endsWith('*')) return (uri) => uri !== '' && trustDomainOf(uri).startsWith(one.slice(0, -1));
      return (uri) => uri.startsWith(`spiffe://${one}/`);
    }),
  );
}

function trustDomainOf(uri: string): string {
  const from = 'spiffe://'.length;
  const slash = uri.indexOf('/', from);
  return uri.slice(from, slash === -1 ? uri.length : slash);
}

/** `issuer/subject`, split at the last slash, each side by its own rule. */
export function compileRequestPrincipals(
  values: readonly string[],
): (issuer: string | undefined, subject: string | undefined) => boolean {
  const tests = values.map(compileRequestPrincipal);
  return function matchRequestPrincipal(issuer, subject) {
    // An absent claim matches nothing, not even a star.
    if (issuer === undefined || subject === undefined) return false;
    return tests.some(([iss, sub]) => iss(issuer) && sub(subject));
  };
}

const present: Match = (value) => value !== '';
const equal = (wanted: string): Match => {
  return (value) => value === wanted;
};

function compileRequestPrincipal(value: string): readonly [Match, Match] {
  const slash = value.lastIndexOf('/');
  const issuer = slash === -1 ? value : value.slice(0, slash);
  const subject = slash === -1 ? '' : value.slice(slash + 1);
  if (value === '*') return [present, present];
  if (value.startsWith('*')) {
    if (slash === -1) return [present, compileOne(value)];
    return [issuer === '*' ? present : compileOne(issuer), equal(subject)];
  }
  if (value.endsWith('*')) {
    if (slash === -1) return [compileOne(value), present];
    return [equal(issuer), subject === '*' ? present : compileOne(subject)];
  }
  return [equal(issuer), equal(subject)];
}

/** True for a value with a star at an end; any other is compared as a whole. */
export function isPattern(value: string): boolean {
  return value.startsWith('*') || value.endsWith('*');
}

/** Any of the exact values or of the tests. */
export function matchAny(exact: ReadonlySet<string>, tests: readonly Match[]): Match {
  if (tests.length === 0) {
    const [only] = exact;
    // A Set hashes its argument; most fields have one value.
    if (exact.size === 1) return (value) => value === only;
    return (value) => exact.has(value);
  }
  const [first] = tests;
  if (exact.size === 0 && tests.length === 1) return first!;
  return (value) => exact.has(value) || tests.some((test) => test(value));
}

/** One value by the string rule. */
export function compileOne(pattern: string): Match {
  if (pattern === '*') return present;
  if (pattern.startsWith('*')) {
    const suffix = pattern.slice(1);
    return (value) => value.endsWith(suffix);
  }
  if (!pattern.endsWith('*')) return equal(pattern);
  const prefix = pattern.slice(0, -1);
  return (value) => value.startsWith(prefix);
}

/** A suffix of a principal is a suffix of the text after the scheme: `*` alone requires any identity at all. */
function compilePrincipal(pattern: string): Match {
  if (pattern === '*') return present;
  if (pattern.startsWith('*')) {
    const suffix = pattern.slice(1);
    const least = 'spiffe://'.length + suffix.length;
    return (uri) => uri.length >= least && uri.endsWith(suffix);
  }
  const prefix = `spiffe://${pattern.slice(0, -1)}`;
  return (uri) => uri.startsWith(prefix);
}

/** Stars anywhere, in linear time: each part is searched for after the previous one. */
function compileGlob(pattern: string): Match {
  const parts = pattern.split('*');
  const [first = '', last = ''] = [parts[0], parts.at(-1)];
  const middle = parts.slice(1, -1);
  return function matchGlob(value) {
    if (!value.startsWith(first) || !value.endsWith(last)) return false;
    let at = first.length;
    const end = value.length - last.length;
    for (const part of middle) {
      const found = value.indexOf(part, at);
      if (found === -1 || found + part.length > end) return false;
      at = found + part.length;
    }
    return at <= end;
  };
}
