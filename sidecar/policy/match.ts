// Istio's string rule, compiled: each list of values becomes one closure. `*` is 'present and not empty'; else a leading
// star is a suffix match, else a trailing star a prefix match, else the value must be equal. The leading star wins, so
// `*abc*` is a suffix match on `abc*` with a literal star, surprising as that is.

export type Match = (value: string) => boolean;

/** Any of `values`; undefined when the field is absent and not asked. */
export function compileStrings(values: readonly string[] | undefined, ignoreCase = false): Match | undefined {
  if (values === undefined) return undefined;
  const wanted = ignoreCase ? values.map((one) => one.toLowerCase()) : values;
  const exact = new Set(wanted.filter((one) => !isPattern(one)));
  const match = matchAny(exact, wanted.filter(isPattern).map(compileOne));
  return ignoreCase ? (value) => match(value.toLowerCase()) : match;
}

/** Principals are matched as SPIFFE URIs; the values come without the scheme. */
export function compilePrincipals(values: readonly string[] | undefined, trustDomain: string): Match | undefined {
  if (values === undefined) return undefined;
  const local = values.map((one) => localTrustDomain(one, trustDomain));
  const exact = new Set(local.filter((one) => !isPattern(one)).map((one) => `spiffe://${one}`));
  return matchAny(exact, local.filter(isPattern).map(compilePrincipal));
}

/**
 * Namespaces, as Istio writes them into a regular expression over the whole URI: `.*\/ns/<value>/.*` with `*` for
 * anything. Any path that contains `/ns/x/` matches, wherever it stands.
 */
export function compileNamespaces(values: readonly string[] | undefined): Match | undefined {
  if (values === undefined) return undefined;
  const tests = values.map((one) => {
    if (!one.includes('*')) return (uri: string) => uri.includes(`/ns/${one}/`);
    return compileGlob(`*/ns/${one}/*`);
  });
  return matchAny(new Set(), tests);
}

/** Ports by number: any of `yes` and none of `no`. */
export function compilePorts(
  yes: readonly string[] | undefined,
  no: readonly string[] | undefined,
): ((port: number) => boolean) | undefined {
  if (yes === undefined && no === undefined) return undefined;
  const wanted = yes === undefined ? undefined : new Set(yes.map(Number));
  const unwanted = new Set((no ?? []).map(Number));
  return (port) => (wanted === undefined || wanted.has(port)) && !unwanted.has(port);
}

/** `cluster.local/...` in a principal means our own trust domain, whatever its name. */
export function localTrustDomain(principal: string, trustDomain: string): string {
  return principal.replace(/^cluster\.local(?=\/|$)/, trustDomain);
}

function matchAny(exact: ReadonlySet<string>, tests: readonly Match[]): Match {
  if (tests.length === 0) return (value) => exact.has(value);
  const [only] = tests;
  if (exact.size === 0 && tests.length === 1 && only !== undefined) return only;
  return (value) => exact.has(value) || tests.some((test) => test(value));
}

function isPattern(value: string): boolean {
  return value.startsWith('*') || value.endsWith('*');
}

function compileOne(pattern: string): Match {
  if (pattern === '*') return (value) => value !== '';
  if (pattern.startsWith('*')) {
    const suffix = pattern.slice(1);
    return (value) => value.endsWith(suffix);
  }
  const prefix = pattern.slice(0, -1);
  return (value) => value.startsWith(prefix);
}

/** A suffix of a principal is a suffix of what follows the scheme: `*` alone asks for any identity at all. */
function compilePrincipal(pattern: string): Match {
  if (pattern === '*') return (uri) => uri !== '';
  if (pattern.startsWith('*')) {
    const suffix = pattern.slice(1);
    const least = 'spiffe://'.length + suffix.length;
    return (uri) => uri.length >= least && uri.endsWith(suffix);
  }
  const prefix = `spiffe://${pattern.slice(0, -1)}`;
  return (uri) => uri.startsWith(prefix);
}

/** Stars anywhere, in linear time: each part is looked for after the one before it. */
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
