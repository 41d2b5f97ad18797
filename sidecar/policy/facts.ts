// The attributes of a request or a TCP stream that policy evaluates: plain values, independent of their source.

import { foldName } from './header-name.ts';
import { normalizeHost } from './host.ts';
import type { Ip } from './ip.ts';

/** Claims of a verified token. */
export interface RequestAuth {
  readonly issuer: string | undefined;
  readonly subject: string | undefined;
  /** `<iss>/<sub>` where the token has both. */
  readonly principal: string | undefined;
  readonly claims: Readonly<Record<string, unknown>>;
}

/** An absent attribute is '' or undefined: it matches nothing, and every negation of it holds. */
export interface RequestFacts {
  readonly protocol: 'http' | 'tcp';
  /** The peer's SPIFFE URI; '' for one without identity. */
  readonly principal: string;
  readonly method: string;
  /** Normalised, without query. */
  readonly path: string;
  /** The authority as it was received. */
  readonly host: string;
  /** The app's port, not ours. */
  readonly port: number;
  /** The direct peer's address. */
  readonly sourceIp: Ip | undefined;
  /** The client's address by `x-forwarded-for` and the trusted hops. */
  readonly remoteIp: Ip | undefined;
  readonly destinationIp: Ip | undefined;
  readonly sni: string;
  readonly auth: RequestAuth | undefined;
  /** Name in lower case; several of one name are joined by commas. */
  header(name: string): string | undefined;
}

/** Facts from the known ones; the rest is absent. */
export function createFacts(
  known: Partial<Omit<RequestFacts, 'header'>> & { readonly headers?: Readonly<Record<string, string>> },
): RequestFacts {
  const { headers = {}, ...rest } = known;
  const byName = new Map<string, string>();
  for (const [name, value] of Object.entries(headers)) {
    const folded = foldName(name.toLowerCase());
    const before = byName.get(folded);
    byName.set(folded, before === undefined ? value : `${before},${value}`);
  }
  return {
    protocol: 'http',
    principal: '',
    method: '',
    path: '',
    host: '',
    port: 0,
    sourceIp: undefined,
    remoteIp: undefined,
    destinationIp: undefined,
    sni: '',
    auth: undefined,
    ...rest,
    ...(rest.host === undefined ? {} : { host: normalizeHost(rest.host) ?? rest.host }),
    header: (name) => byName.get(foldName(name)),
  };
}

/** The `request.auth` of a token with these claims. Claims that hold several words in one string become lists. */
export function readClaims(
  claims: Readonly<Record<string, unknown>>,
  spaceDelimited: readonly string[] = [],
): RequestAuth {
  const split = new Set(['scope', 'permission', ...spaceDelimited]);
  const normal = Object.fromEntries(
    Object.entries(claims).map(([name, value]) => [
      name,
      split.has(name) && typeof value === 'string' ? value.split(' ').filter(Boolean) : value,
    ]),
  );
  const issuer = typeof claims['iss'] === 'string' ? claims['iss'] : undefined;
  const subject = typeof claims['sub'] === 'string' ? claims['sub'] : undefined;
  return {
    issuer,
    subject,
    principal: issuer === undefined || subject === undefined ? undefined : `${issuer}/${subject}`,
    claims: normal,
  };
}
