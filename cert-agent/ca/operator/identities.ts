// Identities and certificates page by page, for commands: it loads nothing of the CA.

import type { StoredIdentity } from '../store/store.ts';

/** An identity with a summary of its certificates; times are milliseconds since 1970. */
export interface ListedIdentity extends Omit<StoredIdentity, 'newest'> {
  /** The kind of its newest key, such as `EC P-256` or `RSA 2048`. */
  readonly key: string;
}

/** The largest page of certificates. */
export const mostCertificates = 500;

/** The largest page of identities. */
export const mostIdentities = 200;

/** All identities, page by page. */
export async function* allIdentities(records: {
  identities(after: string, count: number): Promise<readonly ListedIdentity[]>;
}): AsyncGenerator<ListedIdentity> {
  for (let after = ''; ; ) {
    const page = await records.identities(after, mostIdentities);
    yield* page;
    const last = page.at(-1);
    if (last === undefined) return;
    after = last.id;
  }
}

type Last = Readonly<Record<'notAfter', number> & Record<'serial', string>>;

/** All certificates, page by page, in the order of expiry. */
export async function* allCertificates<Filter extends object, One extends Last>(
  operator: { list(filter: Filter & { after?: Last }): Promise<readonly One[]> },
  filter: Filter,
): AsyncGenerator<One> {
  for (let after: Last | undefined; ; ) {
    const page = await operator.list(after === undefined ? filter : { ...filter, after });
    yield* page;
    after = page.at(-1);
    if (page.length < mostCertificates) return;
  }
}
