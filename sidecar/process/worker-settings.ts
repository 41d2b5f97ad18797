// The settings of one of several workers: the same ports, and its share of each limit. Only the first has pages and an
// agent; the others read the files that the agent writes.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { pathsIn } from '../../cert-agent/identity/generation.ts';
import type { Settings } from '../config/settings.ts';

/**
 * Derives the settings of worker `index` (from 1) of `count`. Pure.
 * @throws SallyportError `config_invalid` for settings that several workers cannot share.
 */
export function shareOf(settings: Settings, index: number, count: number): Settings {
  if (count === 1) return settings;
  // Each worker would get another port.
  const isOpen =
    [...settings.inbound, ...settings.outbound].some(({ port }) => port === 0) ||
    Object.values(settings.gateway?.listeners ?? {}).some((address) => address.endsWith(':0'));
  if (isOpen)
    throw new SallyportError('config_invalid', 'several workers need port numbers: port 0 gives each of them another');
  const share = (whole: number): number => Math.max(1, Math.ceil(whole / count));
  const { connections, pendingRequests, heldBytes } = settings.limits;
  const limits = Object.freeze({
    ...settings.limits,
    connections: share(connections),
    pendingRequests: share(pendingRequests),
    heldBytes: share(heldBytes),
  });
  if (index === 1) return Object.freeze({ ...settings, limits });
  return Object.freeze({
    ...settings,
    limits,
    admin: undefined,
    health: undefined,
    identity: fromFiles(settings),
    // Each worker keeps its own; the first merges them on request.
    learn: settings.learn && { ...settings.learn, file: `${settings.learn.file}.${index}` },
  });
}

function fromFiles({ identity, trustDomain }: Settings): Settings['identity'] {
  if (identity.ca === undefined) return identity;
  const { svid, key, bundle, denied } = pathsIn(identity.ca.outDir, trustDomain);
  return { files: { svid, key, bundle, ...(denied === undefined ? {} : { denied }) } };
}
