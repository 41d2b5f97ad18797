// Addresses in configuration: `host:port`, `[v6]:port`, `:port`, `port`, `unix:path`.

import { isIP, isIPv6 } from 'node:net';
import { SallyportError } from './errors.ts';

/** A TCP address, IPv6 without brackets, or the path of a unix socket. Port 0: the system chooses. */
export type Address = { readonly host: string; readonly port: number } | { readonly path: string };

/**
 * Parses an address. `defaultHost` is used where only a port is given.
 * @throws SallyportError `config_invalid` when the text has none of these forms.
 */
export function parseAddress(text: string, defaultHost: string): Address {
  if (text.startsWith('unix:')) {
    // `unix:///run/a.sock` is the URL form. A path that kept two leading slashes would not survive a round trip.
    const path = text.slice('unix:'.length).replace(/^\/\//, '').replace(/^\/+/, '/');
    if (path === '') throw bad(text, 'the path is empty');
    // sun_path holds 108 bytes on Linux and 104 on macOS, with the final NUL. A longer path fails late, in connect().
    if (Buffer.byteLength(path) > 103) throw bad(text, 'a unix socket path has at most 103 bytes');
    return { path };
  }
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$|^(\d{1,5})$/.exec(text);
  if (match === null) throw bad(text, 'expected host:port, [v6]:port or unix:path');
  const [, v6, name, portText, bare] = match;
  const port = Number(portText ?? bare);
  if (port > 65_535) throw bad(text, `port ${port} is above 65535`);
  if (v6 !== undefined && !isIPv6(v6)) throw bad(text, `${v6} is not an IPv6 address`);
  const host = v6 ?? (name || defaultHost);
  if (isIP(host) === 0 && !/^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?$/.test(host))
    throw bad(text, `${host} is not a host name`);
  return { host, port };
}

/** The address as text that parseAddress accepts. */
export function formatAddress(address: Address): string {
  if ('path' in address) return `unix:${address.path}`;
  return isIPv6(address.host) ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/**
 * One end of a socket, `10.0.0.1:80` or `[fd00::1]:80`. An IPv4 peer on a dual-stack socket is written as IPv4.
 * Empty once the socket is closed.
 */
export function formatPlace(address: string | undefined, port: number | undefined): string {
  if (address === undefined || port === undefined) return '';
  return formatAddress({ host: address.replace(/^::ffff:(?=\d+\.)/, ''), port });
}

/** True for 127.0.0.0/8, ::1 and localhost, which only this machine can reach. */
export function isLoopback(host: string): boolean {
  const plain = host.replace(/^::ffff:/, '');
  return plain === '::1' || plain === 'localhost' || (isIP(plain) === 4 && plain.startsWith('127.'));
}

function bad(text: string, why: string): SallyportError {
  return new SallyportError('config_invalid', `'${text}' is not an address: ${why}`);
}
