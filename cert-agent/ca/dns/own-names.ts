// The names of the CA's own certificate: what it listens on, and what `--name` adds. Ordinary clients (curl, Prometheus)
// verify them; agents verify its SPIFFE ID.

import { lookup } from 'node:dns/promises';
import { isIP, isIPv4 } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { isLoopback } from '../../base/address.ts';
import { SallyportError } from '../../base/errors.ts';
import { mostNames, parseDnsName } from './name.ts';

/** Interfaces with more addresses than this have the rest left out: the certificate must fit in 8 KiB. */
const mostAddresses = 64;

/** What the machine is called, and its addresses now. */
export interface Machine {
  /** Possibly no DNS name. */
  hostname(): string;
  addresses(): readonly string[];
}

const thisMachine: Machine = {
  hostname,
  addresses: () => Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address)),
};

/**
 * The names for a listener on `host`, and those that are `given`: DNS names first. Ask again later: a machine's
 * addresses change. @throws SallyportError `dns_name_invalid` for one that is given.
 */
export async function ownNames(
  host: string,
  given: readonly string[] = [],
  machine = thisMachine,
): Promise<() => readonly string[]> {
  const more = given.map(parseOwnName);
  if (more.length > mostNames)
    throw new SallyportError('dns_name_invalid', `${more.length} names for the CA; ${mostNames} are the limit`);
  const bound = isIP(host) === 0 ? await addressesOf(host) : [plain(host)];
  return function namesNow() {
    const isEverywhere = bound.some((one) => one === '0.0.0.0' || one === '::');
    const addresses = isEverywhere ? addressesOfMachine(machine, bound.includes('::')) : bound;
    const names = [
      ...(isIP(host) === 0 ? [host.toLowerCase()] : []),
      ...(isEverywhere ? [machine.hostname().toLowerCase()] : []),
      ...(addresses.some(isLoopback) ? ['localhost'] : []),
    ];
    const dns = [...new Set([...names.filter(isDnsName), ...more.filter((one) => isIP(one) === 0)])];
    const ips = [...new Set([...more.filter((one) => isIP(one) !== 0), ...addresses])];
    return [...dns, ...ips.slice(0, mostAddresses)];
  };
}

function parseOwnName(text: string): string {
  return isIP(text) === 0 ? parseDnsName(text) : plain(text);
}

/** The listener reports a name without an address; there is nothing to add to it then. */
async function addressesOf(host: string): Promise<string[]> {
  const found = await lookup(host, { all: true }).catch(() => []);
  return found.map(({ address }) => plain(address)).filter((one) => !one.includes('%'));
}

/** Loopback first, since the rest may be cut. Addresses of one link mean nothing without its name. */
function addressesOfMachine(machine: Machine, withIPv6: boolean): string[] {
  let found: readonly string[] = [];
  try {
    found = machine.addresses();
  } catch {
    // Without descriptors there is no list. The names stay, and the next call may have it.
  }
  const usable = found.map(plain).filter((one) => isIP(one) !== 0 && !/^fe[89ab]/.test(one) && !one.includes('%'));
  const all = new Set(['127.0.0.1', ...(withIPv6 ? ['::1'] : []), ...usable]);
  return [...all].filter((one) => withIPv6 || isIPv4(one)).toSorted((a, b) => +isLoopback(b) - +isLoopback(a));
}

/** The one spelling of an address: that of the URL standard. */
function plain(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined || isIPv4(address) || address.includes('%')) return mapped ?? address;
  return new URL(`http://[${address}]`).hostname.slice(1, -1);
}

/** A machine's name may have characters that no certificate has. */
function isDnsName(text: string): boolean {
  try {
    parseDnsName(text);
    return true;
  } catch {
    return false;
  }
}
