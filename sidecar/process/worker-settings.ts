// The settings of one worker among several: the same ports, its share of each cap. Only the first has pages and an agent; the
// others read what that agent writes.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { pathsIn } from '../../cert-agent/identity/generation.ts';
import type { Settings } from '../config/settings.ts';

/**
 * What worker `index` (from 1) of `count` makes of the settings. Pure.
 * @throws SallyportError `config_invalid` for what several workers cannot share.
 */
export function shareOf(settings: Settings, index: number, count: number): Settings {
  if (count === 1) return settings;
  // Each would be given another port.
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
    // Each keeps its own; the first puts them together when it is asked.
    learn: settings.learn && { ...settings.learn, file: `${settings.learn.file}.${index}` },
  });
}

function fromFiles({ identity, trustDomain }: Settings): Settings['identity'] {
  if (identity.ca === undefined) return identity;
  const { svid, key, bundle, denied } = pathsIn(identity.ca.outDir, trustDomain);
  return { files: { svid, key, bundle, ...(denied === undefined ? {} : { denied }) } };
}
