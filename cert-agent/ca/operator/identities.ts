// Identities page by page, for commands: it loads nothing of the CA.

import type { ListedIdentity, Records } from './records.ts';

/** The largest page of identities. */
export const mostIdentities = 200;

/** All identities, page by page. */
export async function* allIdentities(records: Records): AsyncGenerator<ListedIdentity> {
  for (let after = ''; ; ) {
    const page = await records.identities(after, mostIdentities);
    yield* page;
    const last = page.at(-1);
    if (last === undefined) return;
    after = last.id;
  }
}
