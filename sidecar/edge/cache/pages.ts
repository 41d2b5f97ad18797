// Purging, on the admin port.

import type { Page } from '../../../cert-agent/base/admin.ts';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { printable } from '../../exchange/message.ts';
import { normalizeHost } from '../../policy/host.ts';
import type { Caches } from './caches.ts';
import type { Purge } from './store.ts';

const hint =
  'write {"url": "https://shop.example.com/a?b=c"}, {"prefix": "https://shop.example.com/a/"} or {"tag": "t"}';

/** `POST /cache/purge` with one of `url`, `prefix` and `tag`. */
export function purgePages(caches: Caches): readonly Page[] {
  return [
    {
      method: 'POST',
      path: '/cache/purge',
      sentence: 'removes stored responses by one of {"url"}, {"prefix"} and {"tag"}, in all workers',
      answer: ({ body }) => ({ body: { removed: caches.purge(readPurge(body)) } }),
    },
  ];
}

/** @throws SallyportError `usage` for anything but one of the three. */
function readPurge(body: unknown): Purge {
  const said = typeof body === 'object' && body !== null ? Object.entries(body) : [];
  const [one] = said;
  if (said.length !== 1 || one === undefined || typeof one[1] !== 'string' || one[1] === '')
    throw new SallyportError('usage', 'a purge names one of url, prefix and tag', { hint });
  const [key, value] = one;
  if (key === 'tag') return { tag: value };
  if (key === 'url' || key === 'prefix') return { [key]: spelled(value) };
  throw new SallyportError('usage', `a purge has no '${printable(key)}'`, { hint });
}

/** The URL in the spelling of the key. */
function spelled(url: string): string {
  const match = /^(https?):\/\/([^/?#]+)([/?][^#]*)?$/i.exec(url);
  const host = match === null ? undefined : normalizeHost(match[2]!);
  if (host === undefined) throw new SallyportError('usage', `'${printable(url)}' is not a URL with a host`, { hint });
  const path = match![3] ?? '/';
  return `${match![1]!.toLowerCase()}://${host}${path.startsWith('?') ? `/${path}` : path}`;
}
