// Purging, on the admin port.

import type { Page } from '../../../cert-agent/base/admin.ts';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { printable } from '../../exchange/message.ts';
import { normalizeHost } from '../../policy/host.ts';
import type { Caches } from './caches.ts';
import { spellingsOf } from './key.ts';
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
      answer({ body }) {
        const removed = readPurge(body).map((purge) => caches.purge(purge));
        return { body: { removed: removed.reduce((sum, one) => sum + one, 0) } };
      },
    },
  ];
}

/** @throws SallyportError `usage` for anything but one of the three. */
function readPurge(body: unknown): readonly Purge[] {
  const said = typeof body === 'object' && body !== null ? Object.entries(body) : [];
  const [one] = said;
  if (said.length !== 1 || one === undefined || typeof one[1] !== 'string' || one[1] === '')
    throw new SallyportError('usage', 'a purge names one of url, prefix and tag', { hint });
  const [key, value] = one;
  if (key === 'tag') return [{ tag: value }];
  if (key === 'url' || key === 'prefix') return spelled(value).map((one) => ({ [key]: one }));
  throw new SallyportError('usage', `a purge has no '${printable(key)}'`, { hint });
}

const defaultPorts: Readonly<Record<string, string>> = { http: ':80', https: ':443' };

/**
 * The URL in the spellings that the key may have: with and without the default port, which stays as clients write it,
 * and with the path as written and as any setting of `pathNormalization` writes it.
 */
function spelled(url: string): readonly string[] {
  const match = /^(https?):\/\/([^/?#]+)([/?][^#]*)?$/i.exec(url);
  const host = match === null ? undefined : normalizeHost(match[2]!);
  if (host === undefined) throw new SallyportError('usage', `'${printable(url)}' is not a URL with a host`, { hint });
  const scheme = match![1]!.toLowerCase();
  const port = defaultPorts[scheme]!;
  // Clients write such characters as escapes.
  const path = (match![3] ?? '/').replace(/[^\x21-\x7e]+/g, (text) => encodeURIComponent(text.toWellFormed()));
  const hosts = host.endsWith(port)
    ? [host, host.slice(0, -port.length)]
    : /:\d+$/.test(host)
      ? [host]
      : [host, host + port];
  return hosts.flatMap((one) => spellingsOf(`${scheme}://${one}${path.startsWith('?') ? `/${path}` : path}`));
}
